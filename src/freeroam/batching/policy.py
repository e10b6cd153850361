"""Which waiting requests make the next batch, and when: data in, data out, no time read and nothing awaited.

The rules, in order:

1. Higher priorities first. A priority whose oldest request has waited ``max_priority_wait_s`` gets the next place and
   then every second one, so nothing starves and nothing that starves takes the whole model. One such request therefore
   begins with the first batch that is made after that time; of many, one is served for each of a higher priority, and
   with ``n`` lanes that starve the first of each lane has been served after ``2 n`` places at most.
2. Inside a priority lanes take turns, one request a turn, so a lane with a thousand requests delays another lane's one
   by a single place.
3. An idle model waits for nobody. For a busy one the batch is closed when its window ends: ``max_wait_s`` after the
   oldest request came, sooner if a deadline would be missed, later while the model is known to be busy anyway.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from freeroam.vocabulary.inference import Priority

MAX_BATCH = 64
_LEVELS = tuple(Priority)
_HEAP_SLACK = 256


@dataclass(frozen=True, slots=True)
class BatchRules:
    """What an operator sets; may be exchanged while requests wait.

    Attributes:
        max_batch: Requests in one model call, 1 to 64.
        max_wait_s: Longest wait for a fuller batch, from the oldest request on.
        max_priority_wait_s: After this a request is no longer held back by higher priorities.
        max_cost: Sum of costs in one batch; a single request may be over it.
    """

    max_batch: int = 8
    max_wait_s: float = 0.005
    max_priority_wait_s: float = 5.0
    max_cost: int = 64 * 1024 * 1024

    def __post_init__(self) -> None:
        if not 1 <= self.max_batch <= MAX_BATCH:
            raise ValueError(f"max_batch is {self.max_batch}; it must be 1 to {MAX_BATCH}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One waiting request, as far as the rules look at it.

    Attributes:
        key: Unique while it waits.
        priority: Who goes first.
        lane: Whose turn it uses.
        enqueued_s: When it was admitted.
        deadline_s: After this it is worth nothing; None waits for ever.
        cost: Bytes of its frames.
        is_alone: Goes into no batch with others: it may have killed a replica.
    """

    key: int
    priority: Priority
    lane: str
    enqueued_s: float
    deadline_s: float | None = None
    cost: int = 0
    is_alone: bool = False


@dataclass(frozen=True, slots=True)
class Credit:
    """Room for one more batch.

    Attributes:
        slots: Requests it may hold.
        free_in_s: 0 if the model is idle; seconds until it is expected to want this batch; None if it is busy and
            nobody knows for how long.
    """

    slots: int
    free_in_s: float | None = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now.

    Attributes:
        batch: Requests to send now, taken off the line; empty if none.
        wait_s: Ask again after this; None if nothing changes with time alone.
    """

    batch: tuple[Entry, ...] = ()
    wait_s: float | None = None


class Line:
    """The requests that wait for one model, arranged so that every operation costs the same however many wait."""

    def __init__(self) -> None:
        self._entries: dict[int, Entry] = {}
        self._lanes: dict[Priority, OrderedDict[str, OrderedDict[int, Entry]]] = {
            level: OrderedDict() for level in Priority
        }
        self._ages: dict[Priority, OrderedDict[int, Entry]] = {level: OrderedDict() for level in Priority}
        self._deadlines: list[tuple[float, int]] = []
        self._is_turn_of_aged = True

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: int) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def count(self, priority: Priority) -> int:
        """Return how many of one priority wait."""
        return len(self._ages[priority])

    def add(self, entry: Entry, *, is_first: bool = False) -> None:
        """Let a request wait; ``is_first`` gives back the place of one that had its turn already."""
        self._entries[entry.key] = entry
        lanes, ages = self._lanes[entry.priority], self._ages[entry.priority]
        lane = lanes.setdefault(entry.lane, OrderedDict())
        lane[entry.key] = ages[entry.key] = entry
        if is_first:
            lane.move_to_end(entry.key, last=False)
            lanes.move_to_end(entry.lane, last=False)
            ages.move_to_end(entry.key, last=False)
        if entry.deadline_s is not None:
            heapq.heappush(self._deadlines, (entry.deadline_s, entry.key))
            if len(self._deadlines) > 2 * len(self._entries) + _HEAP_SLACK:
                self._deadlines = [pair for pair in self._deadlines if pair[1] in self._entries]
                heapq.heapify(self._deadlines)

    def remove(self, key: int) -> bool:
        """Take one out, whatever its place; return whether it was there."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        self._forget(entry)
        return True

    def take_expired(self, now_s: float) -> list[Entry]:
        """Take out and return the requests whose deadline has passed."""
        expired = []
        while (first_s := self.first_deadline_s) is not None and first_s <= now_s:
            _, key = heapq.heappop(self._deadlines)
            expired.append(self._entries[key])
            self.remove(key)
        return expired

    @property
    def first_deadline_s(self) -> float | None:
        """The earliest deadline of those that wait; None if none has one."""
        while self._deadlines and self._deadlines[0][1] not in self._entries:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    @property
    def oldest_s(self) -> float | None:
        """When the one that waits longest came; None if nobody waits."""
        heads = [next(iter(ages.values())).enqueued_s for ages in self._ages.values() if ages]
        return min(heads) if heads else None

    def take(self, slots: int, rules: BatchRules, now_s: float) -> tuple[Entry, ...]:
        """Take out and return the next batch: at most ``slots`` requests, and what ``rules`` allow.

        Args:
            slots: Room where it goes.
            rules: What is allowed.
            now_s: When the batch is expected to begin, which is what waiting is measured to.
        """
        batch: list[Entry] = []
        cost = 0
        while self._entries and len(batch) < min(slots, rules.max_batch):
            was_turn_of_aged = self._is_turn_of_aged
            level = self._next_level(rules, now_s)
            lanes = self._lanes[level]
            name, lane = next(iter(lanes.items()))
            entry = next(iter(lane.values()))
            if batch and (entry.is_alone or cost + entry.cost > rules.max_cost):
                # Its turn is not over: the next batch begins with it, or one that fits no batch would starve.
                self._is_turn_of_aged = was_turn_of_aged
                break
            lanes.move_to_end(name)
            self._forget(entry)
            batch.append(entry)
            cost += entry.cost
            if entry.is_alone:
                break
        return tuple(batch)

    def _next_level(self, rules: BatchRules, now_s: float) -> Priority:
        waiting = [level for level in _LEVELS if self._ages[level]]
        first = waiting[0]
        if len(waiting) == 1:
            return first
        oldest_s, aged = min((next(iter(self._ages[level].values())).enqueued_s, level) for level in waiting[1:])
        if now_s - oldest_s < rules.max_priority_wait_s:
            self._is_turn_of_aged = True
            return first
        is_turn, self._is_turn_of_aged = self._is_turn_of_aged, not self._is_turn_of_aged
        return aged if is_turn else first

    def _forget(self, entry: Entry) -> None:
        del self._entries[entry.key]
        del self._ages[entry.priority][entry.key]
        lane = self._lanes[entry.priority][entry.lane]
        del lane[entry.key]
        if not lane:
            del self._lanes[entry.priority][entry.lane]


def decide(line: Line, credit: Credit, rules: BatchRules, now_s: float, expected_s: float, lead_s: float) -> Decision:
    """Return the batch to send now, or how long to wait for one.

    Args:
        line: Who waits; a batch that is returned has been taken off it. Expired requests must be taken out before.
        credit: Where the batch would go.
        rules: What is allowed.
        now_s: Monotonic seconds.
        expected_s: How long a model call is expected to take.
        lead_s: How long before the model wants it a batch should be on its way.
    """
    oldest_s = line.oldest_s
    if oldest_s is None or credit.slots < 1:
        return Decision()
    begins_s = now_s + (credit.free_in_s or 0.0)
    if credit.free_in_s == 0.0:
        return Decision(batch=line.take(credit.slots, rules, begins_s))
    closes_s = oldest_s + rules.max_wait_s
    deadline_s = line.first_deadline_s
    if deadline_s is not None:
        closes_s = min(closes_s, deadline_s - expected_s)
    if credit.free_in_s is not None:
        closes_s = max(closes_s, now_s + credit.free_in_s - lead_s)
    elif len(line) >= min(credit.slots, rules.max_batch):
        closes_s = now_s
    if closes_s <= now_s:
        return Decision(batch=line.take(credit.slots, rules, begins_s))
    return Decision(wait_s=closes_s - now_s)
