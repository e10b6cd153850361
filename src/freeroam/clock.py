"""The one place that reads the time or sleeps, so that every deadline can be tested without waiting."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Time as the rest of the program sees it."""

    def monotonic_s(self) -> float:
        """Return seconds that never go backwards; only differences mean something."""
        ...

    def epoch_s(self) -> float:
        """Return seconds since 1970-01-01 UTC."""
        ...

    async def sleep(self, duration_s: float) -> None:
        """Wait ``duration_s`` seconds; zero or less only yields to other tasks."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def monotonic_s(self) -> float:
        """Return ``time.monotonic()`` in seconds."""
        return time.monotonic()

    def epoch_s(self) -> float:
        """Return ``time.time()`` in seconds."""
        return time.time()

    async def sleep(self, duration_s: float) -> None:
        """Wait on the running event loop for ``duration_s`` seconds."""
        await asyncio.sleep(max(0.0, duration_s))


class BlockingClock(Protocol):
    """Time as a program without an event loop sees it."""

    def sleep(self, duration_s: float) -> None:
        """Wait ``duration_s`` seconds."""
        ...


class SystemBlockingClock:
    """The machine's own clock."""

    def sleep(self, duration_s: float) -> None:
        """Stop this thread for ``duration_s`` seconds."""
        time.sleep(max(0.0, duration_s))
