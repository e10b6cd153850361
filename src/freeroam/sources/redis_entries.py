"""What an entry of a Redis stream says: its place, its time and its picture; pure, no connection.

Forms (contract, "Redis stream entries"): field ``frame``, ``image`` or ``data`` with a JPEG, PNG or WebP file, or raw
pixels described by ``width``, ``height``, ``channels`` and ``dtype``; optional ``timestamp`` in epoch seconds; ``eof``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from freeroam.sources.decoding.values import RawShape
from freeroam.vocabulary.errors import InvalidInput

PICTURE_FIELDS = (b"frame", b"image", b"data")
GREATEST_SEQUENCE = 2**64 - 1

_ID = re.compile(r"(\d{1,20})(?:-(\d{1,20}))?\Z")
_NOT_SET = {b"", b"0", b"false", b"no"}
_UINT8 = {b"uint8", b"u1", b"|u1"}


@dataclass(frozen=True, slots=True, order=True)
class EntryId:
    """The place of an entry: milliseconds and a sequence number within them."""

    milliseconds: int
    sequence: int = 0

    @classmethod
    def parse(cls, text: str | bytes) -> Self | None:
        """Return the id that ``text`` writes (``1700000000000-0`` or ``1700000000000``), or None."""
        found = _ID.match(text.decode("ascii", "replace") if isinstance(text, bytes) else text)
        if found is None:
            return None
        entry_id = cls(int(found[1]), int(found[2] or 0))
        return entry_id if max(entry_id.milliseconds, entry_id.sequence) <= GREATEST_SEQUENCE else None

    def before(self) -> EntryId:
        """Return the greatest id that is less, so that reading after it begins here."""
        if self.sequence:
            return EntryId(self.milliseconds, self.sequence - 1)
        return EntryId(self.milliseconds - 1, GREATEST_SEQUENCE) if self.milliseconds else self

    def __str__(self) -> str:
        return f"{self.milliseconds}-{self.sequence}"


OLDEST = EntryId(0, 0)
"""Reading after it gives the oldest entry first: no entry may have this id."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry that was understood.

    Attributes:
        entry_id: Its place.
        time_s: Epoch seconds: its ``timestamp``, else those of its id.
        picture: The bytes of the picture; None for an entry that only ends the stream.
        raw: How raw pixels lie in ``picture``; None for a JPEG, PNG or WebP file.
        ends: Whether the stream ends with it.
    """

    entry_id: EntryId
    time_s: float
    picture: bytes | None
    raw: RawShape | None
    ends: bool


class BadEntry(Exception):
    """An entry that holds no usable picture.

    Args:
        reason: A word to count it by.
        message: What is wrong with it.

    Attributes:
        ends: Whether the stream ends with it all the same.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.ends = False


def parse_start(start: str) -> EntryId | None:
    """Return the place after which reading begins, None for ``newest``, whose place only the server knows.

    Raises:
        InvalidInput: ``start`` is neither ``oldest``, ``newest`` nor an entry id.
    """
    if start == "newest":
        return None
    if start == "oldest":
        return OLDEST
    entry_id = EntryId.parse(start)
    if entry_id is None:
        raise InvalidInput("source.start is oldest, newest or an entry id such as 1700000000000-0")
    return entry_id.before()


def parse_entry(entry_id: EntryId, fields: Sequence[bytes] | None, max_pixels: int) -> Entry:
    """Understand one entry.

    Args:
        entry_id: Its place.
        fields: Names and values in turn, as Redis sends them; None for an entry deleted while it was read.
        max_pixels: Raw pictures of more pixels are refused; compressed ones are checked by their decoder.

    Raises:
        BadEntry: It has no picture, a field that cannot be read, or pixels that do not fit their shape.
    """
    named = dict(zip(fields[::2], fields[1::2], strict=False)) if fields else {}
    ends = named.get(b"eof", b"").strip().lower() not in _NOT_SET
    try:
        return _understood(entry_id, named, max_pixels, ends=ends)
    except BadEntry as error:
        error.ends = ends
        raise


def _understood(entry_id: EntryId, named: dict[bytes, bytes], max_pixels: int, *, ends: bool) -> Entry:
    time_s = _time_s(entry_id, named.get(b"timestamp"))
    picture = next((named[name] for name in PICTURE_FIELDS if name in named), None)
    if not picture and ends:
        return Entry(entry_id, time_s, None, None, ends)
    if not picture:
        raise BadEntry("no_picture", "it has no field frame, image or data with a picture")
    raw = _raw_shape(named, picture, max_pixels)
    if raw is None and not _is_picture_file(picture):
        raise BadEntry("bad_picture", "its bytes are no JPEG, PNG or WebP, and it has no width and height")
    return Entry(entry_id, time_s, picture, raw, ends)


def _time_s(entry_id: EntryId, text: bytes | None) -> float:
    if text is None:
        return entry_id.milliseconds / 1000.0
    try:
        time_s = float(text)
    except ValueError:
        time_s = math.nan
    if not math.isfinite(time_s):
        raise BadEntry("bad_timestamp", "its timestamp is no number of seconds")
    return time_s


def _is_picture_file(data: bytes) -> bool:
    return (
        data[:3] == b"\xff\xd8\xff"
        or data[:8] == b"\x89PNG\r\n\x1a\n"
        or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
    )


def _raw_shape(named: dict[bytes, bytes], picture: bytes, max_pixels: int) -> RawShape | None:
    """Return the shape of raw pixels; None for a compressed file, even where its size is told too."""
    if b"width" not in named or b"height" not in named:
        return None
    try:
        width_px, height_px = int(named[b"width"]), int(named[b"height"])
        channels = int(named.get(b"channels", b"3"))
    except ValueError:
        width_px = height_px = channels = 0
    wanted_bytes = width_px * height_px * channels
    if _is_picture_file(picture) and wanted_bytes != len(picture):
        return None
    if min(width_px, height_px) < 1 or channels not in (1, 3, 4):
        raise BadEntry("bad_shape", "its width and height are at least 1, its channels 1, 3 or 4")
    if width_px * height_px > max_pixels:
        raise BadEntry("too_large", f"it has {width_px * height_px} pixels; at most {max_pixels} are allowed")
    if named.get(b"dtype", b"uint8").strip().lower() not in _UINT8:
        raise BadEntry("bad_dtype", "its dtype is not uint8")
    if wanted_bytes != len(picture):
        raise BadEntry("bad_length", f"it has {len(picture)} bytes of pixels; its shape says {wanted_bytes}")
    return RawShape(width_px, height_px, channels)
