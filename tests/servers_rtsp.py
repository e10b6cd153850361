"""A real RTSP server on loopback, that tests may kill, restart and freeze; and a scripted one for hostile answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers import absent, free_port

SYSTEM_PYTHON = "/usr/bin/python3"
SCRIPT = Path(__file__).with_name("rtsp_server.py")
USER, PASSWORD = "me", "s3cret:/ü"
SDP = (
    b"v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n"
    b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=control:track1\r\n"
)


@cache
def _has_bindings() -> bool:
    probe = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    with contextlib.suppress(OSError):
        return subprocess.run([SYSTEM_PYTHON, "-c", probe], capture_output=True, check=False).returncode == 0
    return False


class RtspServer:
    """GStreamer's RTSP server with the mounts of ``rtsp_server.py``; keeps its port over restarts.

    Args:
        login: ``none``, ``basic`` or ``digest``.
    """

    def __init__(self, login: str = "none") -> None:
        if not _has_bindings():
            absent("GStreamer's RTSP server for Python", "gir1.2-gst-rtsp-server-1.0")
        self._login = login
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def url(self, mount: str = "h264", login: str = "") -> str:
        """The address of a mount; ``login`` is ``user:password@`` or nothing."""
        return f"rtsp://{login}127.0.0.1:{self.port}/{mount}"

    def start(self) -> None:
        """Start and wait until it listens."""
        command = [SYSTEM_PYTHON, str(SCRIPT), "--port", str(self.port), "--login", self._login]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.strip() == str(self.port).encode(), f"the RTSP server did not start: {line!r}"

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    def freeze(self) -> None:
        """Stop it from answering without closing anything."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)


Answer = Callable[[str, dict[str, str]], Awaitable[bytes] | bytes]


class ScriptedRtsp:
    """A server on ``host`` that answers each request with what ``answer(method, headers)`` returns.

    Attributes:
        requests: First lines of what was asked.
        connections: How many clients came.
    """

    def __init__(self, answer: Answer, host: str = "127.0.0.1") -> None:
        self._answer = answer
        self._host = host
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self.requests: list[str] = []
        self.connections = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self._host, 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def open_connections(self) -> int:
        return sum(not writer.is_closing() for writer in self._writers)

    def url(self, path: str = "cam") -> str:
        return f"rtsp://{self._host}:{self.port}/{path}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            async for first, headers in _requests(reader):
                self.requests.append(first)
                answer = self._answer(first.split()[0], headers)
                writer.write(answer if isinstance(answer, bytes) else await answer)
                await writer.drain()
        writer.close()


async def _requests(reader: asyncio.StreamReader) -> AsyncIterator[tuple[str, dict[str, str]]]:
    while True:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines if ": " in line)
        yield first, {name.lower(): value for name, value in pairs}


def response(status: str, headers: dict[str, str], body: bytes = b"", **more: str) -> bytes:
    """An answer to the request whose headers are ``headers``."""
    fields = {"CSeq": headers.get("cseq", "0"), **{name.replace("_", "-"): value for name, value in more.items()}}
    if body:
        fields["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"RTSP/1.0 {status}\r\n{head}\r\n".encode("utf-8", "surrogateescape") + body


def camera(method: str, headers: dict[str, str]) -> bytes:
    """What a camera answers that then sends nothing."""
    match method:
        case "OPTIONS":
            return response("200 OK", headers, Public="OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN, GET_PARAMETER")
        case "DESCRIBE":
            return response("200 OK", headers, SDP, Content_Type="application/sdp")
        case "SETUP":
            return response("200 OK", headers, Transport="RTP/AVP/TCP;unicast;interleaved=0-1", Session="1;timeout=60")
    return response("200 OK", headers, Session="1")
