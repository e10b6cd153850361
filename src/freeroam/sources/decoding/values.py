"""What goes into a decoder and what comes out: shapes, facts and frames, as values."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from freeroam.vocabulary.frame import Frame, FrameWish

if TYPE_CHECKING:
    from freeroam.sources.source import SourceFacts

MAX_PIXELS = 50_000_000
LEAST_AHEAD = 2
AHEAD_S = 0.5
CONTAINERS = ("mpegts", "mp4", "matroska", "flv", "avi", "mpegps", "ogg", "h264", "hevc", "rtp")
"""What ``FeedShape.container`` may name; ``None`` lets the decoder find out which of these it is.

``rtp`` is records of a 16-bit length and as many bytes (the framing of RFC 4571): first one session description (SDP)
of one video, then its RTP packets. It must be named, it is never found out.
"""


@dataclass(frozen=True, slots=True)
class DecoderConfig:
    """How decoding is shared out and bounded.

    Attributes:
        processes: Decoder processes; feeds are spread over them.
        max_pixels: Pictures of more pixels are refused before memory is taken for them.
        max_rss_bytes: A decoder process that has grown past this is replaced.
        ahead_frames: Frames a feed may have ready beyond those that were taken; fewer at low rates, see ``ahead_of``.
        unread_bytes: Bytes a feed may hold that its decoder has not read; ``Feed.write`` waits beyond that.
        frame_deadline_s: A decoder that works longer than this without a sign of life is replaced.
        silence_deadline_s: A decoder process that is at work but answers nothing for this long is replaced.
        stillness_deadline_s: The same of one none of whose threads could run; it has a beat to answer in any case.
        ring_bytes: Most that the frames of one decoder process may take in the memory it shares with their readers;
            frames beyond travel as bytes. Taken as it is needed. 0 lets all travel as bytes.
    """

    processes: int = field(default_factory=lambda: min(2, os.cpu_count() or 1))
    max_pixels: int = MAX_PIXELS
    max_rss_bytes: int = 2 * 1024**3
    ahead_frames: int = 4
    unread_bytes: int = 4 * 1024 * 1024
    frame_deadline_s: float = 10.0
    silence_deadline_s: float = 3.0
    stillness_deadline_s: float = 0.75
    ring_bytes: int = 512 * 1024 * 1024

    def ahead_of(self, fps: float) -> int:
        """Return how many frames a feed of ``fps`` may have ready: those of half a second, two at least."""
        return min(self.ahead_frames, max(LEAST_AHEAD, math.ceil(fps * AHEAD_S)))


@dataclass(frozen=True, slots=True)
class FeedShape:
    """What a feed will carry and which frames are wanted of it.

    Attributes:
        wish: Rate and box of the frames.
        container: One of ``CONTAINERS``; None finds out from the bytes.
        lookahead: True where bytes come in bursts or as fast as they are read (HLS, files): whole groups of pictures
            are known before anything is decoded, so that no picture is decoded in vain. False where each picture
            must come out as soon as it is there (RTSP).
        next_due_s: When the next sample is due, on the clock of ``DecodedFrame.time_s``; None begins with the first
            frame.
        skip_until_s: Frames at or before this time are not given; a feed that can seek starts at the keyframe before.
        starts_at_s: The time that the first keyframe shall have: of the run, or of the whole container where the feed
            seeks to its place; None takes the container's timestamps as they are.
        follows: ``pts_s`` and ``time_s`` of the last frame of the run before, where this one is of the same session
            (``rtp`` only): time goes on from there as the sender's clock does, whatever ``starts_at_s`` says.
        owner: Names the video over all its runs, so that one which ends its decoders is known again; never shown.
    """

    wish: FrameWish
    container: str | None = None
    lookahead: bool = True
    next_due_s: float | None = None
    skip_until_s: float | None = None
    starts_at_s: float | None = None
    follows: tuple[float, float] | None = None
    owner: str = ""


@dataclass(frozen=True, slots=True)
class RawShape:
    """How raw pixels lie in memory: rows top to bottom without padding, 8 bits a channel.

    Attributes:
        width_px: Columns.
        height_px: Rows.
        channels: 1 (grey), 3 (RGB) or 4 (RGBA, the last one is ignored).
    """

    width_px: int
    height_px: int
    channels: int


@dataclass(slots=True)
class FeedFacts:
    """What is known of a feed's video; filled in and corrected as it is decoded.

    Attributes:
        codec: As FFmpeg names it.
        width_px: Before scaling.
        height_px: Before scaling.
        fps: Native rate, where the container or the timestamps tell.
        decode: What was decoded of the latest group of pictures: ``keyframes``, ``references`` or ``all``.
        packets: Packets that were read.
        decoded_packets: Packets among them that went through the codec.
        bad_packets: Packets that the codec refused.
        shown_bad_packets: Those among them that the source has counted.
    """

    codec: str | None = None
    width_px: int | None = None
    height_px: int | None = None
    fps: float | None = None
    decode: str | None = None
    packets: int = 0
    decoded_packets: int = 0
    bad_packets: int = 0
    shown_bad_packets: int = 0

    def show_bad(self, facts: SourceFacts) -> None:
        """Add the packets refused since the last time to what the source has passed over."""
        new, self.shown_bad_packets = self.bad_packets - self.shown_bad_packets, self.bad_packets
        if new > 0:
            facts.count_skipped("packets_bad", new)

    def show_in(self, facts: SourceFacts) -> None:
        """Copy what is known into the facts of the source that the feed belongs to."""
        self.show_bad(facts)
        facts.codec, facts.width_px, facts.height_px = self.codec, self.width_px, self.height_px
        facts.fps, facts.decode = self.fps, self.decode


@dataclass(frozen=True, slots=True)
class DecodedFrame:
    """A sampled picture, scaled to the wish.

    Attributes:
        pixels: RGB, 8 bits a channel, rows without padding: ``height_px * width_px * 3`` bytes.
        width_px: Width of ``pixels``.
        height_px: Height of ``pixels``.
        pts_s: The container's own time; it grows within a run. 0 for single pictures.
        time_s: ``pts_s`` moved as ``FeedShape.starts_at_s`` and ``follows`` say; equal to it if both are None.
        due_s: The sample's due time that this frame answers, on the clock of ``time_s``.
        source_width_px: Width before scaling.
        source_height_px: Height before scaling.
        decode_ms: Time the decoder worked for this sample, milliseconds, scaling included.
    """

    pixels: bytes | memoryview
    width_px: int
    height_px: int
    pts_s: float
    time_s: float
    due_s: float
    source_width_px: int
    source_height_px: int
    decode_ms: float

    def named(self, frame_id: str, *, captured_epoch_s: float, due_monotonic_s: float, shift_s: float = 0.0) -> Frame:
        """Return the frame as a source hands it out.

        Args:
            frame_id: The source's own name of it.
            captured_epoch_s: When it was captured, else when it is handed out.
            due_monotonic_s: When it is due to be handed out.
            shift_s: The source's stream time minus ``time_s``.
        """
        return Frame(
            pixels=self.pixels,
            width_px=self.width_px,
            height_px=self.height_px,
            frame_id=frame_id,
            stream_time_s=self.time_s + shift_s,
            sample_time_s=self.due_s + shift_s,
            captured_epoch_s=captured_epoch_s,
            due_monotonic_s=due_monotonic_s,
            source_width_px=self.source_width_px,
            source_height_px=self.source_height_px,
            decode_ms=self.decode_ms,
        )


def milliseconds_id(time_s: float) -> str:
    """Return the name of a frame of a source that names its frames by stream time: milliseconds as a decimal."""
    return str(round(time_s * 1000))


class ByteReader(Protocol):
    """Bytes that can be read anywhere, for containers whose index lies at the end (a file, HTTP ranges)."""

    @property
    def size_bytes(self) -> int:
        """How many bytes there are."""
        ...

    async def read_at(self, offset: int, size: int) -> bytes:
        """Return at most ``size`` bytes from ``offset``; empty only at the end.

        Raises:
            SourceError: They could not be read; the feed's ``decoded`` raises it.
        """
        ...
