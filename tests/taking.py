"""A pool whose decoders can be taken only when the test lets go, as when all of them are being replaced."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from freeroam.sources.decoding.pool import DecoderPool


class Taking:
    """Holds whoever takes a decoder of ``pool``.

    Attributes:
        begun: Set whenever somebody waits.
    """

    def __init__(self, pool: DecoderPool) -> None:
        self.begun = asyncio.Event()
        self._may_go_on = asyncio.Event()
        self._take: Callable = pool._take_slot
        pool._take_slot = self  # type: ignore[method-assign,assignment]

    def let_go(self) -> None:
        """Hold nobody any more."""
        self._may_go_on.set()

    def hold(self) -> None:
        """Hold whoever comes from now on."""
        self._may_go_on.clear()
        self.begun.clear()

    async def __call__(self, owner: str) -> object:
        self.begun.set()
        await self._may_go_on.wait()
        return await self._take(owner)
