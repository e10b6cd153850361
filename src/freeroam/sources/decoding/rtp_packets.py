"""RTP packets put together to coded pictures, whatever the codec's way of packing is.

FFmpeg's own demuxer of session descriptions is not used: after every 280,000 bytes it writes a receiver report to where
it reads, and with a reader that cannot be written to it never returns (seen with libavformat 62).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from freeroam.sources.decoding.rtp_jpeg import JpegUnpacker
from freeroam.sources.decoding.rtp_units import H264Unpacker, HevcUnpacker, Unpacker
from freeroam.sources.decoding.rtp_whole import Mpeg4Unpacker, Vp8Unpacker, Vp9Unpacker
from freeroam.vocabulary.errors import SourceError, SourceErrorCode

HEADER_BYTES = 12
STAMPS = 2**32
CLOCK_HZ = 90_000
MOST_PICTURE_BYTES = 64 * 1024 * 1024
"""No picture is larger; a sender that never ends one must not fill the memory."""

_STATIC = {26: "JPEG"}
_MEDIA = re.compile(r"^m=video \d+ \S+ (\d+)", re.MULTILINE)
_UNPACKERS: dict[str, tuple[str, Callable[[str], Unpacker]]] = {
    "H264": ("h264", H264Unpacker),
    "H265": ("hevc", HevcUnpacker),
    "HEVC": ("hevc", HevcUnpacker),
    "JPEG": ("mjpeg", JpegUnpacker),
    "MP4V-ES": ("mpeg4", Mpeg4Unpacker),
    "VP8": ("vp8", Vp8Unpacker),
    "VP9": ("vp9", Vp9Unpacker),
}


@dataclass(frozen=True, slots=True)
class CodedPicture:
    """One picture as the codec takes it.

    Attributes:
        data: Its bytes.
        time: When it is shown, in ticks of the sender's clock: its stamp, counted on where stamps wrap around.
        is_key: Whether decoding can begin with it.
    """

    data: bytes
    time: int
    is_key: bool


class PictureAssembler:
    """Puts the pictures of one video together.

    Source: RFC 3550, 5.1: packets of one picture have one timestamp, the last of them a mark.

    Args:
        description: The session description of the one video.

    Attributes:
        codec: As FFmpeg names it.
        clock_hz: Ticks a second.
        extradata: Parameter sets that the description brings; empty if it brings none.
        broken: Pictures of which a part did not come.

    Raises:
        SourceError: ``codec``: nothing here unpacks it.
    """

    def __init__(self, description: bytes) -> None:
        text = description.decode("utf-8", "replace")
        media = _MEDIA.search(text)
        self._payload_type = int(media[1]) if media else -1
        mapped = re.search(rf"^a=rtpmap:{self._payload_type} ([^/\s]+)(?:/(\d+))?", text, re.MULTILINE)
        name = mapped[1].upper() if mapped else _STATIC.get(self._payload_type, f"payload type {self._payload_type}")
        if name not in _UNPACKERS:
            known = ", ".join(_UNPACKERS)
            raise SourceError(SourceErrorCode.CODEC, f"{name} cannot be unpacked from RTP; {known} can")
        form = re.search(rf"^a=fmtp:{self._payload_type} (.*)$", text, re.MULTILINE)
        self.codec, make = _UNPACKERS[name]
        self.clock_hz = int(mapped[2]) if mapped and mapped[2] and int(mapped[2]) > 0 else CLOCK_HZ
        self._unpacker = make(form[1].strip() if form else "")
        self.extradata = self._unpacker.extradata
        self.broken = 0
        self._sequence: int | None = None
        self._stamp: int | None = None
        self._time = 0
        self._is_broken = False

    def push(self, packet: bytes) -> list[CodedPicture]:
        """Take the next packet; return the pictures that are complete with it."""
        if len(packet) < HEADER_BYTES or packet[0] >> 6 != 2 or packet[1] & 0x7F != self._payload_type:
            return []
        payload = _payload_of(packet)
        sequence, stamp = int.from_bytes(packet[2:4], "big"), int.from_bytes(packet[4:8], "big")
        is_gap = self._sequence is not None and sequence != (self._sequence + 1) & 0xFFFF
        self._sequence = sequence
        if is_gap:
            # What is missing may be the end of one picture and the beginning of the next, which tells that itself.
            self._unpacker.lose()
            self._is_broken = True
        done = self._finish() if self._stamp is not None and stamp != self._stamp else []
        if self._stamp is None:
            self._time = stamp
        else:
            # Stamps wrap around, and go back where pictures are not shown in the order in which they are coded.
            self._time += ticks_between(self._stamp, stamp)
        self._stamp = stamp
        if self._unpacker.size + len(payload) > MOST_PICTURE_BYTES:
            self._unpacker.finish()
            self._is_broken = True
        elif payload:
            self._unpacker.add(payload)
        return done + self._finish() if packet[1] & 0x80 else done

    def _finish(self) -> list[CodedPicture]:
        """Return the picture that ends here, unless nothing of it came."""
        data, is_key = self._unpacker.finish()
        is_broken, self._is_broken = self._is_broken, False
        self.broken += is_broken
        return [CodedPicture(data, self._time, is_key)] if data else []


def ticks_between(earlier: int, later: int) -> int:
    """Return how many ticks ``later`` is after ``earlier``, of which either may have been counted on or wrapped."""
    return (later - earlier + STAMPS // 2) % STAMPS - STAMPS // 2


def _payload_of(packet: bytes) -> bytes:
    """Return what a packet carries: without header, sources, extension and padding."""
    first, at, end = packet[0], HEADER_BYTES, len(packet)
    at += 4 * (first & 0x0F)
    if first & 0x10:
        at += 4 + 4 * int.from_bytes(packet[at + 2 : at + 4], "big")
    if first & 0x20:
        end -= packet[-1]
    return packet[at:end]
