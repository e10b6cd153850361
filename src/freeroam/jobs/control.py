"""The reins of a running job: pause, go on, end, each taking hold also while the runner waits for a frame."""

from __future__ import annotations

import asyncio
from enum import StrEnum


class Outcome(StrEnum):
    """Why a run ended."""

    VIDEO_ENDED = "video_ended"
    VIDEO_FAILED = "video_failed"
    LIMIT_REACHED = "limit_reached"
    DRAINED = "drained"


class Control:
    """Interrupts the reading of a video from outside.

    Attributes:
        ending: Why the run is to end; None while it is not.
    """

    def __init__(self, *, paused: bool) -> None:
        self.ending: Outcome | None = None
        self._may_read = asyncio.Event()
        self._reading: asyncio.Task[Outcome] | None = None
        self.set_paused(paused)

    async def hold(self, reading: asyncio.Task[Outcome]) -> Outcome | None:
        """Wait for ``reading`` and return its outcome, or None if it was interrupted."""
        self._reading = reading
        await asyncio.wait({reading})
        return None if reading.cancelled() else reading.result()

    async def wait_unpaused(self) -> None:
        """Return when reading may begin."""
        await self._may_read.wait()

    def set_paused(self, paused: bool) -> None:
        """Interrupt the reading until it is called with False."""
        if not paused:
            self._may_read.set()
        elif self._may_read.is_set():
            self._may_read.clear()
            self._interrupt()

    def end(self, outcome: Outcome) -> None:
        """Interrupt the reading for good; the first reason given counts."""
        self.ending = self.ending or outcome
        self._interrupt()

    def _interrupt(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
