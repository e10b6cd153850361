"""One inference call, whichever door it came by: who asks, within which limits, how it ends and what is counted of it.

Every door does the same::

    call = open_call(Wish(model, prompt, params), arrival_of(scope), parts, config)   # raises what is refused at once
    async with call:                                       # open now; a stop can end it, and its end is counted
        await call.bring(images)                           # only if there are pictures
        output = await call.answer()                       # or: async for item in call.items()
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, NamedTuple, Self

from starlette.types import Scope

from freeroam.api.call_ends import CallerGone, ending_of
from freeroam.api.gate import read_headers
from freeroam.api.journal import note
from freeroam.api.parts import ApiConfig, Parts
from freeroam.api.pictures import Image, in_sent_pixels, read_pictures
from freeroam.api.spans import Span
from freeroam.security.keys import Caller
from freeroam.vocabulary.errors import (
    DeadlineExceeded,
    InvalidInput,
)
from freeroam.vocabulary.inference import InferenceParams, InferenceRequest, Output, Piece, Priority

NO_PARAMS = InferenceParams()
MAX_CLIENT_ID_CHARS = 128
BACKSTOP_S = 0.25
"""How long after the deadline a call is ended that the engine has not ended."""


class Wish(NamedTuple):
    """What a client asks of a model.

    Attributes:
        model: ``name`` or ``name@version``; empty is the default model.
        prompt: The question.
        params: Tuning.
        priority: As the client wishes; None leaves it to the header, else NORMAL.
        client_id: A name of the client's own for whom it asks; those share turns below the client.
    """

    model: str
    prompt: str
    params: InferenceParams = NO_PARAMS
    priority: Priority | None = None
    client_id: str = ""


class Arrival(NamedTuple):
    """How a call came in.

    Attributes:
        caller: Who asks.
        request_id: What logs and answers call it.
        priority: From ``X-Priority``.
        timeout_s: From ``X-Request-Timeout-Ms``.
        scope: Where what the log is to tell of it is noted; None at doors that are not HTTP.
        deadline: What ends the request's task at the deadline, where its door has such a thing.
    """

    caller: Caller
    request_id: str
    priority: Priority | None = None
    timeout_s: float | None = None
    scope: Scope | None = None
    deadline: Span | None = None


def arrival_of(scope: Scope) -> Arrival:
    """Return how an HTTP request came in.

    Raises:
        InvalidInput: ``X-Priority`` or ``X-Request-Timeout-Ms`` says what cannot be.
    """
    headers = read_headers(scope)
    return read_arrival(scope["freeroam.caller"], scope["freeroam.request_id"], headers, scope)


def read_arrival(caller: Caller, request_id: str, headers: Mapping[str, str], scope: Scope | None = None) -> Arrival:
    """Return how a call came in, from its headers or gRPC metadata (lower-case names).

    Raises:
        InvalidInput: ``x-priority`` or ``x-request-timeout-ms`` says what cannot be.
    """
    priority, timeout_ms = headers.get("x-priority"), headers.get("x-request-timeout-ms")
    return Arrival(
        caller,
        request_id,
        None if priority is None else read_priority(priority),
        None if timeout_ms is None else _read_timeout_s(timeout_ms),
        scope,
        None if scope is None else scope.get("freeroam.answer_deadline"),
    )


def read_priority(name: str) -> Priority:
    """Return the priority of that name, in any case.

    Raises:
        InvalidInput: There is none of that name.
    """
    try:
        return Priority[name.strip().upper()]
    except KeyError:
        raise InvalidInput(f"priority: {name[:40]!r} is none of HIGH, NORMAL, LOW") from None


def _read_timeout_s(text: str) -> float:
    text = text.strip()
    if not text.isascii() or not text.isdigit() or not 1 <= len(text) <= 9 or int(text) == 0:
        raise InvalidInput("X-Request-Timeout-Ms: must be a whole number of milliseconds, from 1 to 999999999")
    return int(text) / 1000.0


def open_call(
    wish: Wish, arrival: Arrival, parts: Parts, config: ApiConfig, *, is_streamed: bool = False
) -> InferenceCall:
    """Return the call, not begun: everything that can be refused without asking anybody has been.

    Args:
        wish: What is asked.
        arrival: Who asks, and how.
        parts: The engine and what counts.
        config: The limits.
        is_streamed: Whether the answer is given piece by piece: then ``REQUEST_TIMEOUT`` ends with the first piece, and
            only a time limit of the client's own holds for the whole answer.

    Raises:
        Draining: The service is stopping.
        InvalidInput: An empty or too long prompt, too many tokens, a client id that is too long.
    """
    parts.lifecycle.check_admission()
    check_wish(wish, config)
    timeout_s = arrival.timeout_s
    if timeout_s is None:
        timeout_s = None if is_streamed else config.request_timeout_s
    else:
        timeout_s = min(timeout_s, config.request_timeout_s)
    caller = arrival.caller
    asked = wish.priority if wish.priority is not None else arrival.priority
    request = InferenceRequest(
        request_id=arrival.request_id,
        model=wish.model,
        prompt=wish.prompt,
        params=wish.params,
        priority=max(Priority.NORMAL if asked is None else asked, caller.highest_priority),
        deadline_monotonic_s=None if timeout_s is None else parts.clock.monotonic_s() + timeout_s,
        lane=f"{caller.client}/{wish.client_id}" if wish.client_id else caller.client,
        wants_pieces=is_streamed,
    )
    return InferenceCall(request, arrival, parts, config)


def check_wish(wish: Wish, config: ApiConfig) -> None:
    """Refuse what is over a limit.

    Raises:
        InvalidInput: The message names the field, and the setting where there is one.
    """
    if not wish.prompt or wish.prompt.isspace():
        raise InvalidInput("prompt cannot be empty")
    if len(wish.prompt) > config.max_prompt_chars:
        raise InvalidInput(
            f"prompt has {len(wish.prompt)} characters; at most {config.max_prompt_chars} are read (MAX_PROMPT_CHARS)"
        )
    if wish.params.max_tokens is not None and wish.params.max_tokens > config.max_tokens:
        raise InvalidInput(
            f"max_tokens: {wish.params.max_tokens} is more than may be asked for, {config.max_tokens} (MAX_TOKENS)"
        )
    if len(wish.client_id) > MAX_CLIENT_ID_CHARS:
        raise InvalidInput(f"client_id: at most {MAX_CLIENT_ID_CHARS} characters")


@dataclass(slots=True, eq=False)
class InferenceCall:
    """A call from the moment it is let in to its end; an async context manager, entered by the task that answers it.

    Leaving it by ``cut`` raises the error that was given there.

    Attributes:
        request: What the engine is asked.
        arrival: How it came in.
        output: The answer, once it is there.
        tokens: Tokens given out so far.
        began_s: When it was entered, monotonic.
    """

    request: InferenceRequest
    arrival: Arrival
    parts: Parts
    config: ApiConfig
    output: Output | None = None
    tokens: int = 0
    began_s: float = 0.0
    _first_s: float = 0.0
    _last_s: float = 0.0
    _preprocess_s: float = 0.0
    _reason: BaseException | None = None
    _span: Span | None = None
    _own_span: Span | None = None
    _place: Any = None
    _held_bytes: int = 0

    async def __aenter__(self) -> Self:
        """Begin; from now on a stop waits for it."""
        self.began_s = self.parts.clock.monotonic_s()
        own_s, span = self.arrival.timeout_s, self.arrival.deadline
        # The engine knows the deadline and fails what is late; this one is for whatever else may take time.
        if span is None:
            limit_s = self.config.request_timeout_s
            self._own_span = span = self.parts.calls.spans.of(min(limit_s, own_s or limit_s) + BACKSTOP_S)
            await span.__aenter__()
        elif own_s is not None and own_s < self.config.request_timeout_s:
            span.move(own_s + BACKSTOP_S)
        self._span = span
        self.parts.calls.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End: count it, and tell why it was cut if it was."""
        self.parts.calls.discard(self)
        if self._place is not None:
            self._place.release()
        self.parts.picture_room.release(self._held_bytes)
        span = self._span
        assert span is not None
        was_cut = isinstance(error, asyncio.CancelledError) and span.has_expired
        if self._own_span is not None:
            with suppress(TimeoutError):
                await self._own_span.__aexit__(kind, error, trace)
        else:
            span.move(None)
        if was_cut:
            reason = self._reason or DeadlineExceeded("No answer began within the time there was (REQUEST_TIMEOUT)")
            self._reason = None
            self._count(reason)
            try:
                raise reason from None
            finally:
                # An error and the frame that raises it would keep each other, and the question, until a collection.
                del reason, error, trace
        self._count(error)

    def cut(self, error: BaseException) -> None:
        """End the call from outside: whatever it waits for is cancelled, and its task gets ``error``."""
        if self._reason is None and self._span is not None and not self._span.has_expired:
            self._reason = error
            self._span.move(0.0)

    def cut_as_gone(self) -> None:
        """End the call because whoever asked is gone."""
        self.cut(CallerGone())

    def _lift_deadline(self) -> None:
        """Let an answer that has begun take as long as it takes, unless it is being cut already."""
        if self._reason is None and self._span is not None:
            self._span.move(None)

    async def bring(self, images: Sequence[Image]) -> None:
        """Take in the client's pictures: a place in the model's queue first, the costly decoding after it.

        Raises:
            InvalidInput: Too many, or one is no base64, is an address, or is broken.
            UnsupportedMedia: One is neither JPEG, PNG nor WebP.
            TooLarge: One has too many pixels.
            QueueFull, NotFound, ModelNotReady, Draining: As the engine says.
        """
        if not images:
            return
        engine, model = self.parts.engine, self.request.model
        self._place = engine.reserve(model, self.request.priority)
        wishes = engine.describe(model).wishes
        clock = self.parts.clock
        began_s = clock.monotonic_s()
        frames = await read_pictures(self.parts, self.config, images, wishes, self._hold)
        self._preprocess_s = clock.monotonic_s() - began_s
        self.request = replace(self.request, frames=frames)

    def _hold(self, size_bytes: int) -> None:
        self.parts.picture_room.hold(size_bytes, self.config.max_picture_bytes)
        self._held_bytes += size_bytes

    async def answer(self) -> Output:
        """Return the whole answer; raises as ``Engine.ask`` does."""
        engine = self.parts.engine
        if self._place is None:
            output = await engine.ask(self.request)
        else:
            output = await engine.ask(self.request, self._place)
        self.output = output = in_sent_pixels(output, self.request.frames)
        self.tokens = output.completion_tokens
        return output

    async def items(self) -> AsyncGenerator[Piece | Output, None]:
        """Give the answer piece by piece, the ``Output`` last; raises as ``Engine.stream`` does.

        Use it with ``contextlib.aclosing``, so that the model is freed at once when the reader stops early.
        """
        engine, clock = self.parts.engine, self.parts.clock
        stream = engine.stream(self.request, self._place) if self._place else engine.stream(self.request)
        try:
            async for item in stream:
                if isinstance(item, Piece):
                    self.tokens = item.index + item.count
                    self._last_s = clock.monotonic_s()
                    if not self._first_s:
                        self._first_s = self._last_s
                        self._lift_deadline()
                    yield item
                else:
                    self.output = in_sent_pixels(item, self.request.frames)
                    yield self.output
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()

    def usage(self) -> dict[str, int]:
        """Return ``{prompt_tokens, completion_tokens, total_tokens}``; what the model does not count is 0."""
        prompt = self.output.prompt_tokens if self.output else 0
        spoken = max(self.tokens, self.output.completion_tokens) if self.output else self.tokens
        return {"prompt_tokens": prompt, "completion_tokens": spoken, "total_tokens": prompt + spoken}

    def _count(self, error: BaseException | None) -> None:
        """Count the call once, at its end."""
        output, metrics = self.output, self.parts.metrics
        ended_s = self.parts.clock.monotonic_s()
        status, reason = ending_of(error, output)
        priority = self.request.priority.name
        name, version = (output.model, output.version) if output else (_label_of(self), "")
        counts = metrics.of_calls(name, version, priority)
        counts.count(status, reason)
        if status == "cancelled" and self._place is not None and not self.request.frames:
            metrics.cancelled.labels(name, version, priority, "queued").inc()  # no engine has heard of it
        if self.request.frames:
            counts.preprocess_time.observe(self._preprocess_s)
        if self._first_s:
            counts.time_to_first_token.observe(self._first_s - self.began_s)
            if self.tokens > 1:
                counts.inter_token_latency.observe((self._last_s - self._first_s) / (self.tokens - 1))
        if output is not None:
            counts.e2e_request_latency.observe(ended_s - self.began_s)
            if output.prompt_tokens:
                counts.prompt_tokens.inc(output.prompt_tokens)
        if self.tokens:
            counts.generation_tokens.inc(self.tokens)
        if self.arrival.scope is not None:
            note(
                self.arrival.scope,
                model=f"{name}@{version}" if version else name,
                priority=priority,
                tokens=self.tokens,
                ended=reason,
                first_token_ms=round((self._first_s - self.began_s) * 1000, 1) if self._first_s else None,
            )


def _label_of(call: InferenceCall) -> str:
    """Return the model of a call without an answer: one that has answered before, else ``other``: labels stay few."""
    name = call.request.model.partition("@")[0]
    if not name:
        return "default"
    return name if call.parts.metrics.knows_model(name) else "other"
