"""The grammar of HTTP that fetching needs: ranges, status codes, the headers a user may set; pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from freeroam.vocabulary.errors import InvalidInput, SourceErrorCode

FINAL = "final"
"""``detail`` of an error that asking again will not mend."""

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,128}")
_OWN_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "range",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_STATUS_CODES = {
    401: SourceErrorCode.AUTH,
    403: SourceErrorCode.AUTH,
    404: SourceErrorCode.NOT_FOUND,
    407: SourceErrorCode.AUTH,
    408: SourceErrorCode.TIMEOUT,
    410: SourceErrorCode.NOT_FOUND,
    425: SourceErrorCode.UNAVAILABLE,
    429: SourceErrorCode.UNAVAILABLE,
    504: SourceErrorCode.TIMEOUT,
}


@dataclass(frozen=True, slots=True)
class ByteRange:
    """``length`` bytes from ``offset``; a length of None reads to the end."""

    offset: int
    length: int | None = None

    @property
    def header(self) -> str:
        """The value of a ``Range`` header."""
        last = "" if self.length is None else str(self.offset + self.length - 1)
        return f"bytes={self.offset}-{last}"


def status_code(status: int) -> SourceErrorCode:
    """Return what an answer other than 200 and 206 means."""
    return _STATUS_CODES.get(status, SourceErrorCode.SERVER)


def parse_content_range(text: str) -> tuple[int, int | None] | None:
    """Return first byte and total length (None: unknown) of a ``Content-Range``; None if it is malformed."""
    match = _CONTENT_RANGE.fullmatch(text)
    if match is None:
        return None
    return int(match[1]), None if match[3] == "*" else int(match[3])


def cut(data: bytes, skip_bytes: int, length: int | None) -> bytes:
    """Return ``length`` bytes of ``data`` after ``skip_bytes``; all the rest if ``length`` is None."""
    if skip_bytes == 0 and (length is None or length == len(data)):
        return data
    return data[skip_bytes : None if length is None else skip_bytes + length]


def ascii_path(path: str) -> bytes:
    """Percent-encode what is not ASCII; the rest is sent as it was written."""
    return path.encode("ascii") if path.isascii() else b"".join(_encoded(byte) for byte in path.encode("utf-8"))


def _encoded(byte: int) -> bytes:
    return bytes((byte,)) if byte < 0x80 else f"%{byte:02X}".encode()


def checked_headers(headers: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return a user's request headers as they are sent.

    Raises:
        InvalidInput: One is malformed, or one that the client itself sets.
    """
    checked = []
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or name.lower() in _OWN_HEADERS or name.lower().startswith("proxy-"):
            raise InvalidInput(f"the request header {name[:64]!r} cannot be set")
        if len(value) > 8192 or any(
            ord(mark) < 0x20 or 0x7F <= ord(mark) <= 0xFF or ord(mark) > 0xFF for mark in value
        ):
            raise InvalidInput(f"the value of the request header {name[:64]!r} holds characters that headers cannot")
        checked.append((name.encode(), value.strip().encode()))
    return checked
