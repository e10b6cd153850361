"""Video files by HTTP, read anywhere: by ranges where the server offers them, else by way of a temporary file."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import IO

from freeroam.sources.fetching import FetchSession
from freeroam.sources.hls_segments import TS_PACKET_BYTES
from freeroam.sources.http_answers import Response
from freeroam.sources.http_grammar import ByteRange
from freeroam.vocabulary.errors import SourceError, SourceErrorCode

MAX_TEMPORARY_BYTES = 2 * 1024**3
ALL_TEMPORARY_BYTES = 8 * 1024**3
SKIP_BYTES = 512 * 1024
"""A step ahead of at most so much is read over; a longer one asks anew."""

_START_CODES = (b"\x00\x00\x00\x01", b"\x00\x00\x01")


def container_of_file(head: bytes) -> str | None:
    """Return the container of a file as ``FeedShape`` names it, told by its first bytes; None if none is known."""
    if head[4:8] in {b"ftyp", b"moov", b"moof", b"mdat", b"styp", b"free", b"skip", b"wide", b"pnot"}:
        return "mp4"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    if head.startswith(b"FLV\x01"):
        return "flv"
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return "avi"
    if head.startswith(b"OggS"):
        return "ogg"
    if head.startswith(b"\x00\x00\x01\xba"):
        return "mpegps"
    for start in range(min(len(head), TS_PACKET_BYTES)):
        marks = head[start : start + 3 * TS_PACKET_BYTES : TS_PACKET_BYTES]
        if len(marks) == 3 and set(marks) == {0x47}:
            return "mpegts"
    for code in _START_CODES:
        if head.startswith(code) and len(head) > len(code):
            return "hevc" if head[len(code)] in {0x40, 0x42, 0x44} else "h264"
    return None


def index_is_late(head: bytes) -> bool:
    """Return whether an MP4 file must be read elsewhere than in order: its index does not come before its data."""
    at = 0
    while at + 8 <= len(head):
        size, name = int.from_bytes(head[at : at + 4], "big"), head[at + 4 : at + 8]
        if name in {b"moov", b"moof"}:
            return False
        if name == b"mdat":
            return True
        if size == 1:
            size = int.from_bytes(head[at + 8 : at + 16], "big")
        if size < 8:
            return True
        at += size
    return True


class RangeReader:
    """Bytes of a file on a server that answers ranges; one request goes on as long as it is read in order.

    Args:
        session: Fetches for the stream.
        url: Of the file.
        first: An answer that begins at offset 0, status 206.
    """

    def __init__(self, session: FetchSession, url: str, first: Response) -> None:
        total = first.total_bytes
        assert total is not None
        self.size_bytes = total
        self._session = session
        self._url = url
        self._response: Response | None = first
        self._pieces: AsyncGenerator[bytes, None] | None = first.pieces(name="file")
        self._at = 0
        self._held = b""

    async def read_at(self, offset: int, size: int) -> bytes:
        """Return at most ``size`` bytes from ``offset``; empty only at the end.

        Raises:
            SourceError: They could not be fetched.
        """
        if offset >= self.size_bytes or size <= 0:
            return b""
        if not 0 <= offset - self._at <= SKIP_BYTES or self._pieces is None:
            await self._ask(offset)
        try:
            while self._at + len(self._held) <= offset:
                self._at += len(self._held)
                self._held = b""
                assert self._pieces is not None
                piece = await anext(self._pieces, None)
                if piece is None:
                    raise SourceError(SourceErrorCode.BAD_DATA, "the file on the server ends early")
                self._held = piece
        except SourceError:
            await self.aclose()
            raise
        start = offset - self._at
        data = self._held[start : start + size]
        self._held = self._held[start + len(data) :]
        self._at = offset + len(data)
        return data

    async def aclose(self) -> None:
        """Close the request that is open."""
        pieces, self._pieces = self._pieces, None
        response, self._response = self._response, None
        self._held = b""
        if pieces is not None:
            await pieces.aclose()
        if response is not None:
            await response.aclose()

    async def _ask(self, offset: int) -> None:
        await self.aclose()
        response = await self._session.open(self._url, ByteRange(offset))
        if response.skip_bytes or response.total_bytes != self.size_bytes:
            await response.aclose()
            raise SourceError(SourceErrorCode.BAD_DATA, "the file on the server changed, or it answers ranges no more")
        self._response = response
        self._pieces = response.pieces(name="file")
        self._at = offset


class TemporarySpace:
    """What temporary files may take of the disk.

    Args:
        limit_bytes: The most of all together.
        file_bytes: The most of one.

    Attributes:
        used_bytes: What they take now.
        refused: How many were given up because nothing was left.
    """

    def __init__(self, limit_bytes: int = ALL_TEMPORARY_BYTES, file_bytes: int = MAX_TEMPORARY_BYTES) -> None:
        self._file_bytes = file_bytes
        self._limit_bytes = limit_bytes
        self.used_bytes = 0
        self.refused = 0

    def check(self, size_bytes: int) -> None:
        """Refuse a file that is too long.

        Raises:
            SourceError: ``bad_data``: it is longer than one may be.
        """
        if size_bytes > self._file_bytes:
            message = (
                f"the recording is longer than the {self._file_bytes} bytes that are read of one whose server does not "
                "give it in ranges (SOURCE_FILE_BYTES)"
            )
            raise SourceError(SourceErrorCode.BAD_DATA, message)

    def take(self, size_bytes: int) -> None:
        """Take some of it.

        Raises:
            SourceError: ``unavailable``: that much is not left.
        """
        if self.used_bytes + size_bytes > self._limit_bytes:
            self.refused += 1
            message = (
                f"recordings that their servers do not give in ranges fill the {self._limit_bytes} bytes for temporary "
                "files (SOURCE_DISK_BYTES); try again when another has been read"
            )
            raise SourceError(SourceErrorCode.UNAVAILABLE, message)
        self.used_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        """Give back what was taken."""
        self.used_bytes -= size_bytes


class TemporaryReader:
    """Bytes of a file that was fetched whole, because its server answers no ranges; unlinked from the beginning."""

    def __init__(self, file: IO[bytes], size_bytes: int, space: TemporarySpace) -> None:
        self.size_bytes = size_bytes
        self._file = file
        self._space: TemporarySpace | None = space

    @classmethod
    async def fetch(cls, response: Response, space: TemporarySpace) -> TemporaryReader:
        """Read ``response`` to its end.

        Args:
            response: Gives the file.
            space: What the file is charged to until it is closed.

        Raises:
            SourceError: ``bad_data``: longer than a file may be, or broken off; ``timeout``; ``unavailable``: no space
                is left.
        """
        space.check(response.length_bytes or 0)
        file: IO[bytes] = tempfile.TemporaryFile(prefix="freeroam-")  # noqa: SIM115 - closed by aclose
        size = 0
        try:
            async with aclosing(response.pieces(name="file")) as pieces:
                async for piece in pieces:
                    space.take(len(piece))
                    size += len(piece)
                    space.check(size)
                    await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(file.flush)
        except BaseException:
            file.close()
            space.give_back(size)
            raise
        return cls(file, size, space)

    async def read_at(self, offset: int, size: int) -> bytes:
        """Return at most ``size`` bytes from ``offset``; empty only at the end."""
        return await asyncio.to_thread(os.pread, self._file.fileno(), size, offset)

    async def aclose(self) -> None:
        """Let the file go."""
        space, self._space = self._space, None
        if space is not None:
            space.give_back(self.size_bytes)
        with suppress(OSError):
            self._file.close()
