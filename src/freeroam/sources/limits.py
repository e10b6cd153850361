"""How large the pieces of a source may be that are held whole."""

from __future__ import annotations

from dataclasses import dataclass

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SourceLimits:
    """Greatest sizes, each the operator's to set; what is larger is ``bad_data``.

    Attributes:
        playlist_bytes: A playlist of HLS (``SOURCE_PLAYLIST_BYTES``).
        segment_bytes: A segment of HLS (``SOURCE_SEGMENT_BYTES``).
        picture_bytes: A compressed picture: a snapshot, a part of an MJPEG stream, a file (``SOURCE_PICTURE_BYTES``).
    """

    playlist_bytes: int = _MIB
    segment_bytes: int = 64 * _MIB
    picture_bytes: int = 32 * _MIB
