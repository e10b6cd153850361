"""Where in a run of RTP packets a group of pictures begins, told by their headers alone."""

from __future__ import annotations

import re

_RTPMAP = re.compile(rb"a=rtpmap:\d+ ([A-Za-z0-9-]+)/")
_RTP_HEADER_BYTES = 12
_UNIT_BYTES = 5

_H264_STARTS = frozenset({5, 7})  # a slice of an IDR picture, a sequence parameter set
_H264_AGGREGATE, _H264_FRAGMENT = 24, 28
_HEVC_STARTS = frozenset({*range(16, 22), 32, 33})  # pictures that decoding can begin with, parameter sets
_HEVC_AGGREGATE, _HEVC_FRAGMENT = 48, 49


class GroupFinder:
    """Finds the packets with which decoding can begin.

    Sources: RFC 3550 section 5.1 (header), RFC 6184 section 5 (H.264), RFC 7798 section 4.4 (H.265).

    Args:
        description: The session description of the one video; of other codecs than these two nothing is found.
    """

    def __init__(self, description: bytes) -> None:
        named = _RTPMAP.search(description)
        codec = b"" if named is None else named.group(1).upper()
        self._is_begun = {b"H264": _begins_h264, b"H265": _begins_hevc}.get(codec)
        self._group: bytes | None = None

    def last_start(self, records: bytes) -> int | None:
        """Return where the last group that begins in ``records`` does; None if none does.

        Args:
            records: Whole packets in order, each behind its length as 16 bits.
        """
        if self._is_begun is None:
            return None
        found, at = None, 0
        while at + 2 + _RTP_HEADER_BYTES < len(records):
            packet = at + 2
            end = packet + int.from_bytes(records[at:packet], "big")
            payload = packet + _payload_at(records, packet)
            # The parameter sets and the slices of one picture have one time.
            time = records[packet + 4 : packet + 8]
            unit = records[payload : min(payload + _UNIT_BYTES, end)]
            if unit and time != self._group and self._is_begun(unit.ljust(_UNIT_BYTES, b"\0")):
                found, self._group = at, time
            at = end
        return found


def _payload_at(records: bytes, packet: int) -> int:
    """Return where a packet's payload begins in it."""
    first = records[packet]
    at = _RTP_HEADER_BYTES + 4 * (first & 0x0F)
    if first & 0x10 and packet + at + 4 <= len(records):
        at += 4 + 4 * int.from_bytes(records[packet + at + 2 : packet + at + 4], "big")
    return at


def _begins_h264(unit: bytes) -> bool:
    kind = unit[0] & 0x1F
    if kind == _H264_FRAGMENT:
        return bool(unit[1] & 0x80) and unit[1] & 0x1F in _H264_STARTS
    if kind == _H264_AGGREGATE:
        # A 16-bit length stands before the first unit in it.
        return unit[3] & 0x1F in _H264_STARTS
    return kind in _H264_STARTS


def _begins_hevc(unit: bytes) -> bool:
    kind = unit[0] >> 1 & 0x3F
    if kind == _HEVC_FRAGMENT:
        return bool(unit[2] & 0x80) and unit[2] & 0x3F in _HEVC_STARTS
    if kind == _HEVC_AGGREGATE:
        return unit[4] >> 1 & 0x3F in _HEVC_STARTS
    return kind in _HEVC_STARTS
