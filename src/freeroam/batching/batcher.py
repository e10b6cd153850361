"""The bounded queue of one model: admits requests, keeps places, and hands out batches by the policy."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable

from freeroam.batching.policy import BatchRules, Credit, Line, decide
from freeroam.batching.ticket import Keeper, Ticket
from freeroam.clock import Clock
from freeroam.vocabulary.errors import DeadlineExceeded, FreeroamError, InvalidInput, QueueFull, TooLarge
from freeroam.vocabulary.inference import InferenceRequest, Priority

MAX_REQUEST_BYTES = 192 * 1024 * 1024
SHARES = {Priority.HIGH: 1.0, Priority.NORMAL: 0.9, Priority.LOW: 0.75}
"""How full the queue may be for a priority to be admitted, so that lower ones never lock a higher one out."""


class Place:
    """A place in a queue that is kept for a request which is being made ready.

    Args:
        batcher: Whose queue.
    """

    __slots__ = ("_batcher",)

    def __init__(self, batcher: Batcher) -> None:
        self._batcher: Batcher | None = batcher
        batcher.reserved += 1

    @property
    def is_held(self) -> bool:
        """Whether it was not given back yet."""
        return self._batcher is not None

    def release(self) -> None:
        """Give it back; does nothing the second time."""
        if self._batcher is not None:
            self._batcher.reserved -= 1
            self._batcher = None


class Batcher:
    """The queue of one model.

    Args:
        rules: How batches are made; may be exchanged at run time.
        max_queue: Requests that may wait; lower priorities are refused before it is full (``SHARES``).
        clock: Where time comes from.
        keeper: Whose tickets these are.

    Attributes:
        reserved: Places kept for requests that are being made ready; they count as if they waited.
    """

    def __init__(self, rules: BatchRules, max_queue: int, clock: Clock, keeper: Keeper | None = None) -> None:
        self.rules = rules
        self.max_queue = max_queue
        self.reserved = 0
        self._clock = clock
        self._keeper = keeper
        self._line = Line()
        self._tickets: dict[int, Ticket] = {}
        self._keys = itertools.count(1)

    def __len__(self) -> int:
        return len(self._line)

    def count(self, priority: Priority) -> int:
        """Return how many requests of one priority wait."""
        return self._line.count(priority)

    def reserve(self, priority: Priority) -> Place:
        """Keep a place for a request that is still being made ready.

        Raises:
            QueueFull: As many wait as may, of this priority.
        """
        self._check_room(priority)
        return Place(self)

    def admit(self, request: InferenceRequest, *, has_place: bool = False) -> Ticket:
        """Let a request wait; counts before anything costly is done for it.

        Args:
            request: What is asked.
            has_place: Whether it was counted before, by a ``Place`` that has just been released.

        Raises:
            QueueFull: As many wait as may, of this priority.
            DeadlineExceeded: Its deadline has passed already.
            TooLarge: Its frames are more than one message to a replica can carry.
            InvalidInput: A frame's pixels do not fill its size.
        """
        if not has_place:
            self._check_room(request.priority)
        now_s = self._clock.monotonic_s()
        if request.deadline_monotonic_s is not None and request.deadline_monotonic_s <= now_s:
            raise DeadlineExceeded("the request's deadline had passed when it came")
        size = request_bytes(request) if request.frames else 0
        waiting = asyncio.get_running_loop().create_future()
        ticket = Ticket(next(self._keys), request, now_s, waiting, size, self._keeper)
        self._tickets[ticket.key] = ticket
        self._line.add(ticket.entry())
        return ticket

    def give_away(self) -> list[Ticket]:
        """Take out and return all that may be answered by another version, in the order in which they came."""
        tickets = [ticket for ticket in self._tickets.values() if not ticket.is_pinned]
        for ticket in tickets:
            self.remove(ticket)
        return sorted(tickets, key=_age)

    def take_in(self, tickets: Iterable[Ticket]) -> None:
        """Let requests wait here that waited elsewhere; they keep the place that their age gives them.

        They were admitted before, so no bound is asked.
        """
        waiting = [ticket for ticket in tickets if not ticket.is_over]
        for ticket in waiting:
            ticket.key, ticket.keeper, ticket.seat = next(self._keys), self._keeper, None
        waiting = sorted([*waiting, *self._tickets.values()], key=_age)
        self._tickets = {ticket.key: ticket for ticket in waiting}
        self._line = Line()
        for ticket in waiting:
            self._line.add(ticket.entry())

    def put_back(self, tickets: list[Ticket]) -> None:
        """Give requests that were taken their place back, ahead of all others, in order."""
        for ticket in reversed(tickets):
            if not ticket.is_over:
                ticket.seat = None
                self._tickets[ticket.key] = ticket
                self._line.add(ticket.entry(), is_first=True)

    def remove(self, ticket: Ticket) -> bool:
        """Take one out; return whether it still waited."""
        self._tickets.pop(ticket.key, None)
        return self._line.remove(ticket.key)

    def next_batch(self, credit: Credit, expected_s: float, lead_s: float) -> tuple[list[Ticket], float | None]:
        """Return the batch to send now, or nothing and the seconds after which to ask again (None: when news come)."""
        decision = decide(self._line, credit, self.rules, self._clock.monotonic_s(), expected_s, lead_s)
        return [self._tickets.pop(entry.key) for entry in decision.batch], decision.wait_s

    def expire(self) -> list[Ticket]:
        """Take out those whose deadline passed, fail them with ``DeadlineExceeded`` and return them."""
        expired = [self._tickets.pop(entry.key) for entry in self._line.take_expired(self._clock.monotonic_s())]
        for ticket in expired:
            ticket.fail(DeadlineExceeded("the request's deadline passed while it waited for the model"))
        return expired

    @property
    def first_deadline_s(self) -> float | None:
        """The earliest deadline of those that wait."""
        return self._line.first_deadline_s

    def _check_room(self, priority: Priority) -> None:
        bound = max(1, int(self.max_queue * SHARES[priority]))
        taken = len(self._line) + self.reserved
        if taken >= bound:
            raise QueueFull(
                f"{taken} requests wait for the model; {bound} may at priority {priority.name}", retry_after_s=1.0
            )

    def fail_all(self, error: Callable[[], FreeroamError]) -> int:
        """Fail everything that waits, each with an error of its own; return how many that were."""
        tickets = list(self._tickets.values())
        for ticket in tickets:
            self.remove(ticket)
            ticket.fail(error())
        return len(tickets)


def request_bytes(request: InferenceRequest) -> int:
    """Return the size of a request's frames.

    Raises:
        TooLarge: They are more than one message to a replica can carry.
        InvalidInput: A frame's pixels do not fill its size.
    """
    size = sum(frame.size_bytes for frame in request.frames)
    if size > MAX_REQUEST_BYTES:
        raise TooLarge(f"the frames of the request are {size} bytes; at most {MAX_REQUEST_BYTES} can be sent")
    for frame in request.frames:
        if memoryview(frame.pixels).nbytes != frame.size_bytes:
            raise InvalidInput(f"frame {frame.frame_id} is not {frame.width_px}x{frame.height_px} pixels of RGB")
    return size


def _age(ticket: Ticket) -> float:
    return ticket.admitted_s
