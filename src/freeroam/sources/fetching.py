"""Fetches by HTTP what a reference names: redirects by hand, every hop checked, every wait and every body bounded."""

from __future__ import annotations

import asyncio
import base64
import zlib
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from types import TracebackType
from typing import Self, cast
from urllib.parse import urljoin

import httpcore

from freeroam.clock import Clock
from freeroam.security.dialing import Dialer
from freeroam.security.url_policy import HTTP_SCHEMES, ParsedTarget
from freeroam.sources.http_cookies import CookieJar
from freeroam.sources.http_encoding import PLAIN, UNDERSTOOD, Inflater
from freeroam.sources.http_grammar import (
    FINAL,
    ByteRange,
    ascii_path,
    checked_headers,
    cut,
    parse_content_range,
    status_code,
)
from freeroam.vocabulary.errors import ForbiddenReference, InvalidInput, SourceError, SourceErrorCode

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5
USER_AGENT = "freeroam"


@dataclass(frozen=True, slots=True)
class FetchTimeouts:
    """How long a server may keep silent.

    Attributes:
        answer_s: From the request to the answer's headers, each hop.
        read_s: Between two pieces of a body.
    """

    answer_s: float = 10.0
    read_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Body:
    """A whole body and the address that gave it, after redirects."""

    data: bytes
    target: ParsedTarget
    content_type: str


class Fetcher:
    """One pool of connections for all sources.

    Args:
        dialer: Opens and checks connections.
        clock: Time of budgets.
        timeouts: Patience with servers.
    """

    def __init__(self, dialer: Dialer, clock: Clock, timeouts: FetchTimeouts | None = None) -> None:
        self.dialer = dialer
        self.clock = clock
        self.timeouts = timeouts or FetchTimeouts()
        self._pools: dict[bool, httpcore.AsyncConnectionPool] = {}

    def session(self, url: str, headers: Mapping[str, str] | None = None, *, verify_tls: bool = True) -> FetchSession:
        """Return what fetches for the stream at ``url``; opens nothing.

        Args:
            url: The stream's own address; user and password in it go to its origin as basic authentication.
            headers: The user's request headers; they go to that origin only.
            verify_tls: Whether certificates are checked.

        Raises:
            InvalidInput: The address or a header is malformed.
            ForbiddenReference: Policy forbids the address, as far as its text tells.
        """
        return FetchSession(self, self.dialer.policy.check_text(url, HTTP_SCHEMES), headers or {}, verify_tls)

    async def aclose(self) -> None:
        """Close every connection."""
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            await pool.aclose()

    @property
    def open_connections(self) -> int:
        """Connections that are open now, idle ones included."""
        return sum(len(pool.connections) for pool in self._pools.values())

    def pool(self, verify_tls: bool) -> httpcore.AsyncConnectionPool:
        """Return the pool whose connections check certificates, or the one whose do not."""
        if verify_tls not in self._pools:
            self._pools[verify_tls] = self.dialer.http_pool(verify_tls)
        return self._pools[verify_tls]


class FetchSession:
    """Fetches for one stream: knows its origin, and what only that origin may see.

    Attributes:
        home: The stream's own address.
    """

    def __init__(self, fetcher: Fetcher, home: ParsedTarget, headers: Mapping[str, str], verify_tls: bool) -> None:
        self.home = home
        self._fetcher = fetcher
        self._verify_tls = verify_tls
        self._home_headers = checked_headers(headers)
        self._cookies = CookieJar()
        self._has_own_authorization = any(name.lower() == b"authorization" for name, _ in self._home_headers)

    async def open(self, url: str, byte_range: ByteRange | None = None) -> Response:
        """Ask for ``url`` and follow redirects; the body is read from what this returns, which must be closed.

        Args:
            url: An absolute address; user and password in it go to its own origin only.
            byte_range: The part wanted. ``Response.skip_bytes`` says where it begins in what the server chose to send.

        Raises:
            SourceError: ``forbidden``, ``dns``, ``refused``, ``timeout``, ``tls``, ``auth``, ``not_found``, ``server``,
                ``unavailable`` or ``bad_data``.
        """
        target = self._checked(url)
        for _ in range(MAX_REDIRECTS + 1):
            response = await self._ask(target, byte_range)
            if response.status not in REDIRECTS:
                return await _accepted(response, byte_range)
            location = response.header("location")
            await response.aclose()
            if not location:
                raise SourceError(SourceErrorCode.SERVER, f"{target.shown} redirects without saying where to")
            target = self._checked(_joined(target.url, location))
        raise SourceError(SourceErrorCode.SERVER, f"{self.home.shown} redirects more than {MAX_REDIRECTS} times")

    async def read(
        self, url: str, max_bytes: int, budget_s: float, byte_range: ByteRange | None = None, *, name: str = "answer"
    ) -> Body:
        """Fetch a whole body.

        Args:
            url: An absolute address.
            max_bytes: Longest body accepted.
            budget_s: Time for all of it.
            byte_range: The part wanted; cut out if the server sends more.
            name: What it is, for errors.

        Raises:
            SourceError: As ``open``; ``bad_data`` also for a body that is too long or breaks off.
        """
        try:
            async with asyncio.timeout(budget_s):
                async with await self.open(url, byte_range) as response:
                    limit_bytes = max_bytes + response.skip_bytes
                    pieces = [piece async for piece in response.pieces(limit_bytes, name=name)]
        except TimeoutError:
            message = f"the {name} at {self._shown(url)} took longer than {budget_s:.0f} s"
            raise SourceError(SourceErrorCode.TIMEOUT, message) from None
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        if byte_range is not None:
            data = cut(data, response.skip_bytes, byte_range.length)
        return Body(data, response.target, response.content_type)

    def _shown(self, url: str) -> str:
        return self._checked(url).shown

    def _checked(self, url: str) -> ParsedTarget:
        """Ask the policy about the text of an address that a server gave."""
        try:
            return self._fetcher.dialer.policy.check_text(url, HTTP_SCHEMES)
        except ForbiddenReference as error:
            raise SourceError(SourceErrorCode.FORBIDDEN, error.message) from None
        except InvalidInput as error:
            raise SourceError(
                SourceErrorCode.BAD_DATA, f"the server names a malformed address: {error.message}"
            ) from None

    async def _ask(self, target: ParsedTarget, byte_range: ByteRange | None) -> Response:
        """Send one request; once more if a connection that was kept open had been closed meanwhile."""
        request = httpcore.Request(
            "GET",
            httpcore.URL(
                scheme=target.scheme.encode(),
                host=target.bare_host.encode(),
                port=target.port,
                target=ascii_path(target.path),
            ),
            headers=self._headers(target, byte_range),
        )
        pool = self._fetcher.pool(self._verify_tls)
        answer_s = self._fetcher.timeouts.answer_s
        for is_last in (False, True):
            try:
                async with asyncio.timeout(answer_s):
                    answer = await pool.handle_async_request(request)
                set_by = [value.decode("latin-1") for name, value in answer.headers if name.lower() == b"set-cookie"]
                self._cookies.take(target.origin, target.path, set_by)
                return Response(self._fetcher, target, answer)
            except (httpcore.ReadError, httpcore.RemoteProtocolError) as error:
                if is_last:
                    message = f"{target.shown} answered with no valid HTTP ({error})"
                    raise SourceError(SourceErrorCode.SERVER, message) from None
            except TimeoutError:
                raise SourceError(
                    SourceErrorCode.TIMEOUT, f"{target.shown} gave no answer in {answer_s:.0f} s"
                ) from None
            except httpcore.TimeoutException:
                raise SourceError(SourceErrorCode.TIMEOUT, f"{target.shown} gave no answer") from None
            except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
                raise SourceError(SourceErrorCode.REFUSED, f"{target.shown} could not be asked ({error})") from None
        raise AssertionError("the second try returns or raises")

    def _headers(self, target: ParsedTarget, byte_range: ByteRange | None) -> list[tuple[bytes, bytes]]:
        headers = [
            (b"Host", target.netloc.encode()),
            (b"Accept", b"*/*"),
            (b"Accept-Encoding", b"identity"),
        ]
        if byte_range is not None:
            headers.append((b"Range", byte_range.header.encode()))
        is_home = target.origin == self.home.origin
        cookies = self._cookies.header(target.origin, target.path)
        if is_home:
            own = [value.decode("latin-1") for name, value in self._home_headers if name.lower() == b"cookie"]
            cookies = "; ".join([*own, cookies] if cookies else own)
            headers.extend(header for header in self._home_headers if header[0].lower() != b"cookie")
        if cookies:
            headers.append((b"Cookie", cookies.encode("latin-1")))
        if not any(name.lower() == b"user-agent" for name, _ in headers):
            headers.append((b"User-Agent", USER_AGENT.encode()))
        owner = target if target.username is not None else self.home if is_home else None
        if owner is not None and owner.username is not None and not (is_home and self._has_own_authorization):
            pair = f"{owner.username}:{owner.password or ''}".encode()
            headers.append((b"Authorization", b"Basic " + base64.b64encode(pair)))
        return headers


class Response:
    """An answer whose body is still to be read; ``async with`` closes it.

    Attributes:
        status: 200 or 206 once ``FetchSession.open`` has returned it.
        target: The address that gave it.
        skip_bytes: Where the wanted range begins in the body; not 0 where a server sends all instead of a part.
        silence_s: Longest wait for a piece of the body; None waits for ever.
    """

    def __init__(self, fetcher: Fetcher, target: ParsedTarget, answer: httpcore.Response) -> None:
        self.status = answer.status
        self.target = target
        self.skip_bytes = 0
        self.silence_s: float | None = fetcher.timeouts.read_s
        self._fetcher = fetcher
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
        self, max_bytes: int | None = None, budget_s: float | None = None, *, name: str = "answer"
    ) -> AsyncGenerator[bytes, None]:
        """Give the body piece by piece.

        Args:
            max_bytes: Longest body accepted; None sets no limit.
            budget_s: Longest time to wait for the server in all; what the reader does in between does not count.
            name: What it is, for errors.

        Raises:
            SourceError: ``timeout``: silent, or slower than the budget; ``bad_data``: too long, or broken off.
        """
        announced = self.length_bytes
        if max_bytes is not None and announced is not None and announced > max_bytes:
            raise self._broken(f"is longer than {max_bytes} bytes", name)
        clock, waited_s, received = self._fetcher.clock, 0.0, 0
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
                for piece in (part,) if inflater is None else self._inflated(inflater, part, name):
                    received += len(piece)
                    if max_bytes is not None and received > max_bytes:
                        raise self._broken(f"is longer than {max_bytes} bytes", name)
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


async def _accepted(response: Response, byte_range: ByteRange | None) -> Response:
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


def _joined(base: str, reference: str) -> str:
    try:
        # Headers are bytes; servers that put other letters there mean UTF-8.
        return urljoin(base, reference.encode("latin-1").decode("utf-8", "replace").strip())
    except ValueError:
        raise SourceError(SourceErrorCode.BAD_DATA, "the server names a malformed address", detail=FINAL) from None
