"""A long answer in small pieces, cut when its reader drains nothing, so that none holds a connection for ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from freeroam.api.parts import Parts
from freeroam.observability.logs import get_logger

PIECE_BYTES = 64 * 1024
"""So small that even a slow line drains one within the time limit: the server's own high-water mark."""

log = get_logger(__name__)


class Download(StreamingResponse):
    """The answer of a route that gives out a file made on the way.

    Args:
        pieces: The bytes.
        parts: Metrics.
        idle_timeout_s: How long one send may wait for a reader who drains nothing.
        media_type: What the bytes are.
        headers: Further headers.
    """

    def __init__(
        self,
        pieces: AsyncIterator[bytes],
        parts: Parts,
        idle_timeout_s: float,
        *,
        media_type: str,
        headers: Mapping[str, str],
    ) -> None:
        super().__init__(_in_pieces(pieces), media_type=media_type, headers=headers)
        self._parts = parts
        self._idle_timeout_s = idle_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or until the reader goes or drains nothing for too long."""
        scope["freeroam.is_stream"] = True
        is_stuck = False

        async def send_in_time(message: Message) -> None:
            nonlocal is_stuck
            try:
                async with asyncio.timeout(self._idle_timeout_s):
                    await send(message)
            except TimeoutError:
                is_stuck = True
                raise

        try:
            await super().__call__(scope, receive, send_in_time)
        except TimeoutError:
            if not is_stuck:
                raise
            self._parts.metrics.count_slow_client("export")
            log.info("slow_reader_dropped", request_id=scope.get("freeroam.request_id"))
            transport = scope.get("freeroam.transport")
            if transport is not None:
                transport.abort()


async def _in_pieces(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        for begin in range(0, len(piece), PIECE_BYTES):
            yield piece[begin : begin + PIECE_BYTES]
