"""Opens connections: resolves a name, checks every address against the policy and dials the checked one."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import certifi
import httpcore

from freeroam.clock import Clock, SystemClock
from freeroam.security.url_policy import UrlPolicy, parse_literal
from freeroam.vocabulary.errors import ForbiddenReference, SourceError, SourceErrorCode

READ_BUFFER_BYTES = 256 * 1024
STAGGER_S = 0.25
KEPT_S = 20.0
"""For so long a connection that nobody uses is kept for the next request."""
"""Head start of each address over the next (RFC 8305 names 250 ms)."""
RESOLVER_THREADS = 16
MAX_ADDRESSES = 16

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Resolver(Protocol):
    """Turns a host name into addresses."""

    async def resolve(self, host: str) -> list[str]:
        """Return the addresses of ``host``, best first.

        Raises:
            OSError: The name has none, or nobody answered.
        """
        ...


class SystemResolver:
    """The machine's own resolver, in threads of its own so that dead name servers hold up nobody else.

    A question cannot be taken back, and may take half a minute; the process must not wait for it when it ends, as it
    would for the threads of an executor.
    """

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(RESOLVER_THREADS)

    async def resolve(self, host: str) -> list[str]:
        """Return the addresses of ``host`` by ``getaddrinfo``, without doubles.

        Raises:
            OSError: The name has none, or nobody answered.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()

        def take(addresses: list[str], error: Exception | None) -> None:
            self._places.release()
            if answer.done():
                return
            if error is None:
                answer.set_result(addresses)
            else:
                answer.set_exception(error)

        def ask() -> None:
            addresses, failure = [], None
            try:
                found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
                addresses = list(dict.fromkeys(str(address[4][0]) for address in found))
            except Exception as error:  # handed to whoever asked
                failure = error
            with suppress(RuntimeError):  # the loop is closed, and nobody asks any more
                loop.call_soon_threadsafe(take, addresses, failure)

        await self._places.acquire()
        try:
            threading.Thread(target=ask, name="freeroam-dns", daemon=True).start()
        except RuntimeError as error:
            self._places.release()
            raise OSError("the system gives no thread") from error
        return await answer


@dataclass(frozen=True, slots=True)
class DialTimeouts:
    """How long the steps of opening a connection may take.

    Attributes:
        resolve_s: Asking for the addresses of a name.
        connect_s: Reaching one of them, and the TLS handshake after it, each.
    """

    resolve_s: float = 5.0
    connect_s: float = 10.0


class TlsContexts:
    """The two TLS contexts (checking certificates, or not), each made once because making one costs 10 ms.

    Args:
        cafile: Further certificates to trust, PEM; the system's and certifi's are trusted anyway.
    """

    def __init__(self, cafile: str | None = None) -> None:
        self._cafile = cafile
        self._contexts: dict[bool, ssl.SSLContext] = {}

    def get(self, verify: bool) -> ssl.SSLContext:
        """Return the context that checks certificates and names, or the one that does not."""
        if verify not in self._contexts:
            self._contexts[verify] = self._make(verify)
        return self._contexts[verify]

    def _make(self, verify: bool) -> ssl.SSLContext:
        context = ssl.create_default_context()
        context.load_verify_locations(certifi.where())
        if self._cafile:
            context.load_verify_locations(self._cafile)
        if not verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


class Dialer:
    """The only way out to addresses that a user, a playlist or a redirect named.

    Args:
        policy: Asked about every address.
        resolver: Asked for addresses.
        timeouts: Limits of each step.
        tls: Contexts for encrypted connections.
        clock: What the HTTP library waits by.
    """

    def __init__(
        self,
        policy: UrlPolicy,
        resolver: Resolver | None = None,
        timeouts: DialTimeouts | None = None,
        tls: TlsContexts | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.policy = policy
        self.clock = clock or SystemClock()
        self.timeouts = timeouts or DialTimeouts()
        self.tls = tls or TlsContexts()
        self._resolver = resolver or SystemResolver()

    async def resolve(self, host: str, port: int) -> list[str]:
        """Return the addresses of ``host``, all of them checked.

        One forbidden answer refuses the name: a name that mixes public and private answers is an attack or a mistake.

        Raises:
            SourceError: ``dns``: no answer, ``forbidden``: an answer that may not be opened.
        """
        literal = parse_literal(host)
        addresses = [str(literal)] if literal is not None else await self._ask(host)
        try:
            for address in addresses:
                self.policy.check_address(host, address, port)
        except (ForbiddenReference, ValueError) as error:
            message = error.message if isinstance(error, ForbiddenReference) else f"{host} has a malformed address"
            raise SourceError(SourceErrorCode.FORBIDDEN, message) from None
        return addresses[:MAX_ADDRESSES]

    async def connect(
        self, host: str, port: int, *, tls: ssl.SSLContext | None = None, server_hostname: str | None = None
    ) -> Connection:
        """Open a TCP connection, encrypted if ``tls`` is given, to a checked address of ``host``.

        Args:
            host: A name or literal address (``ParsedTarget.host``).
            port: TCP port.
            tls: The context to encrypt with.
            server_hostname: Name for SNI and the certificate; ``host`` unless given.

        Raises:
            SourceError: ``dns``, ``forbidden``, ``refused``, ``timeout`` or ``tls``.
        """
        addresses = await self.resolve(host, port)
        try:
            async with asyncio.timeout(self.timeouts.connect_s):
                reader, writer = await _race(addresses, port)
        except TimeoutError:
            raise SourceError(SourceErrorCode.TIMEOUT, f"{host}:{port} did not answer") from None
        except OSError as error:
            raise SourceError(
                SourceErrorCode.REFUSED, f"{host}:{port} could not be reached: {_reason(error)}"
            ) from None
        if tls is not None:
            await self._encrypt(writer, tls, server_hostname or host, port)
        return reader, writer

    def http_pool(self, verify_tls: bool = True, max_connections: int = 512) -> httpcore.AsyncConnectionPool:
        """Return a connection pool for HTTP/1.1 whose every connection is opened by this dialer."""
        return httpcore.AsyncConnectionPool(
            ssl_context=self.tls.get(verify_tls),
            max_connections=max_connections,
            max_keepalive_connections=max_connections,
            keepalive_expiry=KEPT_S,
            network_backend=_Backend(self),
        )

    async def _ask(self, host: str) -> list[str]:
        try:
            async with asyncio.timeout(self.timeouts.resolve_s):
                addresses = await self._resolver.resolve(host)
        except TimeoutError:
            raise SourceError(SourceErrorCode.DNS, f"nobody answered for the name {host}") from None
        except (OSError, UnicodeError) as error:
            raise SourceError(SourceErrorCode.DNS, f"the name {host} has no address: {_reason(error)}") from None
        if not addresses:
            raise SourceError(SourceErrorCode.DNS, f"the name {host} has no address")
        return addresses

    async def _encrypt(self, writer: asyncio.StreamWriter, tls: ssl.SSLContext, name: str, port: int) -> None:
        try:
            async with asyncio.timeout(self.timeouts.connect_s):
                await writer.start_tls(tls, server_hostname=name)
        except TimeoutError:
            writer.transport.abort()
            raise SourceError(SourceErrorCode.TIMEOUT, f"{name}:{port} did not finish its TLS handshake") from None
        except (ssl.SSLError, OSError) as error:
            writer.transport.abort()
            raise SourceError(SourceErrorCode.TLS, f"{name}:{port}: {_reason(error)}") from None
        except BaseException:
            writer.transport.abort()
            raise


async def _race(addresses: list[str], port: int) -> Connection:
    """Dial the addresses one after another, each a little later, and keep the first that answers (RFC 8305)."""
    waiting = iter(addresses)
    running: set[asyncio.Task[Connection]] = set()
    failure: OSError = ConnectionRefusedError("no address")
    upcoming = next(waiting, None)
    try:
        while upcoming is not None or running:
            if upcoming is not None:
                dial = asyncio.open_connection(upcoming, port, limit=READ_BUFFER_BYTES)
                running.add(asyncio.create_task(dial))
                upcoming = next(waiting, None)
            stagger_s = STAGGER_S if upcoming is not None else None
            done, running = await asyncio.wait(running, timeout=stagger_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if error is None:
                    running.update(done - {task})
                    return task.result()
                failure = error if isinstance(error, OSError) else ConnectionRefusedError(str(error))
        raise failure
    finally:
        _discard(running)


def _discard(tasks: set[asyncio.Task[Connection]]) -> None:
    """End attempts that nobody wants any more; waiting for them would take a caller's own cancellation for theirs."""
    for task in tasks:
        task.cancel()
        task.add_done_callback(_drop)


def _drop(task: asyncio.Task[Connection]) -> None:
    if not task.cancelled() and task.exception() is None:
        _, writer = task.result()
        writer.transport.abort()


def _reason(error: BaseException) -> str:
    """Return the system's words for an error, without addresses or numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted ({error.verify_message})"
    if isinstance(error, ssl.SSLError):
        return error.reason or "TLS failed"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class _Stream(httpcore.AsyncNetworkStream):
    """A connection as the HTTP library wants it."""

    def __init__(self, dialer: Dialer, connection: Connection, host: str, port: int) -> None:
        self._dialer = dialer
        self._reader, self._writer = connection
        self._host, self._port = host, port

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                return await self._reader.read(max_bytes)
        except TimeoutError:
            raise httpcore.ReadTimeout from None
        except OSError as error:
            raise httpcore.ReadError(_reason(error)) from None

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(buffer)
                await self._writer.drain()
        except TimeoutError:
            raise httpcore.WriteTimeout from None
        except OSError as error:
            raise httpcore.WriteError(_reason(error)) from None

    async def aclose(self) -> None:
        # Nothing is left to say to a server whose answer was read or given up, so no farewell is waited for.
        self._writer.transport.abort()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ARG002 - the dialer's own limit holds
    ) -> httpcore.AsyncNetworkStream:
        await self._dialer._encrypt(self._writer, ssl_context, server_hostname or self._host, self._port)
        return self

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return self._reader.at_eof() or self._writer.is_closing()
        if info == "ssl_object":
            return self._writer.get_extra_info("ssl_object")
        return None


class _Backend(httpcore.AsyncNetworkBackend):
    """What the HTTP library calls to reach an origin."""

    def __init__(self, dialer: Dialer) -> None:
        self._dialer = dialer

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ARG002 - the dialer's own limit holds
        local_address: str | None = None,  # noqa: ARG002 - never asked for
        socket_options: Iterable[Any] | None = None,  # noqa: ARG002 - never asked for
    ) -> httpcore.AsyncNetworkStream:
        connection = await self._dialer.connect(host, port)
        return _Stream(self._dialer, connection, host, port)

    async def sleep(self, seconds: float) -> None:
        await self._dialer.clock.sleep(seconds)
