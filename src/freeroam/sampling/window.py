"""Gathers sampled frames into clips of one size that do not overlap."""

from __future__ import annotations

from freeroam.vocabulary.frame import Clip, Frame


def window_of(asked: int | None, preferred: int | None, greatest_batch: int) -> int:
    """Return how many frames a question has.

    Args:
        asked: What the job says.
        preferred: What the model says.
        greatest_batch: ``MAX_BATCH_SIZE``, for a model that does not say.
    """
    return asked or preferred or greatest_batch


class Window:
    """Gathers frames until a clip is full.

    Args:
        size: Frames in a clip.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._frames: list[Frame] = []

    def __len__(self) -> int:
        """Return how many frames wait for their clip to be full."""
        return len(self._frames)

    def add(self, frame: Frame) -> Clip | None:
        """Add ``frame`` and return the clip that is complete with it, or None.

        Pictures of two sizes are never in one clip: where the size changes, the clip before it ends early.
        """
        if self._frames and _size(self._frames[-1]) != _size(frame):
            early = self.rest()
            self._frames.append(frame)
            return early
        self._frames.append(frame)
        return self.rest() if len(self._frames) >= self.size else None

    def rest(self) -> Clip | None:
        """Return what was gathered since the last clip, however little, or None; asked about when a video ends."""
        frames, self._frames = tuple(self._frames), []
        return Clip(frames) if frames else None


def _size(frame: Frame) -> tuple[int, int]:
    return frame.width_px, frame.height_px
