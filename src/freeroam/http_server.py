"""The HTTP server round the application: its port taken first, its signals handed on, its shutdown bounded."""

from __future__ import annotations

import contextlib
import errno
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import uvicorn

from freeroam.resting_server import RestingServer
from freeroam.vocabulary.errors import ConfigurationError, FreeroamError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from freeroam.settings import Settings


class HttpServer(RestingServer):
    """The server, without raising the signal again that asked it to stop, and saying when it listens.

    Args:
        app: What it serves.
        settings: Certificates and patience.
        is_up: Called once it listens.
    """

    def __init__(self, app: FastAPI, settings: Settings, is_up: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                app,
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
