"""Bodies that come compressed although the plain one was asked for."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

PIECE_BYTES = 256 * 1024
HEADER_BYTES = 2
"""What tells whether there is a header."""

_GZIP_BITS = 31
_ZLIB_BITS = 15
_BARE_BITS = -15
PLAIN = frozenset({"", "identity"})
UNDERSTOOD = frozenset({"gzip", "x-gzip", "deflate"})


class Inflater:
    """Undoes ``gzip`` or ``deflate`` piece by piece, so that a small body cannot become a large one at once.

    Sources: RFC 9110 section 8.4.1 (what they mean; some servers send ``deflate`` without the header it should have).

    Args:
        encoding: One of ``UNDERSTOOD``.
    """

    def __init__(self, encoding: str) -> None:
        self._is_gzip = encoding != "deflate"
        self._stream = zlib.decompressobj(_GZIP_BITS if self._is_gzip else _ZLIB_BITS)
        self._has_begun = False
        self._head = b""

    @property
    def is_whole(self) -> bool:
        """Whether it ends where its last part does."""
        return self._stream.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Give what ``data`` becomes; what follows the end of a ``deflate`` body is left out.

        Raises:
            zlib.error: It is not compressed so.
        """
        if not self._has_begun and len(self._head) + len(data) < HEADER_BYTES:
            self._head += data
            return
        data, self._head = self._head + data, b""
        while data:
            if self._stream.eof:
                if not self._is_gzip:
                    # The library's stream would keep whatever it is fed behind its end.
                    return
                # Several gzip members one behind the other are one body.
                self._stream = zlib.decompressobj(_GZIP_BITS)
            try:
                piece = self._stream.decompress(data, PIECE_BYTES)
            except zlib.error:
                if self._is_gzip or self._has_begun:
                    raise
                self._stream = zlib.decompressobj(_BARE_BITS)
                piece = self._stream.decompress(data, PIECE_BYTES)
            self._has_begun = True
            if piece:
                yield piece
            data = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
