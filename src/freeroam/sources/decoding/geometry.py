"""Sizes: how large a picture announces to be, and how large it becomes in a box."""

from __future__ import annotations

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG_SIZES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_JPEG_BARE = frozenset({0x01, *range(0xD0, 0xD9)})


def fitted_size(
    width_px: int, height_px: int, box: tuple[int | None, int | None], sample_aspect: float = 1.0
) -> tuple[int, int]:
    """Return the size of a picture that fits in ``box``, its aspect kept, never enlarged.

    Args:
        width_px: Columns as coded.
        height_px: Rows as coded.
        box: Greatest width and height; None sets no bound.
        sample_aspect: Width of a sample over its height, as the video says; samples become square by shrinking.
    """
    width, height = float(width_px), float(height_px)
    if sample_aspect > 1.0:
        height /= sample_aspect
    elif 0.0 < sample_aspect < 1.0:
        width *= sample_aspect
    scale = min(1.0, *(bound / side for bound, side in ((box[0], width), (box[1], height)) if bound is not None), 1.0)
    return max(1, round(width * scale)), max(1, round(height * scale))


def picture_form(data: bytes | memoryview) -> str | None:
    """Return ``mjpeg``, ``png`` or ``webp`` (FFmpeg's names of codecs) by the first bytes; None if it is neither."""
    head = bytes(data[:12])
    if head[:3] == b"\xff\xd8\xff":
        return "mjpeg"
    if head[:8] == _PNG:
        return "png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return None


def announced_size(data: bytes | memoryview) -> tuple[int, int] | None:
    """Return width and height that a JPEG, PNG or WebP picture announces; None if it does not tell.

    Sources: ITU-T T.81 annex B (JPEG frame header), PNG specification section 11.2.2, WebP container specification.
    """
    form = picture_form(data)
    if form == "png" and len(data) >= 24:
        head = bytes(data[16:24])
        return int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")
    if form == "webp":
        return _webp_size(bytes(data[:30]))
    if form == "mjpeg":
        return _jpeg_size(data)
    return None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    kind = head[12:16]
    if len(head) < 30:
        return None
    if kind == b"VP8 ":
        return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, ((bits >> 14) & 0x3FFF) + 1
    if kind == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    return None


def _jpeg_size(data: bytes | memoryview) -> tuple[int, int] | None:
    at, end = 2, len(data)
    while at + 9 < end:
        if data[at] != 0xFF:
            return None
        kind = data[at + 1]
        if kind == 0xFF:
            at += 1
        elif kind in _JPEG_BARE:
            at += 2
        elif kind in _JPEG_SIZES:
            return (data[at + 7] << 8) | data[at + 8], (data[at + 5] << 8) | data[at + 6]
        else:
            at += 2 + ((data[at + 2] << 8) | data[at + 3])
    return None
