"""A frame, the wish for frames, and a clip: the values that cross the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class FrameWish:
    """What a consumer wants of a source.

    Attributes:
        fps: Samples per second of stream time.
        width_px: Width of the box a frame must fit in, aspect kept, never enlarged; None keeps the source's size.
        height_px: Height of that box.
    """

    fps: float
    width_px: int | None = None
    height_px: int | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded picture.

    Attributes:
        pixels: RGB, 8 bits a channel, rows top to bottom without padding: ``height_px * width_px * 3`` bytes.
        width_px: Width of ``pixels``.
        height_px: Height of ``pixels``.
        frame_id: The source's own name of it: a Redis entry id, else stream milliseconds as a decimal.
        stream_time_s: Time on the source's own clock.
        sample_time_s: The due time on the source's clock that this frame answers (see ``Cadence``).
        captured_epoch_s: When it was captured, where the source says so, else when it was handed out.
        due_monotonic_s: When it was due to be handed out, on this machine's monotonic clock.
        source_width_px: Width before scaling.
        source_height_px: Height before scaling.
        decode_ms: Time spent to decode and scale it, milliseconds.
    """

    pixels: bytes | memoryview
    width_px: int
    height_px: int
    frame_id: str
    stream_time_s: float
    sample_time_s: float
    captured_epoch_s: float
    due_monotonic_s: float
    source_width_px: int
    source_height_px: int
    decode_ms: float = 0.0

    @property
    def size_bytes(self) -> int:
        """Bytes of its pixels."""
        return self.width_px * self.height_px * 3

    def array(self) -> NDArray[np.uint8]:
        """Return the picture as a read-only uint8 array ``[height, width, 3]``, RGB, without a copy."""
        import numpy as np

        flat = np.frombuffer(self.pixels, dtype=np.uint8)
        return flat.reshape(self.height_px, self.width_px, 3)


@dataclass(frozen=True, slots=True)
class Clip:
    """The frames of one question, oldest first; never empty."""

    frames: tuple[Frame, ...]

    @property
    def frame_ids(self) -> list[str]:
        """Names of the frames, oldest first."""
        return [frame.frame_id for frame in self.frames]

    @property
    def size_bytes(self) -> int:
        """Bytes of the pixels of all frames."""
        return sum(frame.size_bytes for frame in self.frames)
