"""Segments of HLS as plain bytes: fetched with quick retries, told by their first bytes, decrypted."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import TypeVar

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.padding import PKCS7

from freeroam.clock import Clock
from freeroam.sources.fetching import FetchSession
from freeroam.sources.hls_playlist import InitSection, Key, Segment
from freeroam.sources.http_grammar import FINAL
from freeroam.vocabulary.errors import SourceError, SourceErrorCode

_Name = TypeVar("_Name")

MAX_INIT_BYTES = 1024 * 1024
WHOLE_BYTES = 8 * 1024 * 1024
"""A segment up to this size is read to its end before any of it is decoded, so that a broken one can be asked again."""
KEY_BYTES = 16
KEY_BUDGET_S = 10.0
RETRY_PAUSES_S = (0.2, 0.6)
KEPT_KEYS = 32
KEPT_INITS = 8
HEAD_BYTES = 1024
TS_PACKET_BYTES = 188
TOLD_BYTES = HEAD_BYTES + 3 * TS_PACKET_BYTES

_RETRIED = frozenset(
    {
        SourceErrorCode.SERVER,
        SourceErrorCode.NOT_FOUND,
        SourceErrorCode.REFUSED,
        SourceErrorCode.UNAVAILABLE,
        SourceErrorCode.BAD_DATA,
        SourceErrorCode.DNS,
    }
)
_MP4_BOXES = frozenset(
    {b"ftyp", b"styp", b"moof", b"moov", b"mdat", b"sidx", b"emsg", b"prft", b"free", b"skip", b"uuid", b"pdin"}
)
_OTHER_FORMS = (
    (b"ID3", "packed audio"),
    (b"WEBVTT", "subtitles"),
    (b"\xef\xbb\xbfWEBVTT", "subtitles"),
    (b"<", "a page of text"),
    (b"{", "JSON"),
    (b"#EXTM3U", "a playlist"),
    (b"\x1aE\xdf\xa3", "Matroska"),
    (b"\xff\xf1", "packed audio"),
    (b"\xff\xf9", "packed audio"),
    (b"\xff\xd8\xff", "a JPEG picture"),
)


@dataclass(slots=True)
class SegmentBytes:
    """A segment that has begun to arrive; ``aclose`` lets go of what is left of it.

    Attributes:
        container: ``mpegts`` or ``mp4``.
        init: What goes before it in a new run; None for transport streams.
        head: Its first pieces, all of them for a segment of usual size.
    """

    container: str
    init: bytes | None
    head: list[bytes]
    _rest: AsyncIterator[bytes] | None = None
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """Give the bytes.

        Raises:
            SourceError: The segment broke off, came too slowly or was wrongly encrypted.
        """
        while self.head:
            yield self.head.pop(0)
        if self._rest is not None:
            async for piece in self._rest:
                yield piece

    async def aclose(self) -> None:
        """Close the connection if the segment was not read to its end."""
        await self._stack.aclose()


class SegmentReader:
    """Fetches the segments of one stream.

    Args:
        session: Fetches for the stream.
        clock: Time of the pauses between tries.
    """

    def __init__(self, session: FetchSession, clock: Clock) -> None:
        self._session = session
        self._clock = clock
        self._keys: OrderedDict[str, bytes] = OrderedDict()
        self._inits: OrderedDict[InitSection, bytes] = OrderedDict()

    async def open(self, segment: Segment, budget_s: float) -> SegmentBytes:
        """Return a segment; to be closed.

        Args:
            segment: Which.
            budget_s: Longest wait for its bytes, each try.

        Raises:
            SourceError: It, its key or its init section cannot be had (code as fetching gives it); ``bad_data``: it is
                no video or wrongly encrypted; ``codec``: it is encrypted in a way that cannot be undone.
        """
        for pause_s in (*RETRY_PAUSES_S, None):
            try:
                return await self._open_once(segment, budget_s)
            except SourceError as error:
                if pause_s is None or error.source_code not in _RETRIED or error.detail == FINAL:
                    raise
                await self._clock.sleep(pause_s)
        raise AssertionError("the last try returns or raises")

    async def _open_once(self, segment: Segment, budget_s: float) -> SegmentBytes:
        key = None if segment.key is None else await self._key(segment.key)
        init = None if segment.init is None else await self._init(segment, budget_s, key)
        stack = AsyncExitStack()
        try:
            response = await stack.enter_async_context(await self._session.open(segment.url, segment.byte_range))
            limit_bytes = self._session.limits.segment_bytes + response.skip_bytes
            whole = response.pieces(limit_bytes, budget_s, name="segment", setting="SOURCE_SEGMENT_BYTES")
            wanted = await stack.enter_async_context(aclosing(whole))
            if segment.byte_range is not None:
                part = _cut(wanted, response.skip_bytes, segment.byte_range.length)
                wanted = await stack.enter_async_context(aclosing(part))
            if key is not None:
                wanted = await stack.enter_async_context(aclosing(_decrypt(wanted, key, _iv(segment))))
            head, is_whole = await _read_head(wanted)
            container = container_of(_beginning(head))
            if container == "mp4" and is_whole:
                head = [b"".join(head)]
                check_boxes(head[0])
        except BaseException:
            await stack.aclose()
            raise
        if is_whole:
            await stack.aclose()
            return SegmentBytes(container, init, head)
        return SegmentBytes(container, init, head, wanted, stack)

    async def _key(self, key: Key) -> bytes:
        if key.method != "AES-128" or not key.is_plain_file:
            message = f"segments are encrypted with {key.method[:32]}, which cannot be undone here"
            raise SourceError(SourceErrorCode.CODEC, message)
        if not key.url:
            raise SourceError(SourceErrorCode.BAD_DATA, "the playlist names no key for its encrypted segments")
        known = self._keys.get(key.url)
        if known is None:
            body = await self._session.read(key.url, 4096, KEY_BUDGET_S, name="key")
            known = body.data
            if len(known) != KEY_BYTES:
                message = f"the key at {body.target.shown} has {len(known)} bytes; keys have {KEY_BYTES}"
                raise SourceError(SourceErrorCode.BAD_DATA, message)
            _keep(self._keys, key.url, known, KEPT_KEYS)
        return known

    async def _init(self, segment: Segment, budget_s: float, key: bytes | None) -> bytes:
        init = segment.init
        assert init is not None
        known = self._inits.get(init)
        if known is None:
            body = await self._session.read(init.url, MAX_INIT_BYTES, budget_s, init.byte_range, name="init section")
            known = body.data
            if known[4:8] not in _MP4_BOXES and key is not None and segment.key is not None and segment.key.iv:
                decryptor = _Decryptor(key, segment.key.iv)
                known = decryptor.update(known) + decryptor.finish()
            if known[4:8] not in _MP4_BOXES:
                raise SourceError(SourceErrorCode.BAD_DATA, f"the init section at {body.target.shown} is no MP4")
            _keep(self._inits, init, known, KEPT_INITS)
        return known


def container_of(head: bytes) -> str:
    """Return ``mpegts`` or ``mp4``, told by the first bytes of a segment.

    Raises:
        SourceError: ``bad_data``: it is something else; ``detail`` is ``FINAL``.
    """
    if head[4:8] in _MP4_BOXES:
        return "mp4"
    for start in range(min(len(head), HEAD_BYTES)):
        marks = head[start : start + 3 * TS_PACKET_BYTES : TS_PACKET_BYTES]
        is_short_end = start == 0 and len(head) < 3 * TS_PACKET_BYTES
        if marks and set(marks) == {0x47} and (len(marks) == 3 or is_short_end):
            return "mpegts"
    form = next((name for mark, name in _OTHER_FORMS if head.lstrip()[: len(mark)] == mark), "of an unknown form")
    what = "empty" if not head else form
    raise SourceError(SourceErrorCode.BAD_DATA, f"a segment is {what}, not MPEG-TS or MP4", detail=FINAL)


def check_boxes(segment: bytes) -> None:
    """Check that the outermost boxes of a fragment fill it exactly.

    A demuxer that meets a cut box takes the next segment for the rest of it, and may read on for ever.

    Raises:
        SourceError: ``bad_data``: they do not.
    """
    at = 0
    while at + 8 <= len(segment):
        size, name = int.from_bytes(segment[at : at + 4], "big"), segment[at + 4 : at + 8]
        if size == 1:
            size = int.from_bytes(segment[at + 8 : at + 16], "big")
        if size == 0:
            size = len(segment) - at
        if size < 8 or not name.isascii() or not name.decode("ascii").isprintable():
            break
        at += size
    if at != len(segment):
        raise SourceError(SourceErrorCode.BAD_DATA, "a segment was cut short or its boxes are broken")


class _Decryptor:
    """AES-128 in CBC mode with PKCS #7 padding (RFC 8216, 4.3.2.4)."""

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._cipher = Cipher(algorithms.AES(key), modes.CBC(iv)).decryptor()
        self._unpadder = PKCS7(128).unpadder()

    def update(self, data: bytes) -> bytes:
        return self._unpadder.update(self._cipher.update(data))

    def finish(self) -> bytes:
        try:
            return self._unpadder.update(self._cipher.finalize()) + self._unpadder.finalize()
        except ValueError:
            raise SourceError(SourceErrorCode.BAD_DATA, "a segment cannot be decrypted with its key") from None


def _iv(segment: Segment) -> bytes:
    assert segment.key is not None
    return segment.key.iv or segment.sequence.to_bytes(16, "big")


async def _decrypt(pieces: AsyncIterator[bytes], key: bytes, iv: bytes) -> AsyncGenerator[bytes, None]:
    decryptor = _Decryptor(key, iv)
    async for piece in pieces:
        yield decryptor.update(piece)
    yield decryptor.finish()


async def _cut(pieces: AsyncIterator[bytes], skip_bytes: int, length: int | None) -> AsyncGenerator[bytes, None]:
    """Give ``length`` bytes after ``skip_bytes``; a server that ignores ranges sends all of a file."""
    left = length
    async for piece in pieces:
        wanted = piece[skip_bytes:]
        skip_bytes = max(0, skip_bytes - len(piece))
        if left is not None:
            wanted = wanted[:left]
            left -= len(wanted)
        if wanted:
            yield wanted
        if left == 0:
            return
    if left:
        raise SourceError(SourceErrorCode.BAD_DATA, "a segment is shorter than its byte range")


async def _read_head(pieces: AsyncIterator[bytes]) -> tuple[list[bytes], bool]:
    """Read a segment up to ``WHOLE_BYTES``; return its pieces and whether they are all."""
    parts: list[bytes] = []
    size = 0
    async for piece in pieces:
        parts.append(piece)
        size += len(piece)
        if size > WHOLE_BYTES:
            return parts, False
    return parts, True


def _beginning(pieces: list[bytes]) -> bytes:
    """Return enough of a segment to tell what it is, all of it if it is short."""
    parts: list[bytes] = []
    size = 0
    for piece in pieces:
        parts.append(piece[: TOLD_BYTES - size])
        size += len(parts[-1])
        if size >= TOLD_BYTES:
            break
    return b"".join(parts)


def _keep(kept: OrderedDict[_Name, bytes], name: _Name, data: bytes, limit: int) -> None:
    kept[name] = data
    while len(kept) > limit:
        kept.popitem(last=False)
