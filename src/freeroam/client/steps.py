"""What both clients do, told as steps: a script says what to send, read and wait for, and is given what came of it.

A script is a generator; it knows no socket and no clock. ``blocking.py`` and ``awaiting.py`` each carry out steps in
their own way, so every retry, every resumption and every reading of an answer is written once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from freeroam.client.refusals import error_of
from freeroam.vocabulary.errors import DeadlineExceeded, FreeroamError, RateLimited, Unavailable, Unreachable

T = TypeVar("T")
D = TypeVar("D", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    Attributes:
        path: Below the server's address, quoted.
        query: Parameters; None is left out.
        body: JSON.
        timeout_s: Longest silence while the answer is awaited and read; None is the client's own.
        is_question: Asks a model and changes nothing, so that asking twice is no harm.
    """

    method: str
    path: str
    query: Mapping[str, str | int | None] = field(default_factory=dict)
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    timeout_s: float | None = None
    is_question: bool = False

    @property
    def is_repeatable(self) -> bool:
        """Whether sending it twice does what sending it once does."""
        return self.is_question or self.method in {"GET", "HEAD", "PUT"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered.

    Attributes:
        headers: Lower-case names.
        body: Empty where the body of a success is read by ``Read``.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """No answer came, or not all of it.

    Attributes:
        reason: Why, for people.
        is_unsent: The request cannot have reached the server.
        is_silence: The server was waited for and said nothing.
    """

    reason: str
    is_unsent: bool = False
    is_silence: bool = False

    def error(self, request: Request) -> FreeroamError:
        """Return the error that tells it to the caller."""
        told = f"{request.method} {request.path}: {self.reason}"
        return DeadlineExceeded(told) if self.is_silence else Unreachable(told)


@dataclass(frozen=True, slots=True)
class Send:
    """Send a request and read its whole answer; gives ``Answer`` or ``Lost``."""

    request: Request


@dataclass(frozen=True, slots=True)
class Open:
    """Send a request and leave the body of a success open; gives ``Answer`` or ``Lost``.

    The body is closed by the next ``Open`` or ``Pause``, and by the end of the script, however it ends.
    """

    request: Request


@dataclass(frozen=True, slots=True)
class Read:
    """Wait for more of the open body; gives bytes, empty at its end, or ``Lost``."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait so many seconds."""

    duration_s: float


@dataclass(frozen=True, slots=True)
class Give(Generic[T]):
    """Give an item to the caller; only in scripts of streams."""

    item: T


Reply = Answer | Lost | bytes | None
Script = Generator[Send | Pause, Reply, T]
"""A script that ends with one value."""

StreamScript = Generator[Send | Open | Read | Pause | Give[T], Reply, None]
"""A script that gives items."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and after which pauses something is tried again.

    Pauses double and are drawn at random up to their size ("full jitter", M. Brooker, "Exponential Backoff And Jitter",
    2015), so that clients that were turned away together do not come back together; ``Retry-After`` is never undercut.

    Attributes:
        attempts: How often a call is tried in all; 1 never tries again.
        stream_attempts: How often in a row a stream of results is opened without anything coming of it.
        first_pause_s: Bound of the first pause.
        longest_pause_s: Bound of every pause; a server that wants a longer one is not asked again.
        luck: Gives a number from 0 to 1.
    """

    attempts: int = 4
    stream_attempts: int = 10
    first_pause_s: float = 0.25
    longest_pause_s: float = 20.0
    luck: Callable[[], float] = random.random

    def pause_s(self, tries: int, wanted_s: float = 0.0) -> float:
        """Return the pause after ``tries`` failures in a row, at least ``wanted_s``."""
        bound_s = min(self.longest_pause_s, self.first_pause_s * 2.0 ** min(tries - 1, 30))
        return wanted_s + self.luck() * bound_s

    def after(self, request: Request, came: Answer | Lost, tries: int) -> float | None:
        """Return the pause before ``request`` is sent again, in seconds; None if it must not be."""
        if isinstance(came, Lost):
            may_repeat = came.is_unsent or (request.is_repeatable and not came.is_silence)
            return self.pause_s(tries) if may_repeat else None
        error = error_of(came.status, came.headers, came.body)
        if came.status == 502:
            return self.pause_s(tries) if request.is_repeatable else None
        # A server that says when to come back has done nothing yet; a place for a job comes free only when one ends.
        may_repeat = request.is_repeatable or "retry-after" in came.headers
        is_turned_away = isinstance(error, RateLimited | Unavailable) and error.code not in {
            "too_many_streams",
            "store",
        }
        if not is_turned_away or not may_repeat:
            return None
        wanted_s = getattr(error, "retry_after_s", 0.0)
        return self.pause_s(tries, wanted_s) if wanted_s <= self.longest_pause_s else None


def exchange(
    request: Request, retries: Retries, read: Callable[[Answer], T], *, also: tuple[int, ...] = ()
) -> Script[T]:
    """Send ``request``, again where that is right, and end with what ``read`` makes of the answer.

    Args:
        request: What is sent.
        retries: When it is sent again.
        read: Reads a success.
        also: Statuses of 400 or more that are read too.

    Raises:
        FreeroamError: What the server refused it with, or ``Unreachable``, ``DeadlineExceeded``.
    """
    tries = 0
    while True:
        came = yield Send(request)
        assert isinstance(came, Answer | Lost)
        if isinstance(came, Answer) and (came.status < 400 or came.status in also):
            return read(came)
        tries += 1
        pause_s = retries.after(request, came, tries) if tries < retries.attempts else None
        if pause_s is None:
            raise failure(request, came)
        yield Pause(pause_s)


def opening(request: Request, retries: Retries) -> Generator[Open | Pause, Reply, None]:
    """Open the body of an answer, trying again where that is right.

    Raises:
        FreeroamError: It was refused.
    """
    tries = 0
    while True:
        came = yield Open(request)
        assert isinstance(came, Answer | Lost)
        if isinstance(came, Answer) and came.status < 400:
            return
        tries += 1
        pause_s = retries.after(request, came, tries) if tries < retries.attempts else None
        if pause_s is None:
            raise failure(request, came)
        yield Pause(pause_s)


def failure(request: Request, came: Answer | Lost) -> FreeroamError:
    """Return the error that tells the caller what came of ``request``."""
    if isinstance(came, Lost):
        return came.error(request)
    return error_of(came.status, came.headers, came.body)


def document_of(kind: type[D], body: bytes) -> D:
    """Return the document that ``body`` holds; fields that are not known here are passed over.

    Raises:
        FreeroamError: It holds another; then another program answers at that address, or a much older Freeroam.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the body"
        raise FreeroamError(
            f"The server's answer is no {kind.__name__}: {where}: {first['msg']}; is it Freeroam at that address?",
            code="bad_answer",
        ) from None
