"""What a coded H.264 or H.265 picture says of itself in its NAL unit headers, without decoding it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

H264 = "h264"
HEVC = "hevc"
Buffer: TypeAlias = bytes | bytearray | memoryview

HEAD_BYTES = 4096

_H264_IDR = 5
_H264_SLICES = (1, 2, 3, 4, _H264_IDR)
_HEVC_FIRST_NON_SLICE = 32
_HEVC_LAST_NON_REFERENCE = 14
_HEVC_CLOSED = (18, 19, 20)  # BLA without leading pictures, IDR with decodable ones, IDR without


class PictureReader:
    """Reads picture headers of one stream.

    Sources: ITU-T H.264 section 7.4.1 (``nal_ref_idc`` 0: no other picture needs it); ITU-T H.265 table 7-1 (of even
    types up to 14 no picture of the same temporal sub-layer needs them, so in the highest sub-layer none at all does).

    Args:
        codec: As FFmpeg names it; of others than ``h264`` and ``hevc`` nothing is known.
        extradata: The container's codec configuration.
    """

    def __init__(self, codec: str, extradata: bytes | None) -> None:
        self._codec = codec
        self._length_bytes = length_size(codec, extradata)
        self._highest_layer = 0
        self._keys = 0

    def read(self, data: Buffer, *, is_key: bool) -> tuple[bool, bool]:
        """Return whether other pictures may need this one, and whether nothing after it needs what came before it.

        Args:
            data: One coded picture, with start codes or with lengths.
            is_key: Whether the demuxer calls it a keyframe; believed where the headers do not tell.
        """
        self._keys += is_key
        # The first slice is near the beginning, so that a large picture need not be copied to look at it.
        head = bytes(memoryview(data)[:HEAD_BYTES])
        told = self._tell(head)
        if told is None and memoryview(data).nbytes > HEAD_BYTES:
            told = self._tell(bytes(data))
        return (True, is_key) if told is None else told

    def _tell(self, data: bytes) -> tuple[bool, bool] | None:
        """Return what the first slice in ``data`` says; None if there is none."""
        if self._codec == H264:
            for header, _ in _headers(data, self._length_bytes):
                if (kind := header & 0x1F) in _H264_SLICES:
                    return bool(header & 0x60), kind == _H264_IDR
        elif self._codec == HEVC:
            for header, second in _headers(data, self._length_bytes):
                if (kind := (header >> 1) & 0x3F) < _HEVC_FIRST_NON_SLICE:
                    layer = max(0, (second & 7) - 1)
                    self._highest_layer = max(self._highest_layer, layer)
                    is_unneeded = (
                        kind <= _HEVC_LAST_NON_REFERENCE
                        and kind % 2 == 0
                        and layer == self._highest_layer
                        # How many layers there are is known once a whole group was seen.
                        and self._keys > 1
                    )
                    return not is_unneeded, kind in _HEVC_CLOSED
        return None


def length_size(codec: str, extradata: bytes | None) -> int:
    """Return how many bytes hold the length before each unit; 0 means start codes (ISO/IEC 14496-15: avcC, hvcC)."""
    if not extradata or extradata[0] != 1:
        return 0
    at = {H264: 4, HEVC: 21}.get(codec)
    return 0 if at is None or len(extradata) <= at else (extradata[at] & 3) + 1


def _headers(data: bytes, length_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield the first two bytes of each unit."""
    if length_bytes:
        at = 0
        while at + length_bytes + 1 < len(data):
            size = int.from_bytes(data[at : at + length_bytes], "big")
            at += length_bytes
            yield data[at], data[at + 1]
            at += size
        return
    at = data.find(b"\0\0\1")
    while at >= 0 and at + 4 < len(data):
        yield data[at + 3], data[at + 4]
        at = data.find(b"\0\0\1", at + 3)
