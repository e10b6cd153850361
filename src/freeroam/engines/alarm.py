"""An alarm on the injected clock: calls back once at the earliest time asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from freeroam.clock import Clock


class Alarm:
    """Calls ``ring`` at or before the time that was set last; ringing too early is allowed, too late is not.

    A sleeper that wakes earlier than needed is kept rather than replaced, so setting it often costs little.

    Args:
        clock: Where time comes from.
        ring: Called on the loop.
    """

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._wakes_s: float | None = None
        self._sleeping: asyncio.Task[None] | None = None

    def set(self, at_s: float) -> None:
        """Ring at monotonic second ``at_s`` at the latest."""
        if self._wakes_s is not None and self._wakes_s <= at_s:
            return
        self.cancel()
        self._wakes_s = at_s
        self._sleeping = asyncio.create_task(self._sleep(at_s), name="alarm")

    def cancel(self) -> None:
        """Ring no more."""
        if self._sleeping is not None:
            self._sleeping.cancel()
        self._sleeping = self._wakes_s = None

    async def _sleep(self, at_s: float) -> None:
        await self._clock.sleep(max(0.0, at_s - self._clock.monotonic_s()))
        self._sleeping = self._wakes_s = None
        self._ring()
