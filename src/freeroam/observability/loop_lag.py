"""Watches how late the event loop wakes up: the first sign that something blocks it."""

from __future__ import annotations

import asyncio

from freeroam.clock import Clock
from freeroam.observability.logs import get_logger
from freeroam.observability.metrics import Metrics

INTERVAL_S = 0.5
WARN_S = 1.0

log = get_logger(__name__)


class LoopLag:
    """One task that sleeps, and measures how much longer it slept than it wanted to.

    Args:
        clock: Sleeps and measures.
        metrics: Takes the measurements.
    """

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self._clock = clock
        self._metrics = metrics
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._task = asyncio.create_task(self._watch(), name="loop lag")

    async def stop(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            began_s = self._clock.monotonic_s()
            await self._clock.sleep(INTERVAL_S)
            late_s = max(0.0, self._clock.monotonic_s() - began_s - INTERVAL_S)
            self._metrics.loop_lag.observe(late_s)
            if late_s > WARN_S:
                log.warning("event_loop_blocked", late_s=round(late_s, 3))
