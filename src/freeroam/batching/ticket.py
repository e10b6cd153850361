"""One admitted request on its way to an answer, wherever it is: in a queue, at a replica, or over."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from freeroam.batching.policy import Entry
from freeroam.vocabulary.inference import InferenceRequest, Output, Piece

_ATTEMPTS = 2


class Keeper(Protocol):
    """Who has a ticket now."""

    def abandon(self, ticket: Ticket) -> None:
        """Drop it, since nobody waits for its answer any more."""


class Seat(Protocol):
    """Where a ticket is that has left the queue."""

    def leave(self, ticket: Ticket) -> None:
        """Tell whoever answers it that nobody waits for it."""


@dataclass(slots=True, eq=False)
class Ticket:
    """One admitted request on its way to an answer.

    Attributes:
        key: Unique in its queue.
        request: What was asked.
        admitted_s: Monotonic time of admission.
        answer: Resolved once, with the output or the error.
        cost: Bytes of its frames.
        keeper: Whose it is; another version's once it has moved there.
        seat: Where it is being answered; None while it waits or when it is over.
        losses: Replicas that died while they answered it.
        tokens: Pieces of its text so far, one token each.
        given: How many of ``tokens`` a listener was given.
    """

    key: int
    request: InferenceRequest
    admitted_s: float
    answer: asyncio.Future[Output]
    cost: int = 0
    keeper: Keeper | None = None
    seat: Seat | None = None
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
    def is_pinned(self) -> bool:
        """Whether it names its version, so that no other may answer it."""
        return "@" in self.request.model

    @property
    def may_be_asked_again(self) -> bool:
        """Whether nothing of an answer was given out and it has not had its second chance."""
        return self.losses < _ATTEMPTS and self.given == 0

    def entry(self) -> Entry:
        """Return what the batching policy looks at."""
        request = self.request
        return Entry(
            self.key,
            request.priority,
            request.lane,
            self.admitted_s,
            request.deadline_monotonic_s,
            self.cost,
            self.losses > 0,
        )

    def abandon(self) -> None:
        """Take it out of wherever it is, since nobody waits for its answer any more."""
        if self.keeper is not None:
            self.keeper.abandon(self)

    def speak(self, texts: list[str]) -> None:
        """Take in further tokens; whoever listens is woken and gets all that it has not had as one piece."""
        self.tokens += texts
        if self._news is not None:
            self.wake()

    def take_piece(self) -> Piece | None:
        """Return the tokens that were not given out yet, joined; None if there are none."""
        given, count = self.given, len(self.tokens)
        if given == count:
            return None
        self.given = count
        if count - given == 1:
            return Piece(self.tokens[given], given)
        return Piece("".join(self.tokens[given:]), given, count - given)

    async def news(self) -> None:
        """Wait until there is a piece to take or the ticket is over."""
        while self.given == len(self.tokens) and not self.answer.done():
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
        news, self._news = self._news, None
        if news is not None and not news.done():
            news.set_result(None)
