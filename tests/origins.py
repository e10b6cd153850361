"""An HTTP server for tests that does what it is told, however wrong, and canaries that count who calls."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Self

from tests.clips import HlsClip

HOST = "127.0.0.2"
"""Where origins listen; allow this address and 127.0.0.1 stays forbidden."""

TYPES = {
    ".m3u8": "application/vnd.apple.mpegurl",
    ".ts": "video/mp2t",
    ".m4s": "video/iso.segment",
    ".mp4": "video/mp4",
    ".mkv": "video/x-matroska",
    ".jpg": "image/jpeg",
    ".key": "application/octet-stream",
}


@dataclass
class Request:
    """What a client asked."""

    path: str
    headers: dict[str, str]
    writer: asyncio.StreamWriter

    def range(self, size: int) -> tuple[int, int] | None:
        """First and last byte asked for."""
        text = self.headers.get("range", "")
        if not text.startswith("bytes="):
            return None
        first, _, last = text[6:].partition("-")
        return int(first), min(int(last), size - 1) if last else size - 1


@dataclass
class Reply:
    """A whole answer; ``cut_at`` closes the connection after so many bytes of the body."""

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut_at: int | None = None


Answer = Callable[[Request], Reply | Awaitable[Reply | None] | None]
"""Gives a reply, or writes to the connection itself and returns None, which closes it."""


class Origin:
    """A server whose every path is scripted; ``async with`` starts and stops it."""

    def __init__(self, host: str = HOST, tls: ssl.SSLContext | None = None, port: int = 0) -> None:
        self.host = host
        self.requests: list[Request] = []
        self.connections = 0
        self._tls = tls
        self._port = port
        self._routes: dict[str, Reply | Answer] = {}
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, self.host, self._port, ssl=self._tls)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    @property
    def port(self) -> int:
        return self._port

    @property
    def base(self) -> str:
        scheme = "https" if self._tls else "http"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self._port}"

    def url(self, path: str) -> str:
        return self.base + path

    def on(self, path: str, answer: Reply | Answer | bytes) -> str:
        """Script a path; returns its address."""
        self._routes[path] = Reply(answer) if isinstance(answer, bytes) else answer
        return self.url(path)

    def drop(self, path: str) -> None:
        self._routes.pop(path, None)

    def asked(self, path: str) -> int:
        """How often a path was asked for."""
        return sum(request.path == path for request in self.requests)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                headers = {
                    n.strip().lower(): v.strip() for n, _, v in (line.partition(":") for line in head[1:] if line)
                }
                request = Request(head[0].split(" ")[1], headers, writer)
                self.requests.append(request)
                if not await self._answer(request):
                    return
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, request: Request) -> bool:
        script = self._routes.get(request.path, self._routes.get(request.path.partition("?")[0], Reply(status=404)))
        reply = script(request) if callable(script) else script
        if asyncio.iscoroutine(reply):
            reply = await reply
        if reply is None:
            return False
        assert isinstance(reply, Reply)
        return await self._send(request, reply)

    async def _send(self, request: Request, reply: Reply) -> bool:
        body, status, extra = reply.body, reply.status, {}
        asked = request.range(len(body)) if status == 200 else None
        if asked is not None and "accept-ranges" not in {name.lower() for name in reply.headers}:
            first, last = asked
            extra["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
            body, status = body[first : last + 1], 206
        suffix = "." + request.path.partition("?")[0].rpartition(".")[2]
        headers = {
            "Content-Type": TYPES.get(suffix, "application/octet-stream"),
            "Content-Length": str(len(body)),
            **extra,
            **reply.headers,
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items() if value)
        sent = body if reply.cut_at is None else body[: reply.cut_at]
        request.writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + sent)
        await request.writer.drain()
        return reply.cut_at is None


def redirect(location: str, status: int = 302) -> Reply:
    """An answer that sends the client elsewhere."""
    return Reply(status=status, headers={"Location": location})


def drip(body: bytes, every_s: float = 0.05, content_type: str = "video/mp2t", size: int = 1) -> Answer:
    """Answer with a byte now and then."""

    async def answer(request: Request) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        request.writer.write(head.encode())
        for start in range(0, len(body), size):
            request.writer.write(body[start : start + size])
            await request.writer.drain()
            await asyncio.sleep(every_s)

    return answer


@dataclass
class LiveHls:
    """A live rendition on an origin: a sliding playlist of a clip's segments, published by hand or by the clock."""

    origin: Origin
    clip: HlsClip
    name: str = "/live"
    window: int = 6
    head_tags: str = ""
    lines: list[str] = field(default_factory=list)
    published: int = 0
    dropped: int = 0
    is_ended: bool = False
    is_frozen: bool = False

    def __post_init__(self) -> None:
        self.origin.on(f"{self.name}.m3u8", self._playlist)
        if self.clip.init is not None:
            self.origin.on(f"{self.name}-init.mp4", self.clip.init)

    @property
    def url(self) -> str:
        return self.origin.url(f"{self.name}.m3u8")

    def path(self, number: int) -> str:
        """Path of the segment with that number."""
        return f"{self.name}-{number}.{self.clip.suffix}"

    def publish(self, count: int = 1, tags: str = "", answer: Reply | Answer | bytes | None = None) -> None:
        """Add segments; ``answer`` is given instead of the clip's bytes."""
        for _ in range(count):
            number = self.published
            body = self.clip.segments[number % len(self.clip.segments)]
            looped = "#EXT-X-DISCONTINUITY\n" if number and number % len(self.clip.segments) == 0 else ""
            self.lines.append(f"{looped}{tags}#EXTINF:{self.clip.segment_s},\n{self.path(number).lstrip('/')}\n")
            self.origin.on(self.path(number), body if answer is None else answer)
            self.published += 1
            if len(self.lines) > self.window:
                self.lines.pop(0)
                self.dropped += 1
                if self.dropped > 3:
                    self.origin.drop(self.path(self.dropped - 4))

    async def go_on(self, every_s: float | None = None) -> None:
        """Publish by the clock until cancelled."""
        while True:
            await asyncio.sleep(self.clip.segment_s if every_s is None else every_s)
            if not self.is_frozen:
                self.publish()

    def text(self) -> str:
        """The playlist as it is now."""
        init = f'#EXT-X-MAP:URI="{self.name.lstrip("/")}-init.mp4"\n' if self.clip.init is not None else ""
        end = "#EXT-X-ENDLIST\n" if self.is_ended else ""
        target = max(1, round(self.clip.segment_s))
        return (
            f"#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:{target}\n#EXT-X-MEDIA-SEQUENCE:{self.dropped}\n"
            f"{self.head_tags}{init}{''.join(self.lines)}{end}"
        )

    def _playlist(self, _request: Request) -> Reply:
        return Reply(self.text().encode())


class Canary:
    """A listener that nobody may reach; ``async with`` starts it on loopback, IPv4 and IPv6."""

    def __init__(self) -> None:
        self.calls = 0
        self.port = 0
        self._servers: list[asyncio.Server] = []

    async def __aenter__(self) -> Self:
        first = await asyncio.start_server(self._called, "127.0.0.1", 0)
        self.port = first.sockets[0].getsockname()[1]
        self._servers = [first]
        with suppress(OSError):  # a machine without IPv6
            self._servers.append(await asyncio.start_server(self._called, "::1", self.port))
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()

    async def _called(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.calls += 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret")
        writer.close()


@asynccontextmanager
async def running(task: Awaitable[None]) -> AsyncIterator[None]:
    """Run something beside the body of a test."""
    job = asyncio.ensure_future(task)
    try:
        yield
    finally:
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
