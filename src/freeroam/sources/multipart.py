"""Takes the pictures out of a ``multipart/x-mixed-replace`` body as cameras send it, however loosely; pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from freeroam.vocabulary.errors import SourceError, SourceErrorCode

MAX_HEAD_BYTES = 16 * 1024
JPEG_PADDING_BYTES = 64
"""Some cameras fill a picture up behind its last marker."""

_BOUNDARY = re.compile(r"boundary\s*=\s*(\"(?P<quoted>[^\"]{1,200})\"|(?P<plain>[^;\s]{1,200}))", re.IGNORECASE)
_LENGTH = re.compile(rb"^content-length\s*:\s*(\d{1,12})\s*$", re.IGNORECASE | re.MULTILINE)
_BLANK_LINE = re.compile(rb"\r?\n[ \t]*\r?\n")


class MultipartParser:
    """Cuts a body into parts as it arrives.

    A part with a ``Content-Length`` is taken by it, so that a boundary's bytes inside a picture do no harm; one
    without it, or whose length is seen to be wrong, is searched for the next boundary. A boundary that the header
    names with its dashes, or wrongly, or that no header names, is taken as the body shows it.

    Args:
        content_type: The whole header.
        max_part_bytes: Longest part accepted.
    """

    def __init__(self, content_type: str, max_part_bytes: int) -> None:
        match = _BOUNDARY.search(content_type)
        named = (match["quoted"] or match["plain"]) if match else ""
        self._mark = b"--" + named.removeprefix("--").encode("latin-1", "replace") if named else b""
        self._max_part_bytes = max_part_bytes
        self._buffer = bytearray()
        self._body_start = -1
        self._length: int | None = None
        self._searched = 0
        self._has_begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Add bytes and give every part that is complete now, without its headers.

        Raises:
            SourceError: ``bad_data``: a part or its headers are too long.
        """
        self._buffer += data
        while True:
            if self._body_start < 0 and not self._find_head():
                return
            part = self._take_body()
            if part is None:
                return
            if part:
                yield part

    def _find_head(self) -> bool:
        """Find the next part's headers; return whether all of them are there."""
        buffer = self._buffer
        if not self._mark or (not self._has_begun and self._mark not in buffer):
            self._mark = self._guess_mark() or self._mark
        start = buffer.find(self._mark) if self._mark else -1
        blank = _BLANK_LINE.search(buffer, start + len(self._mark)) if start >= 0 else None
        if blank is None:
            if len(buffer) > MAX_HEAD_BYTES + (max(start, 0)):
                raise SourceError(SourceErrorCode.BAD_DATA, "the parts of the stream have no readable headers")
            return False
        length = _LENGTH.search(buffer[start : blank.end()].replace(b"\r", b""))
        self._length = int(length[1]) if length else None
        if self._length is not None and self._length > self._max_part_bytes:
            raise self._too_long()
        self._body_start = blank.end()
        self._searched = self._body_start
        self._has_begun = True
        return True

    def _take_body(self) -> bytes | None:
        """Return the part whose headers were read, once it is complete."""
        buffer = self._buffer
        if self._length:
            end = self._body_start + self._length
            if len(buffer) < end:
                return None
            is_end = self._is_end(end)
            if is_end is None:
                return None
            if not is_end:
                self._length = None
        if not self._length:
            end = buffer.find(self._mark, self._searched)
            if end < 0:
                self._searched = max(self._body_start, len(buffer) - len(self._mark))
                if len(buffer) - self._body_start > self._max_part_bytes:
                    raise self._too_long()
                return None
        part = bytes(buffer[self._body_start : end])
        if not self._length:
            part = part.removesuffix(b"\n").removesuffix(b"\r")
        del buffer[:end]
        self._body_start = -1
        return part

    def _is_end(self, end: int) -> bool | None:
        """Return whether a part ends where it says; None if that cannot be told yet.

        The next boundary may come with the next picture only. A JPEG that ends as one does is not kept waiting for it.
        """
        buffer = self._buffer
        rest = bytes(buffer[end : end + len(self._mark) + 4]).lstrip(b"\r\n")
        if rest:
            return self._mark.startswith(rest[: len(self._mark)])
        is_jpeg = buffer[self._body_start : self._body_start + 2] == b"\xff\xd8"
        if not is_jpeg:
            return True
        tail = bytes(buffer[max(self._body_start, end - JPEG_PADDING_BYTES) : end]).rstrip(b"\0\xff\r\n ")
        return True if tail.endswith(b"\xff\xd9") else None

    def _guess_mark(self) -> bytes:
        """Return the first line that begins with two dashes, once it is complete."""
        match = re.search(rb"(?:^|\n)(--[^\r\n]{1,200})\r?\n", self._buffer)
        return match[1] if match else b""

    def _too_long(self) -> SourceError:
        message = f"a part of the stream is longer than {self._max_part_bytes} bytes (SOURCE_PICTURE_BYTES)"
        return SourceError(SourceErrorCode.BAD_DATA, message)
