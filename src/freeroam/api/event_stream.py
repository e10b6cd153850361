"""Server-sent events of one listener: coalesced, resumable, and never held open for a reader who drains nothing.

An ASGI response of our own, because the server has no send timeout and the known libraries run several tasks a stream.
"""

from __future__ import annotations

import asyncio

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from freeroam.api.parts import Parts
from freeroam.observability.logs import get_logger
from freeroam.results.listener import Listener
from freeroam.vocabulary.errors import StoreError
from freeroam.vocabulary.result import Event

COALESCED_BYTES = 64 * 1024
"""What is at hand is sent as one piece up to about this size: the server's own high-water mark."""

RETRY_MS = 2000
"""How long a browser waits before it connects again."""

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]

log = get_logger(__name__)


class EventStream(Response):
    """The answer of a route that streams events.

    Args:
        listener: What is told; closed when the stream ends.
        parts: Clock and metrics.
        ping_s: Between comments while nothing happens.
        idle_timeout_s: How long one send may wait for a reader who drains nothing.
    """

    media_type = "text/event-stream"

    def __init__(self, listener: Listener, parts: Parts, ping_s: float, idle_timeout_s: float) -> None:
        self.status_code = 200
        self.background = None
        self.raw_headers = list(_HEADERS)
        self._listener = listener
        self._parts = parts
        self._ping_s = ping_s
        self._idle_timeout_s = idle_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the listener ends, the reader goes, or it drains nothing for too long."""
        scope["freeroam.is_stream"] = True
        gauge = self._parts.metrics.listeners.labels("sse")
        gauge.inc()
        watch = asyncio.create_task(self._close_when_gone(receive))
        try:
            async with self._listener:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await self._stream(send)
        except _ReaderIsStuckError:
            self._parts.metrics.count_slow_client("sse")
            log.info("slow_reader_dropped", request_id=scope.get("freeroam.request_id"))
            transport = scope.get("freeroam.transport")
            if transport is not None:
                transport.abort()
        finally:
            gauge.dec()
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _close_when_gone(self, receive: Receive) -> None:
        """End the iteration when the reader is gone; the server swallows what is sent after that."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._listener.close()

    async def _stream(self, send: Send) -> None:
        await self._send(send, f"retry: {RETRY_MS}\n\n".encode())
        while True:
            try:
                async with asyncio.timeout(self._ping_s) as deadline:
                    event = await anext(self._listener)
            except StopAsyncIteration:
                await self._send(send, b"", is_last=True)
                return
            except TimeoutError:
                if not deadline.expired():
                    raise
                await self._send(send, b": ping\n\n")
            except StoreError as error:
                log.warning("stream_waits_for_store", error=error.message)
                await self._parts.clock.sleep(1.0)
            else:
                await self._send(send, await self._with_what_is_at_hand(event))

    async def _with_what_is_at_hand(self, event: Event) -> bytes:
        piece = bytearray(encode_event(event))
        while len(piece) < COALESCED_BYTES and self._listener.is_ready:
            try:
                async with asyncio.timeout(0):
                    piece += encode_event(await anext(self._listener))
            except (TimeoutError, StopAsyncIteration, StoreError):
                break
        return bytes(piece)

    async def _send(self, send: Send, body: bytes, *, is_last: bool = False) -> None:
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                await send({"type": "http.response.body", "body": body, "more_body": not is_last})
        except TimeoutError:
            raise _ReaderIsStuckError from None


class _ReaderIsStuckError(Exception):
    """The reader drained nothing for too long."""


def encode_event(event: Event) -> bytes:
    """Return an event in the text form of server-sent events; results carry their id, for ``Last-Event-ID``."""
    head = f"id: {event.id}\n" if event.id is not None else ""
    return f"{head}event: {event.kind.value}\ndata: ".encode() + event.data + b"\n\n"
