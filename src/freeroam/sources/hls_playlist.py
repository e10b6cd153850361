"""Playlists of HLS as values: parsed by the ``m3u8`` library, checked, and the renditions put in order of liking."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urljoin

import m3u8

from freeroam.sources.http_grammar import ByteRange
from freeroam.vocabulary.errors import SourceError, SourceErrorCode
from freeroam.vocabulary.frame import FrameWish

MAX_SEGMENT_S = 3600.0
UNKNOWN_S = 1.0
MAX_SEQUENCE = 2**53
MAX_VARIANTS = 256
TARGET_DURATION_TAG = "#EXT-X-TARGETDURATION:"
DATE_TAG = "#EXT-X-PROGRAM-DATE-TIME:"

_CODEC_COST = {
    "avc1": 0,
    "avc3": 0,
    "mp4v": 0,
    "vp08": 1,
    "hvc1": 1,
    "hev1": 1,
    "vp09": 1,
    "av01": 1,
    "dvh1": 2,
    "dvhe": 2,
    "dav1": 2,
}
"""Video codecs by what a frame of them costs to decode, in coarse steps."""
_AUDIO_CODECS = ("mp4a", "ac-3", "ec-3", "ac-4", "opus", "flac", "fLaC", "alac", "vorbis", "dts", "mhm1", "samr")
_TEXT_CODECS = ("wvtt", "stpp")
_BITS_A_PIXEL = 2.5
"""A usual H.264 rendition spends about 0.1 bit on a pixel of a frame, 25 times a second."""


@dataclass(frozen=True, slots=True)
class Key:
    """How segments are encrypted.

    Attributes:
        method: ``AES-128``, or what cannot be decrypted here.
        url: Absolute address of the key; empty where none is given.
        iv: 16 bytes; None takes the segment's sequence number.
        is_plain_file: Whether the key is simply the 16 bytes at ``url``.
    """

    method: str
    url: str
    iv: bytes | None
    is_plain_file: bool


@dataclass(frozen=True, slots=True)
class InitSection:
    """What a demuxer must read before the segments of fragmented MP4."""

    url: str
    byte_range: ByteRange | None


@dataclass(frozen=True, slots=True)
class Segment:
    """A few seconds of a rendition.

    Attributes:
        sequence: Media sequence number.
        url: Absolute.
        duration_s: As the playlist says.
        is_discontinuity: Whether its timestamps or form do not go on from the one before.
        is_gap: Whether the server says that it is not there.
        captured_epoch_s: Wall time of its first frame, where the playlist says so (each segment after a dated one too).
    """

    sequence: int
    url: str
    duration_s: float
    byte_range: ByteRange | None = None
    key: Key | None = None
    init: InitSection | None = None
    is_discontinuity: bool = False
    is_gap: bool = False
    captured_epoch_s: float | None = None


@dataclass(frozen=True, slots=True)
class MediaPlaylist:
    """The segments of one rendition that are there now.

    Attributes:
        target_s: The longest segment, as announced.
        is_ended: Whether no segment will be added.
        start_offset_s: Where the server wants players to begin: from the beginning, or if negative from the end.
    """

    target_s: float
    segments: tuple[Segment, ...]
    is_ended: bool
    start_offset_s: float | None = None

    @property
    def first_sequence(self) -> int:
        """Number of the first segment; 0 if there is none."""
        return self.segments[0].sequence if self.segments else 0

    @property
    def end_sequence(self) -> int:
        """Number after the last segment."""
        return self.first_sequence + len(self.segments)

    @property
    def duration_s(self) -> float:
        """Sum of all segments."""
        return sum(segment.duration_s for segment in self.segments)


@dataclass(frozen=True, slots=True)
class Variant:
    """A rendition as a master playlist offers it.

    Attributes:
        width_px: None where the playlist does not say, as for ``height_px``.
        bandwidth: Peak bits per second.
        codec: The first four letters of its video codec; empty where unknown.
    """

    url: str
    width_px: int | None
    height_px: int | None
    bandwidth: int
    codec: str = ""

    @property
    def label(self) -> str:
        """What a job's status shows: ``1280x720 2000 kbit/s``."""
        size = f"{self.width_px}x{self.height_px} " if self.width_px and self.height_px else ""
        return f"{size}{self.bandwidth // 1000} kbit/s"

    @property
    def likely_size(self) -> tuple[int, int]:
        """Width and height in pixels; guessed from the bandwidth where the playlist does not say."""
        if self.width_px and self.height_px:
            return self.width_px, self.height_px
        height = math.sqrt(max(self.bandwidth, 1) / _BITS_A_PIXEL * 9 / 16)
        return round(height * 16 / 9), round(height)


def parse_playlist(text: str, base_url: str) -> MediaPlaylist | tuple[Variant, ...]:
    """Return the media playlist, or the usable renditions of a master playlist (none if all are audio).

    Args:
        text: The file.
        base_url: Its address, which relative ones refer to.

    Raises:
        SourceError: ``bad_data``: it is no playlist, or one whose numbers make no sense.
    """
    if not text.lstrip("\ufeff \t\r\n").startswith("#EXTM3U"):
        raise SourceError(SourceErrorCode.BAD_DATA, "this is no playlist: it does not begin with #EXTM3U")
    try:
        parsed = m3u8.loads(text, custom_tags_parser=_lenient_tags)
        return _variants(parsed, base_url) if parsed.is_variant else _media(parsed, base_url)
    except SourceError:
        raise
    except Exception as error:  # the library lets through whatever a malformed line causes
        message = f"the playlist is malformed ({type(error).__name__})"
        raise SourceError(SourceErrorCode.BAD_DATA, message) from None


def order_variants(variants: tuple[Variant, ...], wish: FrameWish) -> list[Variant]:
    """Return renditions in the order to try them.

    First the smallest that is not below the wanted box (a frame fit into the box is not enlarged), then larger ones,
    then those below it, largest first. Among equals the cheaper codec, then the lower bandwidth, then the playlist's
    own order. Without a wanted box the largest comes first.
    """

    def liking(variant: Variant) -> tuple[int, int, int, int]:
        width, height = variant.likely_size
        pixels = width * height
        cost = _CODEC_COST.get(variant.codec, 0)
        if _is_enough(width, height, wish):
            return 0, pixels, cost, variant.bandwidth
        return 1, -pixels, cost, variant.bandwidth

    return sorted(variants, key=liking)


def _is_enough(width: int, height: int, wish: FrameWish) -> bool:
    if wish.width_px is None and wish.height_px is None:
        return False
    return (wish.width_px is not None and width >= wish.width_px) or (
        wish.height_px is not None and height >= wish.height_px
    )


def _lenient_tags(line: str, _lineno: int, data: dict[str, Any], _state: dict[str, Any]) -> bool:
    """Read what the library reads too strictly; True means that the line is done with."""
    if line.startswith(TARGET_DURATION_TAG):
        seconds = float(line[len(TARGET_DURATION_TAG) :])
        data["targetduration"] = math.ceil(seconds)
        return True
    if line.startswith(DATE_TAG):
        try:
            _epoch_s(datetime.fromisoformat(line[len(DATE_TAG) :].strip()))
        except (ValueError, OverflowError):
            return True
    return False


def _epoch_s(moment: datetime) -> float:
    """Return epoch seconds; a date without a zone is UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _variants(parsed: Any, base_url: str) -> tuple[Variant, ...]:
    found = []
    for playlist in parsed.playlists[:MAX_VARIANTS]:
        info = playlist.stream_info
        codecs = [codec.strip() for codec in (info.codecs or "").split(",") if codec.strip()]
        video = next((codec[:4] for codec in codecs if codec[:4] in _CODEC_COST), "")
        only_others = codecs and all(codec.startswith(_AUDIO_CODECS + _TEXT_CODECS) for codec in codecs)
        is_unknown_video = codecs and not video and not only_others
        width, height = info.resolution or (None, None)
        if (only_others and not width) or (is_unknown_video and len(parsed.playlists) > 1):
            continue
        found.append(
            Variant(
                url=urljoin(base_url, playlist.uri.strip()),
                width_px=width if width and 0 < width <= 65535 else None,
                height_px=height if height and 0 < height <= 65535 else None,
                bandwidth=max(0, info.bandwidth or 0),
                codec=video,
            )
        )
    return tuple(found)


def _media(parsed: Any, base_url: str) -> MediaPlaylist:
    if parsed.is_i_frames_only:
        raise SourceError(SourceErrorCode.NO_VIDEO, "playlists of I-frames only are not supported")
    first = parsed.media_sequence or 0
    if not 0 <= first <= MAX_SEQUENCE:
        raise SourceError(SourceErrorCode.BAD_DATA, "the playlist's media sequence makes no sense")
    segments: list[Segment] = []
    keys: dict[int, Key | None] = {}
    inits: dict[int, InitSection | None] = {}
    range_end = 0
    for number, entry in enumerate(parsed.segments):
        if entry.duration is None or not entry.uri:
            continue
        if not 0 <= entry.duration <= MAX_SEGMENT_S:
            raise SourceError(SourceErrorCode.BAD_DATA, f"the playlist has a segment of {entry.duration} s")
        url = urljoin(base_url, entry.uri.strip())
        is_same = bool(segments) and segments[-1].url == url
        byte_range = _byte_range(entry.byterange, range_end if is_same else 0)
        range_end = 0 if byte_range is None else byte_range.offset + (byte_range.length or 0)
        if id(entry.key) not in keys:
            keys[id(entry.key)] = _key(entry.key, base_url)
        if id(entry.init_section) not in inits:
            inits[id(entry.init_section)] = _init(entry.init_section, base_url)
        moment = entry.current_program_date_time
        segments.append(
            Segment(
                sequence=first + number,
                url=url,
                # Some packagers write 0 where they do not know; time must go on all the same.
                duration_s=entry.duration or min(float(parsed.target_duration or UNKNOWN_S), MAX_SEGMENT_S),
                byte_range=byte_range,
                key=keys[id(entry.key)],
                init=inits[id(entry.init_section)],
                is_discontinuity=bool(entry.discontinuity),
                is_gap=bool(entry.gap_tag),
                captured_epoch_s=None if moment is None else _epoch_s(moment),
            )
        )
    return MediaPlaylist(
        target_s=_target_s(parsed.target_duration, segments),
        segments=tuple(segments),
        is_ended=bool(parsed.is_endlist),
        start_offset_s=_start_offset_s(parsed.start),
    )


def _target_s(announced: float | None, segments: list[Segment]) -> float:
    longest_s = max((segment.duration_s for segment in segments), default=0.0)
    return min(max(float(announced or 0), longest_s, 0.1), MAX_SEGMENT_S)


def _start_offset_s(start: Any) -> float | None:
    offset_s = None if start is None else start.time_offset
    return float(offset_s) if offset_s is not None and math.isfinite(float(offset_s)) else None


def _byte_range(text: str | None, implicit_offset: int) -> ByteRange | None:
    """Parse ``length[@offset]``; without an offset it goes on where the one before in the same file ended."""
    if not text:
        return None
    length, at, offset = text.partition("@")
    parsed = ByteRange(int(offset) if at else implicit_offset, int(length))
    if parsed.offset < 0 or not parsed.length or not 0 < parsed.length < MAX_SEQUENCE:
        raise SourceError(SourceErrorCode.BAD_DATA, "the playlist has a byte range that makes no sense")
    return parsed


def _key(entry: Any, base_url: str) -> Key | None:
    if entry is None or (entry.method or "NONE").upper() == "NONE":
        return None
    iv = None
    if entry.iv:
        iv = int(entry.iv, 16).to_bytes(16, "big")
    form = (entry.keyformat or "identity").lower()
    return Key(
        method=str(entry.method).upper(),
        url=urljoin(base_url, entry.uri.strip()) if entry.uri else "",
        iv=iv,
        is_plain_file=form == "identity",
    )


def _init(entry: Any, base_url: str) -> InitSection | None:
    if entry is None or not entry.uri:
        return None
    return InitSection(urljoin(base_url, entry.uri.strip()), _byte_range(entry.byterange, 0))
