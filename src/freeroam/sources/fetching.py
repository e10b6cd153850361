"""Fetches by HTTP what a reference names: redirects by hand, every hop checked, every wait and every body bounded."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urljoin

import httpcore

from freeroam.clock import Clock
from freeroam.security.dialing import Dialer
from freeroam.security.url_policy import HTTP_SCHEMES, ParsedTarget
from freeroam.sources.http_answers import Response, accepted
from freeroam.sources.http_cookies import CookieJar
from freeroam.sources.http_grammar import (
    FINAL,
    ByteRange,
    ascii_path,
    checked_headers,
    cut,
)
from freeroam.sources.limits import SourceLimits
from freeroam.vocabulary.errors import ForbiddenReference, InvalidInput, SourceError, SourceErrorCode

REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5
USER_AGENT = "freeroam"
TIDY_REST_S = 5.0


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
        limits: Greatest sizes of what they send.
    """

    def __init__(
        self,
        dialer: Dialer,
        clock: Clock,
        timeouts: FetchTimeouts | None = None,
        limits: SourceLimits | None = None,
    ) -> None:
        self.dialer = dialer
        self.clock = clock
        self.timeouts = timeouts or FetchTimeouts()
        self.limits = limits or SourceLimits()
        self._pools: dict[bool, httpcore.AsyncConnectionPool] = {}
        self._tidying: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to close connections that nobody has used for a while; without it that waits for the next request."""
        self._tidying = asyncio.create_task(self._tidy(), name="close idle connections")

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
        if self._tidying is not None:
            self._tidying.cancel()
            await asyncio.gather(self._tidying, return_exceptions=True)
        pools, self._pools = list(self._pools.values()), {}
        for pool in pools:
            await pool.aclose()

    @property
    def open_connections(self) -> int:
        """Connections that are open now, idle ones included."""
        return sum(not connection.is_closed() for pool in self._pools.values() for connection in pool.connections)

    async def _tidy(self) -> None:
        while True:
            await self.clock.sleep(TIDY_REST_S)
            for pool in self._pools.values():
                for connection in pool.connections:
                    if connection.has_expired() and not connection.is_closed():
                        await connection.aclose()

    def pool(self, verify_tls: bool) -> httpcore.AsyncConnectionPool:
        """Return the pool whose connections check certificates, or the one whose do not."""
        if verify_tls not in self._pools:
            self._pools[verify_tls] = self.dialer.http_pool(verify_tls)
        return self._pools[verify_tls]


class FetchSession:
    """Fetches for one stream: knows its origin, and what only that origin may see.

    Attributes:
        home: The stream's own address.
        limits: Greatest sizes of what is fetched.
    """

    def __init__(self, fetcher: Fetcher, home: ParsedTarget, headers: Mapping[str, str], verify_tls: bool) -> None:
        self.home = home
        self.limits = fetcher.limits
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
                return await accepted(response, byte_range)
            location = response.header("location")
            await response.aclose()
            if not location:
                raise SourceError(SourceErrorCode.SERVER, f"{target.shown} redirects without saying where to")
            target = self._checked(_joined(target.url, location))
        raise SourceError(SourceErrorCode.SERVER, f"{self.home.shown} redirects more than {MAX_REDIRECTS} times")

    async def read(
        self,
        url: str,
        max_bytes: int,
        budget_s: float,
        byte_range: ByteRange | None = None,
        *,
        name: str = "answer",
        setting: str = "",
    ) -> Body:
        """Fetch a whole body.

        Args:
            url: An absolute address.
            max_bytes: Longest body accepted.
            budget_s: Time for all of it.
            byte_range: The part wanted; cut out if the server sends more.
            name: What it is, for errors.
            setting: Where ``max_bytes`` can be changed, for errors.

        Raises:
            SourceError: As ``open``; ``bad_data`` also for a body that is too long or breaks off.
        """
        try:
            async with asyncio.timeout(budget_s):
                async with await self.open(url, byte_range) as response:
                    limit_bytes = max_bytes + response.skip_bytes
                    pieces = [piece async for piece in response.pieces(limit_bytes, name=name, setting=setting)]
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
                # Without brackets: certificates are checked for the address as it is named here.
                host=target.host.encode(),
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
                fetcher = self._fetcher
                return Response(target, answer, fetcher.clock, fetcher.timeouts.read_s)
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


def _joined(base: str, reference: str) -> str:
    try:
        # Headers are bytes; servers that put other letters there mean UTF-8.
        return urljoin(base, reference.encode("latin-1").decode("utf-8", "replace").strip())
    except ValueError:
        raise SourceError(SourceErrorCode.BAD_DATA, "the server names a malformed address", detail=FINAL) from None
