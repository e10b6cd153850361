"""How JPEG is packed into RTP: without its headers, which are written anew.

Source: RFC 2435. Huffman tables are left out: they are always the ones of JPEG's annex K, which decoders of Motion JPEG
know.
"""

from __future__ import annotations

MAIN_BYTES, RESTART_BYTES, TABLES_BYTES = 8, 4, 4
TABLE_COEFFICIENTS = 64
LONGEST_SEGMENT_BYTES = 4 + 1 + 2 * TABLE_COEFFICIENTS
END = b"\xff\xd9"

# ITU-T T.81, tables K.1 and K.2, row by row.
_LUMA = (
    *(16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55),
    *(14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62),
    *(18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92),
    *(49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    *(17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99),
    *(24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99),
    *(99,) * 32,
)
_DIAGONALS = sorted(
    ((row, column) for row in range(8) for column in range(8)),
    key=lambda place: (sum(place), place[0] if sum(place) % 2 else place[1]),
)
_ZIGZAG = tuple(row * 8 + column for row, column in _DIAGONALS)


class JpegUnpacker:
    """Writes whole JPEG files from what comes.

    Args:
        form: The ``fmtp`` parameters of the description; JPEG has none.
    """

    extradata = b""

    def __init__(self, form: str) -> None:  # noqa: ARG002 - JPEG has none
        self.size = 0
        self._pieces: list[bytes] = []
        self._head = b""
        self._is_lost = False
        self._tables_of: dict[int, bytes] = {}

    def add(self, payload: bytes) -> None:
        """Take the next piece of the scan; the first of a picture says what its headers must say."""
        if len(payload) < MAIN_BYTES:
            return
        offset, kind, quality = int.from_bytes(payload[1:4], "big"), payload[4], payload[5]
        at, restart = MAIN_BYTES, 0
        if kind >= 64:
            restart, at = int.from_bytes(payload[at : at + 2], "big"), at + RESTART_BYTES
        if offset == 0:
            self._pieces, self.size = [], 0
            if quality >= 128:
                length = int.from_bytes(payload[at + 2 : at + TABLES_BYTES], "big")
                precision, tables = payload[at + 1 : at + 2], payload[at + TABLES_BYTES : at + TABLES_BYTES + length]
                at += TABLES_BYTES + length
                # A quality of 255 may change its tables with every picture, so it always brings them.
                if tables:
                    self._tables_of[quality] = _table_segments(tables, precision[0] if precision else 0)
            else:
                self._tables_of.setdefault(quality, _table_segments(_scaled_tables(quality), 0))
            tables = self._tables_of.get(quality, b"")
            self._head = _headers(kind, payload[6] * 8, payload[7] * 8, tables, restart) if tables else b""
        if offset != self.size:
            self._is_lost = True
        self._pieces.append(payload[at:])
        self.size += len(payload) - at

    def lose(self) -> None:
        """Remember that this picture has a hole; what comes after it tells by its place."""

    def finish(self) -> tuple[bytes, bool]:
        """Return the file; nothing of a picture with a hole, or without tables."""
        is_whole = bool(self._head and self._pieces and not self._is_lost)
        scan = b"".join(self._pieces)
        data = self._head + scan + (b"" if scan.endswith(END) else END) if is_whole else b""
        self._pieces, self._head, self.size, self._is_lost = [], b"", 0, False
        return data, is_whole


def _scaled_tables(quality: int) -> bytes:
    """Return both tables for a quality of 1 to 99, as RFC 2435, 4.2 computes them."""
    factor = min(max(quality, 1), 99)
    scale = 5000 // factor if factor < 50 else 200 - 2 * factor
    tables = ([min(max((table[place] * scale + 50) // 100, 1), 255) for place in _ZIGZAG] for table in (_LUMA, _CHROMA))
    return bytes(value for table in tables for value in table)


def _table_segments(tables: bytes, precision: int) -> bytes:
    """Return the segments that define the tables; bit ``n`` of ``precision``: table ``n`` has 16-bit values."""
    segments, at, number = [], 0, 0
    while at < len(tables) and number < 4:
        is_wide = precision >> number & 1
        size = TABLE_COEFFICIENTS * (1 + is_wide)
        table = tables[at : at + size]
        if len(table) < size:
            break
        segments.append(_segment(0xDB, bytes([is_wide << 4 | number]) + table))
        at, number = at + size, number + 1
    return b"".join(segments)


def _headers(kind: int, width_px: int, height_px: int, tables: bytes, restart: int) -> bytes:
    """Return all that stands before the scan; of ``kind`` 0 colour has half the columns, of 1 half the rows too."""
    chroma_table = int(len(tables) > LONGEST_SEGMENT_BYTES)
    sampling = 0x22 if kind & 0x3F == 1 else 0x21
    size = height_px.to_bytes(2, "big") + width_px.to_bytes(2, "big")
    parts = bytes([1, sampling, 0, 2, 0x11, chroma_table, 3, 0x11, chroma_table])
    return b"".join(
        (
            b"\xff\xd8",
            tables,
            _segment(0xDD, restart.to_bytes(2, "big")) if restart else b"",
            _segment(0xC0, b"\x08" + size + b"\x03" + parts),
            _segment(0xDA, b"\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00"),
        )
    )


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content
