"""A video that comes as RTP packets, with what a feed's thread needs of a stream of PyAV's."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import TYPE_CHECKING, TypeAlias, cast

import av
from av.video.codeccontext import VideoCodecContext

from freeroam.sources.decoding.rtp_packets import PictureAssembler, ticks_between
from freeroam.sources.decoding.worker_input import PacketInput
from freeroam.vocabulary.errors import SourceError, SourceErrorCode

if TYPE_CHECKING:
    from av.video.stream import VideoStream

    from freeroam.sources.decoding.worker_opening import Limits

Packet: TypeAlias = "av.Packet[VideoStream]"

TIMED_PICTURES = 100
"""After so many the rate is taken as known."""


class RtpVideo:
    """One video of a session.

    Args:
        source: Gives the session description, then one packet after the other.
        limits: Bounds of this process.

    Attributes:
        codec_context: Decodes its packets.
        time_base: Seconds a tick of its packets' times.
        guessed_rate: None; there is nothing to guess by.

    Raises:
        SourceError: ``codec``: nothing here unpacks or decodes it; ``bad_data``: there is no description.
    """

    guessed_rate: Fraction | None = None

    def __init__(self, source: PacketInput, limits: Limits) -> None:
        description = source.next_record()
        if description is None:
            raise SourceError(SourceErrorCode.BAD_DATA, "the session ended before it began")
        self._source = source
        self._assembler = PictureAssembler(description)
        self.time_base = Fraction(1, self._assembler.clock_hz)
        self.codec_context = _decoder(self._assembler.codec, self._assembler.extradata, limits)
        self._first = self._last = 0
        self._timed = 0

    @property
    def average_rate(self) -> Fraction | None:
        """Pictures a second so far; None before there are a few."""
        span = self._last - self._first
        return None if self._timed < 2 or span <= 0 else Fraction(self._timed - 1, 1) / (span * self.time_base)

    @property
    def broken(self) -> int:
        """Pictures of which a part did not come."""
        return self._assembler.broken

    def passed_s(self, earlier_s: float, later_s: float) -> float:
        """Return the seconds between two times of the session's packets, also where stamps wrapped around between."""
        earlier, later = (round(time_s / self.time_base) for time_s in (earlier_s, later_s))
        return float(ticks_between(earlier, later) * self.time_base)

    def packets(self) -> Iterator[Packet]:
        """Give one packet a picture, in the order of decoding, until the session ends.

        Raises:
            Closed: The feed was closed.
        """
        while (record := self._source.next_record()) is not None:
            for picture in self._assembler.push(record):
                packet = av.Packet(picture.data)
                packet.pts, packet.time_base = picture.time, self.time_base
                packet.is_keyframe = picture.is_key
                self._note_time(picture.time)
                yield cast("Packet", packet)

    def _note_time(self, time: int) -> None:
        if self._timed < TIMED_PICTURES:
            self._first = time if not self._timed else min(self._first, time)
            self._last = time if not self._timed else max(self._last, time)
            self._timed += 1


def _decoder(codec: str, extradata: bytes, limits: Limits) -> VideoCodecContext:
    try:
        context = av.CodecContext.create(codec, "r")
    except (ValueError, av.error.FFmpegError) as error:
        raise SourceError(SourceErrorCode.CODEC, f"no decoder knows {codec}") from error
    assert isinstance(context, VideoCodecContext)
    context.thread_count = 1
    context.options = {"max_pixels": str(limits.max_pixels)}
    if extradata:
        context.extradata = extradata
    return context
