"""The bounded queue of one model: admits requests, keeps what belongs to each, and hands out batches by the policy."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from freeroam.batching.policy import BatchRules, Credit, Entry, Line, decide
from freeroam.clock import Clock
from freeroam.vocabulary.errors import DeadlineExceeded, FreeroamError, InvalidInput, QueueFull, TooLarge
from freeroam.vocabulary.inference import InferenceRequest, Output, Piece, Priority

MAX_REQUEST_BYTES = 192 * 1024 * 1024
SHARES = {Priority.HIGH: 1.0, Priority.NORMAL: 0.9, Priority.LOW: 0.75}
"""How full the queue may be for a priority to be admitted, so that lower ones never lock a higher one out."""

_ATTEMPTS = 2


@dataclass(slots=True, eq=False)
class Ticket:
    """One admitted request on its way to an answer.

    Attributes:
        key: Unique in its queue.
        request: What was asked.
        admitted_s: Monotonic time of admission.
        answer: Resolved once, with the output or the error.
        losses: Replicas that died while they answered it.
        tokens: Pieces of its text so far, one token each.
        given: How many of ``tokens`` a listener was given.
    """

    key: int
    request: InferenceRequest
    admitted_s: float
    answer: asyncio.Future[Output]
    losses: int = 0
    tokens: list[str] = field(default_factory=list)
    given: int = 0
    _news: asyncio.Future[None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether it was answered, failed or cancelled."""
        return self.answer.done()

    @property
    def has_piece(self) -> bool:
        """Whether tokens have come that were not given out."""
        return self.given < len(self.tokens)

    @property
    def may_be_asked_again(self) -> bool:
        """Whether nothing of an answer was given out and it has not had its second chance."""
        return self.losses < _ATTEMPTS and self.given == 0

    def entry(self) -> Entry:
        """Return what the batching policy looks at."""
        request = self.request
        return Entry(
            key=self.key,
            priority=request.priority,
            lane=request.lane,
            enqueued_s=self.admitted_s,
            deadline_s=request.deadline_monotonic_s,
            cost=request_bytes(request),
            is_alone=self.losses > 0,
        )

    def speak(self, texts: list[str]) -> None:
        """Take in further tokens; whoever listens is woken and gets all that it has not had as one piece."""
        self.tokens.extend(texts)
        self.wake()

    def take_piece(self) -> Piece | None:
        """Return the tokens that were not given out yet, joined; None if there are none."""
        waiting = self.tokens[self.given :]
        if not waiting:
            return None
        piece = Piece("".join(waiting), self.given, len(waiting))
        self.given = len(self.tokens)
        return piece

    async def news(self) -> None:
        """Wait until there is a piece to take or the ticket is over."""
        while not self.is_over and self.given == len(self.tokens):
            self._news = asyncio.get_running_loop().create_future()
            await self._news

    def resolve(self, output: Output) -> None:
        """Answer it; nothing if it is over."""
        if not self.answer.done():
            self.answer.set_result(output)
            self.wake()

    def fail(self, error: BaseException) -> None:
        """Fail it; nothing if it is over."""
        if not self.answer.done():
            self.answer.set_exception(error)
            # Whoever asked may be gone; then nobody fetches the error, which is no fault.
            self.answer.exception()
            self.wake()

    def wake(self) -> None:
        """Wake the listener to pieces, if one waits."""
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class Place:
    """A place in a queue that is kept for a request which is being made ready.

    Args:
        batcher: Whose queue.
    """

    __slots__ = ("_batcher",)

    def __init__(self, batcher: Batcher) -> None:
        self._batcher: Batcher | None = batcher
        batcher.reserved += 1

    def release(self) -> None:
        """Give it back; does nothing the second time, or once a request has taken it."""
        if self._batcher is not None:
            self._batcher.reserved -= 1
            self._batcher = None


class Batcher:
    """The queue of one model.

    Args:
        rules: How batches are made; may be exchanged at run time.
        max_queue: Requests that may wait; lower priorities are refused before it is full (``SHARES``).
        clock: Where time comes from.

    Attributes:
        reserved: Places kept for requests that are being made ready; they count as if they waited.
    """

    def __init__(self, rules: BatchRules, max_queue: int, clock: Clock) -> None:
        self.rules = rules
        self.max_queue = max_queue
        self.reserved = 0
        self._clock = clock
        self._line = Line()
        self._tickets: dict[int, Ticket] = {}
        self._keys = itertools.count(1)

    def __len__(self) -> int:
        return len(self._line)

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
        if (size := request_bytes(request)) > MAX_REQUEST_BYTES:
            raise TooLarge(f"the frames of the request are {size} bytes; at most {MAX_REQUEST_BYTES} can be sent")
        for frame in request.frames:
            if memoryview(frame.pixels).nbytes != frame.width_px * frame.height_px * 3:
                raise InvalidInput(f"frame {frame.frame_id} is not {frame.width_px}x{frame.height_px} pixels of RGB")
        ticket = Ticket(next(self._keys), request, now_s, asyncio.get_running_loop().create_future())
        self._tickets[ticket.key] = ticket
        self._line.add(ticket.entry())
        return ticket

    def put_back(self, tickets: list[Ticket]) -> None:
        """Give requests that were taken their place back, ahead of all others, in order."""
        for ticket in reversed(tickets):
            if not ticket.is_over:
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
    """Return the size of a request's frames."""
    return sum(frame.width_px * frame.height_px * 3 for frame in request.frames)
