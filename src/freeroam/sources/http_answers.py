"""An answer by HTTP whose body is read piece by piece: every wait and every length bounded."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from contextlib import aclosing
from types import TracebackType
from typing import Self, cast

import httpcore

from freeroam.clock import Clock
from freeroam.security.url_policy import ParsedTarget
from freeroam.sources.http_encoding import PLAIN, UNDERSTOOD, Inflater
from freeroam.sources.http_grammar import ByteRange, parse_content_range, status_code
from freeroam.vocabulary.errors import SourceError, SourceErrorCode

LEAST_COMPRESSED_BYTES = 64 * 1024
"""So much of a compressed body may always come, however short the plain one must be."""


class Response:
    """An answer whose body is still to be read; ``async with`` closes it.

    Attributes:
        status: 200 or 206 once ``FetchSession.open`` has returned it.
        target: The address that gave it.
        skip_bytes: Where the wanted range begins in the body; not 0 where a server sends all instead of a part.
        silence_s: Longest wait for a piece of the body; None waits for ever.
    """

    def __init__(self, target: ParsedTarget, answer: httpcore.Response, clock: Clock, read_s: float) -> None:
        self.status = answer.status
        self.target = target
        self.skip_bytes = 0
        self.silence_s: float | None = read_s
        self._clock = clock
        self._answer = answer
        self._headers = {
            name.decode("latin-1").lower(): value.decode("latin-1").strip() for name, value in answer.headers
        }

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.aclose()

    def header(self, name: str) -> str:
        """Return a header's value, empty where there is none; the last one where there are several."""
        return self._headers.get(name.lower(), "")

    @property
    def content_type(self) -> str:
        """The media type, lower case, without parameters."""
        return self.header("content-type").partition(";")[0].strip().lower()

    @property
    def length_bytes(self) -> int | None:
        """Length of the body, where the server says it."""
        text = self.header("content-length")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    @property
    def has_end(self) -> bool:
        """Whether the body says itself where it ends, so that a closed connection is no end but a break."""
        return self.length_bytes is not None or "chunked" in self.header("transfer-encoding").lower()

    @property
    def total_bytes(self) -> int | None:
        """Length of the whole resource, also when only a part is sent; None where unknown."""
        if self.status != 206:
            return self.length_bytes
        parsed = parse_content_range(self.header("content-range"))
        return None if parsed is None else parsed[1]

    async def pieces(
        self, max_bytes: int | None = None, budget_s: float | None = None, *, name: str = "answer", setting: str = ""
    ) -> AsyncGenerator[bytes, None]:
        """Give the body piece by piece.

        Args:
            max_bytes: Longest body accepted; None sets no limit.
            budget_s: Longest time to wait for the server in all; what the reader does in between does not count.
            name: What it is, for errors.
            setting: Where ``max_bytes`` can be changed, for errors.

        Raises:
            SourceError: ``timeout``: silent, or slower than the budget; ``bad_data``: too long, or broken off.
        """
        announced = self.length_bytes
        too_long = f"is longer than {max_bytes} bytes{setting and f' ({setting})'}"
        if max_bytes is not None and announced is not None and announced > max_bytes:
            raise self._broken(too_long, name)
        clock, waited_s, received, compressed = self._clock, 0.0, 0, 0
        encoding = self.header("content-encoding").lower()
        inflater = None if encoding in PLAIN else Inflater(encoding)
        stream = cast("AsyncIterable[bytes]", self._answer.stream)
        async with aclosing(cast("AsyncGenerator[bytes, None]", aiter(stream))) as parts:
            while True:
                left_s = None if budget_s is None else budget_s - waited_s
                if self.silence_s is not None:
                    left_s = self.silence_s if left_s is None else min(self.silence_s, left_s)
                began_s = clock.monotonic_s()
                try:
                    async with asyncio.timeout(left_s):
                        part = await anext(parts, None)
                except (TimeoutError, httpcore.TimeoutException):
                    text = f"the {name} from {self.target.shown} came too slowly ({received} bytes so far)"
                    raise SourceError(SourceErrorCode.TIMEOUT, text) from None
                except (httpcore.NetworkError, httpcore.ProtocolError, OSError):
                    raise self._broken(f"broke off after {received} bytes", name) from None
                if part is None and inflater is not None and not inflater.is_whole:
                    raise self._broken(f"broke off after {received} bytes", name)
                if part is None:
                    return
                waited_s += clock.monotonic_s() - began_s
                compressed += 0 if inflater is None else len(part)
                if max_bytes is not None and compressed > 2 * max_bytes + LEAST_COMPRESSED_BYTES:
                    # Compressed bytes can go on for ever and become nothing.
                    raise self._broken(too_long, name)
                for piece in (part,) if inflater is None else self._inflated(inflater, part, name):
                    received += len(piece)
                    if max_bytes is not None and received > max_bytes:
                        raise self._broken(too_long, name)
                    yield piece

    def _inflated(self, inflater: Inflater, data: bytes, name: str) -> Iterator[bytes]:
        try:
            yield from inflater.feed(data)
        except zlib.error:
            raise self._broken("is not compressed as it says", name) from None

    async def aclose(self) -> None:
        """Give the connection back, or close it if the body was not read to its end."""
        await self._answer.aclose()

    def _broken(self, what: str, name: str) -> SourceError:
        return SourceError(SourceErrorCode.BAD_DATA, f"the {name} from {self.target.shown} {what}")


async def accepted(response: Response, byte_range: ByteRange | None) -> Response:
    """Return an answer that has what was asked for; close any other and raise its code."""
    status = response.status
    try:
        if status not in {200, 206}:
            raise SourceError(status_code(status), f"{response.target.shown} answered {status}")
        encoding = response.header("content-encoding").lower()
        if encoding not in PLAIN and (encoding not in UNDERSTOOD or byte_range is not None):
            message = f"{response.target.shown} sends {encoding[:20]!r} although identity was asked for"
            raise SourceError(SourceErrorCode.BAD_DATA, message)
        if byte_range is not None:
            response.skip_bytes = _range_start(response, byte_range)
        return response
    except BaseException:
        await response.aclose()
        raise


def _range_start(response: Response, byte_range: ByteRange) -> int:
    if response.status == 200:
        return byte_range.offset
    parsed = parse_content_range(response.header("content-range"))
    first = byte_range.offset if parsed is None else parsed[0]
    if first > byte_range.offset:
        raise SourceError(SourceErrorCode.SERVER, f"{response.target.shown} sends another range than was asked for")
    return byte_range.offset - first
