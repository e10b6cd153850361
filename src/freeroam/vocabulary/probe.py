"""What a look at a video showed, as the command line and the API return it."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ProbeReport(BaseModel):
    """What a ``stream_ref`` is and whether its video comes.

    Attributes:
        stream_ref: Without credentials.
        kind: ``hls``, ``rtsp``, ``redis``, ...; None if the reference was refused.
        is_live: Whether it goes on without end; None before anything came.
        codec: As FFmpeg names it.
        size: ``[height, width]`` of the video in pixels.
        fps: Native frames per second, where known.
        variant: The rendition that was opened.
        variants: All that are offered, where there are several.
        first_frame_ms: From the opening to the first frame.
        error_code: Why no frame came: a word of ``SourceErrorCode``, ``invalid_input`` or ``forbidden``.
        error: The same for people.
    """

    stream_ref: str
    kind: str | None = None
    is_live: bool | None = None
    codec: str | None = None
    size: list[int] | None = None
    fps: float | None = None
    variant: str | None = None
    variants: list[str] = Field(default_factory=list)
    first_frame_ms: float | None = None
    error_code: str | None = None
    error: str | None = None

    @property
    def is_usable(self) -> bool:
        """Whether a frame came."""
        return self.error_code is None
