"""When the next sample of a stream is due: arithmetic on stream time, shared by decoders and jobs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

TOLERANCE_SHARE = 0.02
"""A frame this share of an interval early still counts as on time (timestamps of 90 kHz and 1 ms clocks round)."""

RESTART_INTERVALS = 4
"""A jump back by more than this many intervals means that stream time began anew."""


@dataclass(frozen=True, slots=True)
class Cadence:
    """A grid of due times, ``interval_s`` apart, anchored at the first frame offered.

    Sampling goes by timestamp, never by counting, so dropped or repeated frames do not shift it.

    Attributes:
        interval_s: Seconds between samples; 0 takes every frame.
        next_due_s: Stream time of the next sample; None before the first frame.
        may_restart: Whether a jump back begins the grid anew. False where what was shown already comes once more first,
            to be decoded only; true again from the first sample on.
    """

    interval_s: float
    next_due_s: float | None = None
    may_restart: bool = True

    @classmethod
    def of_fps(cls, fps: float, next_due_s: float | None = None) -> Cadence:
        """Return the grid of ``fps`` samples a second."""
        return cls(1.0 / fps, next_due_s)

    def offer(self, time_s: float) -> tuple[float | None, Cadence]:
        """Offer a frame of stream time ``time_s``.

        Returns:
            The due time that this frame answers (None: the frame is not wanted) and the grid after it.
        """
        if self.next_due_s is None or self.is_restart(time_s):
            return time_s, replace(self, next_due_s=time_s + self.interval_s)
        if self.interval_s <= 0:
            return time_s, replace(self, next_due_s=time_s)
        lead = (time_s - self.next_due_s) / self.interval_s + TOLERANCE_SHARE
        if lead < 0:
            return None, self
        passed = math.floor(lead)
        due_s = self.next_due_s + passed * self.interval_s
        return due_s, replace(self, next_due_s=due_s + self.interval_s, may_restart=True)

    def is_restart(self, time_s: float) -> bool:
        """Return whether a frame of ``time_s`` shows that stream time began anew."""
        if self.next_due_s is None or not self.may_restart:
            return False
        return time_s < self.next_due_s - RESTART_INTERVALS * max(self.interval_s, 0.25)
