"""A job's own rate over the samples that its source gives, by their time and never by their number."""

from __future__ import annotations

from freeroam.vocabulary.cadence import Cadence
from freeroam.vocabulary.frame import Frame


class IntervalSampler:
    """Passes the frames that a job of ``fps`` wants.

    A source that gives just what was asked for loses nothing here; one that cannot go so slowly, or was asked for more
    by others, is thinned.

    Args:
        fps: Samples per second of stream time.
        next_due_s: Stream time of the next sample, if the job was interrupted; None begins at the next frame.
    """

    def __init__(self, fps: float, next_due_s: float | None = None) -> None:
        self._cadence = Cadence.of_fps(fps, next_due_s)

    @property
    def next_due_s(self) -> float | None:
        """Stream time of the next sample; what must be kept to go on with the same phase later."""
        return self._cadence.next_due_s

    def wants(self, frame: Frame) -> bool:
        """Return whether ``frame`` is a sample, and move on if it is."""
        due_s, self._cadence = self._cadence.offer(frame.sample_time_s)
        return due_s is not None

    def change_fps(self, fps: float) -> None:
        """Take another rate, with a new grid from the next frame on."""
        self._cadence = Cadence.of_fps(fps)
