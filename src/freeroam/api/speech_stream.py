"""The answer of a route that gives what a model says as it is said: server-sent events, or whatever an encoder makes.

An ASGI response of our own: its first piece is awaited before the status line, so that a refusal is a real status; a
reader that goes away ends the question within the model's next step; one that drains nothing is cut after a time.
Nothing is queued for a slow reader: what is said meanwhile waits in the engine and comes as one piece.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from freeroam.api.call_ends import CallerGone, ReaderIsStuckError
from freeroam.api.inference_calls import InferenceCall
from freeroam.api.pictures import Image
from freeroam.observability.logs import get_logger
from freeroam.vocabulary.errors import FreeroamError
from freeroam.vocabulary.inference import Output, Piece

LAST_WORD_S = 2.0
"""How long an ended stream may try to tell its reader why."""

LEFT_TO_THE_SERVER_BYTES = 64 * 1024
"""What may still wait for its reader when a stream is called done: the server's own high-water mark."""

_LOOK_AGAIN_S = 0.05

_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)

log = get_logger(__name__)


class SpeechEncoder(Protocol):
    """How one door writes an answer that is being spoken; every method returns bytes to send, maybe none."""

    def begin(self) -> bytes:
        """Return what comes before the first piece."""
        ...

    def piece(self, piece: Piece) -> bytes:
        """Return one piece, of one token or several that were merged."""
        ...

    def end(self, output: Output, usage: dict[str, int]) -> bytes:
        """Return what comes after the last piece of a complete answer."""
        ...

    def error(self, error: FreeroamError, usage: dict[str, int]) -> bytes:
        """Return what ends an answer that broke off after it had begun."""
        ...


class SpeechStream(Response):
    """Gives one call's answer as it is spoken.

    Args:
        call: Made with ``open_call(..., is_streamed=True)``, not entered.
        encoder: How this door writes it.
        images: The client's pictures.
    """

    media_type = "text/event-stream"

    def __init__(self, call: InferenceCall, encoder: SpeechEncoder, images: Sequence[Image] = ()) -> None:
        self.status_code = 200
        self.background = None
        self.raw_headers = list(_HEADERS)
        self._call = call
        self._encoder = encoder
        self._images = images
        self._has_begun = False
        self._sent_s = 0.0
        self._is_sending = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the model is done, the reader is gone or stuck, or the service stops.

        Raises:
            FreeroamError: The call was refused or failed before its first piece.
        """
        scope["freeroam.is_stream"] = True
        call = self._call
        try:
            async with call:
                await self._speak(scope, receive, send)
        except ReaderIsStuckError:
            call.parts.metrics.count_slow_client("answer")
            log.info("slow_reader_dropped", request_id=call.request.request_id)
            _abort(scope)
        except CallerGone:
            scope["freeroam.is_caller_gone"] = True
        except FreeroamError as error:
            if not self._has_begun:
                raise
            await self._say_why(error, scope, send)
        except Exception:
            if not self._has_begun:
                raise
            log.exception("stream_failed", request_id=call.request.request_id)
            await self._say_why(FreeroamError("Internal error; the log has it under this request id"), scope, send)

    async def _speak(self, scope: Scope, receive: Receive, send: Send) -> None:
        call, encoder, clock = self._call, self._encoder, self._call.parts.clock
        calls, gauge = call.parts.calls, call.parts.metrics.streams_active
        watch = asyncio.create_task(self._watch(receive, send))
        calls.streams += 1
        gauge.inc()
        try:
            await call.bring(self._images)
            async with aclosing(call.items()) as items:
                async for item in items:
                    body = encoder.piece(item) if isinstance(item, Piece) else encoder.end(item, call.usage())
                    self._is_sending, self._sent_s = True, clock.monotonic_s()
                    if not self._has_begun:
                        self._has_begun = True
                        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                        body = encoder.begin() + body
                    await send({"type": "http.response.body", "body": body, "more_body": True})
                    self._is_sending = False
            # The server takes an answer for done with its last message, and listens to nobody after that.
            await self._see_taken(scope)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            calls.streams -= 1
            gauge.dec()
            watch.cancel()
            await asyncio.wait([watch])

    async def _see_taken(self, scope: Scope) -> None:
        """Stay until the reader has taken most of what was sent last; the server would keep it for ever.

        An answer that came faster than its reader reads may end in one large piece, which no further send waits for.
        """
        transport, clock = scope.get("freeroam.transport"), self._call.parts.clock
        if transport is None:
            return
        waiting_bytes = transport.get_write_buffer_size()
        self._is_sending = waiting_bytes > LEFT_TO_THE_SERVER_BYTES
        while waiting_bytes > LEFT_TO_THE_SERVER_BYTES and not transport.is_closing():
            await clock.sleep(_LOOK_AGAIN_S)
            before_bytes, waiting_bytes = waiting_bytes, transport.get_write_buffer_size()
            if waiting_bytes < before_bytes:
                self._sent_s = clock.monotonic_s()

    async def _watch(self, receive: Receive, send: Send) -> None:
        """End the call when its reader is gone, or drains nothing for too long; comment on a long silence."""
        call, clock = self._call, self._call.parts.clock
        idle_timeout_s, ping_s = call.config.stream_idle_timeout_s, call.config.ping_s
        while True:
            now_s = clock.monotonic_s()
            patience_s = idle_timeout_s if self._is_sending else ping_s
            due_s = max(self._sent_s, call.began_s) + patience_s
            if due_s <= now_s:
                if self._is_sending:
                    call.cut(ReaderIsStuckError())
                    return
                if self._has_begun:
                    await send({"type": "http.response.body", "body": b": ping\n\n", "more_body": True})
                self._sent_s = now_s
                due_s = now_s + ping_s
            try:
                async with asyncio.timeout(min(due_s - now_s, idle_timeout_s, ping_s)):
                    message = await receive()
            except TimeoutError:
                continue
            if message["type"] == "http.disconnect":
                call.cut(CallerGone())
                return

    async def _say_why(self, error: FreeroamError, scope: Scope, send: Send) -> None:
        """Tell a reader why its answer breaks off; one that does not take even that is cut."""
        body = self._encoder.error(error, self._call.usage())
        try:
            async with asyncio.timeout(min(LAST_WORD_S, self._call.config.stream_idle_timeout_s)):
                await send({"type": "http.response.body", "body": body, "more_body": False})
        except TimeoutError:
            _abort(scope)


def _abort(scope: Scope) -> None:
    transport = scope.get("freeroam.transport")
    if transport is not None:
        transport.abort()
