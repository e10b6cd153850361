"""How much of the machine clients' pictures may take: memory while their questions are open, decoders meanwhile.

A picture of a few kilobytes may announce fifty million pixels, so neither the length of a body nor the number of
connections bounds what it becomes; and decoders are shared with video, which must not wait for such pictures.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from freeroam.vocabulary.errors import QueueFull


class PictureRoom:
    """Counts the pictures of all open questions.

    Attributes:
        held_bytes: Decoded, or to be decoded, for questions that are open.
    """

    def __init__(self) -> None:
        self.held_bytes = 0
        self._decoding_px = 0
        self._waiting: deque[tuple[int, int, asyncio.Future[None]]] = deque()

    def hold(self, size_bytes: int, limit_bytes: int) -> None:
        """Take memory for a question's pictures; one alone always fits, because its size has a bound of its own.

        Raises:
            QueueFull: Those of other questions fill it.
        """
        if self.held_bytes and self.held_bytes + size_bytes > limit_bytes:
            raise QueueFull(
                f"pictures of {self.held_bytes} bytes wait for models, and {size_bytes} more would be over "
                f"{limit_bytes} (MAX_PICTURE_BYTES)"
            )
        self.held_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Give memory back."""
        self.held_bytes -= size_bytes

    @asynccontextmanager
    async def decoding(self, pixels: int, limit_px: int) -> AsyncIterator[None]:
        """Decode a picture while no more than ``limit_px`` are being decoded at once; first come, first served."""
        await self._enter(pixels, limit_px)
        try:
            yield
        finally:
            self._leave(pixels)

    async def _enter(self, pixels: int, limit_px: int) -> None:
        if not self._waiting and self._fits(pixels, limit_px):
            self._decoding_px += pixels
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, limit_px, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._let_in()
            else:
                self._leave(pixels)
            raise

    def _leave(self, pixels: int) -> None:
        self._decoding_px -= pixels
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting:
            pixels, limit_px, turn = self._waiting[0]
            if not turn.cancelled():
                if not self._fits(pixels, limit_px):
                    return
                self._decoding_px += pixels
                turn.set_result(None)
            self._waiting.popleft()

    def _fits(self, pixels: int, limit_px: int) -> bool:
        return not self._decoding_px or self._decoding_px + pixels <= limit_px
