"""The HTTP server round the application: its port taken first, its signals handed on, its shutdown bounded."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from freeroam.api.bounds import MAX_HEAD_BYTES
from freeroam.api.problems import ProblemResponse
from freeroam.resting_server import RestingServer
from freeroam.vocabulary.errors import ConfigurationError, FreeroamError

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from freeroam.settings import Settings


class CoalescedTransport(asyncio.Transport):
    """A connection whose writes of one turn of the loop go out as one.

    The server writes head and body of an answer apart, which is two calls of the system, and each wakes the client.

    Args:
        transport: The connection.
        loop: Whose turns count.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport = transport
        self._loop = loop
        self._waiting: list[bytes] = []
        self._listeners: set[Callable[[], None]] = set()

    def listen(self, is_gone: Callable[[], None]) -> None:
        """Have ``is_gone`` called should the other end go away; a task that waits for that costs many times more."""
        self._listeners.add(is_gone)

    def unlisten(self, is_gone: Callable[[], None]) -> None:
        """Call it no more."""
        self._listeners.discard(is_gone)

    def tell_gone(self) -> None:
        """Tell those who listen that the other end is gone."""
        listeners, self._listeners = self._listeners, set()
        for is_gone in listeners:
            is_gone()

    def write(self, data: Any) -> None:
        """Write, with whatever else is written in this turn."""
        self._waiting.append(data)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        """Close once everything is written."""
        self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once; what was not written is lost."""
        self._waiting.clear()
        self._transport.abort()

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        if waiting and not self._transport.is_closing():
            self._transport.write(waiting[0] if len(waiting) == 1 else b"".join(waiting))

    def is_closing(self) -> bool:
        """Tell whether it is closed or being closed."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return what the connection knows of itself."""
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Have another protocol told what comes, as an upgrade to WebSocket does."""
        self._transport.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Return who is told what comes."""
        return self._transport.get_protocol()

    def pause_reading(self) -> None:
        """Take nothing in for a while."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on taking in."""
        self._transport.resume_reading()

    def is_reading(self) -> bool:
        """Tell whether it takes in."""
        return self._transport.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Set from how many bytes that wait on the writer is to pause."""
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes wait."""
        return self._transport.get_write_buffer_size() + sum(map(len, self._waiting))


class CoalescingProtocol(HttpToolsProtocol):
    """The server's HTTP, over connections that join what is written in one turn, and with heads that are bounded.

    The library takes a head of any length, and trailers too, before the application hears of them, and waits for the
    rest of one without end. A request whose head comes in one piece pays a comparison for it.

    Attributes:
        head_timeout_s: How long a connection may take to complete its first head, and up to twice that for a later
            one. What is being served, or rests between two requests, is not meant.
    """

    head_timeout_s = 30.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin with a new connection."""
        self._joined = CoalescedTransport(transport, self.loop)
        self._counted: object = None
        self._counted_bytes = 0
        self._has_body = False
        self._awaited_after: object = None
        self._next_look = self.loop.call_later(self.head_timeout_s, self._look)
        super().connection_made(self._joined)

    def connection_lost(self, exc: Exception | None) -> None:
        """End with the connection."""
        self._next_look.cancel()
        super().connection_lost(exc)
        self._joined.tell_gone()

    def handle_websocket_upgrade(self) -> None:
        """Leave the connection to the protocol of sockets, which has limits of its own."""
        self._next_look.cancel()
        super().handle_websocket_upgrade()

    def data_received(self, data: bytes) -> None:
        """Take in what came."""
        super().data_received(data)
        cycle = self.cycle
        if cycle is None or cycle.more_body or "method" not in self.scope:
            self._count(len(data))

    def on_body(self, body: bytes) -> None:
        """Take in a piece of a body, which the application bounds."""
        self._has_body = True
        super().on_body(body)

    def _count(self, size: int) -> None:
        """Count what belongs to no body: the head that is not complete, or what follows the last piece of a body."""
        is_head = self.scope is None or "method" not in self.scope
        has_body, self._has_body = self._has_body, False
        place: object = self.scope if is_head else self.cycle
        if place is not self._counted or (has_body and not is_head):
            # What came with it may in part belong to the request before.
            self._counted, self._counted_bytes = place, 0
        elif is_head or self.cycle is not None:
            self._counted_bytes += size
            if self._counted_bytes > MAX_HEAD_BYTES:
                self._refuse_head()

    def _refuse_head(self) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            answer = ProblemResponse(431, f"The head is longer than {MAX_HEAD_BYTES} bytes", {"code": "too_large"})
            fields = b"".join(b"%b: %b\r\n" % field for field in answer.raw_headers)
            self.transport.write(STATUS_LINE[431] + fields + b"connection: close\r\n\r\n" + bytes(answer.body))
        self.transport.close()

    def _look(self) -> None:
        """Close a connection on which no head was completed since the last look, although one should come."""
        cycle = self.cycle
        is_served = cycle is not None and not cycle.response_complete
        if is_served or self.timeout_keep_alive_task is not None:
            self._awaited_after = _NOTHING
        elif cycle is self._awaited_after:
            self.transport.close()
            return
        else:
            self._awaited_after = cycle
        self._next_look = self.loop.call_later(self.head_timeout_s, self._look)


_NOTHING = object()


class HttpServer(RestingServer):
    """The server, without raising the signal again that asked it to stop, and saying when it listens.

    Args:
        app: What it serves.
        settings: Certificates and patience.
        is_up: Called once it listens.
    """

    def __init__(self, app: ASGIApp, settings: Settings, is_up: Callable[[], None]) -> None:
        class Protocol(CoalescingProtocol):
            head_timeout_s = settings.request_timeout

        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                lifespan="on",
                timeout_graceful_shutdown=max(1, int(settings.drain_timeout / 8)),
                ws_max_size=128 * 1024,
                ssl_certfile=settings.ssl_certfile,
                ssl_keyfile=settings.ssl_keyfile,
            )
        )
        self._is_up = is_up

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving, and put back who handled them before; off the main thread, none."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so; a start that fails leaves ``started`` False instead of ending the interpreter."""
        try:
            await super().startup(sockets)
        except SystemExit:
            self.should_exit = True
        if self.started:
            self._is_up()


def check_certificate(settings: Settings) -> None:
    """Say in one line what is wrong with a certificate, which the server would only tell by a traceback.

    Raises:
        ConfigurationError: It cannot be used.
    """
    if settings.ssl_certfile is None or settings.ssl_keyfile is None:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.ssl_certfile, settings.ssl_keyfile)
    except OSError as error:
        where = f"SSL_CERTFILE={settings.ssl_certfile}, SSL_KEYFILE={settings.ssl_keyfile}"
        raise ConfigurationError(f"{where}: they cannot be used: {error}") from None


def bind(settings: Settings) -> socket.socket:
    """Take the port before anything else is started, so that a taken one is said clearly and at once.

    Raises:
        FreeroamError: It is taken, or there is no such address here.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        where = f"{settings.host}:{settings.port}"
        if error.errno == errno.EADDRINUSE:
            raise FreeroamError(f"port {settings.port} on {settings.host} is taken; set PORT or --port") from None
        raise FreeroamError(f"cannot listen on {where} (HOST, PORT): {error.strerror or error}") from None
    return listener


def address_of(settings: Settings, listener: socket.socket) -> str:
    """Return the URL that a person on this machine opens."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if settings.ssl_certfile else "http"
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
    return f"{scheme}://{shown}:{port}{settings.root_path}"
