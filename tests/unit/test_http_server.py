"""The server's HTTP bounds heads in size and in time, and cuts nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from freeroam.api.bounds import MAX_HEAD_BYTES
from freeroam.http_server import CoalescingProtocol, HttpServer
from freeroam.settings import Settings
from tests.waiting import until

HEAD = b"GET /a HTTP/1.1\r\nhost: h\r\n"
POST = b"POST /a HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n"
PIECE = b"x" * 16 * 1024
MORE = MAX_HEAD_BYTES // len(PIECE) + 2
"""So many pieces, the first not counted, are longer than a head may be."""


class Connection(asyncio.Transport):
    """What the other end sees."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.is_closed = False
        self.protocol: asyncio.BaseProtocol | None = None

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def write(self, data: Any) -> None:
        self.sent += data

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class Door:
    """A connection to a server whose time passes when ``pass_by`` is called.

    Attributes:
        may_answer: What answers wait for.
        bodies: What the application read.
    """

    def __init__(self) -> None:
        self.connection = Connection()
        self.may_answer = asyncio.Event()
        self.bodies: list[bytes] = []
        self.timers: list[SimpleNamespace] = []
        config = uvicorn.Config(
            self.application, interface="asgi3", log_config=None, lifespan="off", proxy_headers=False
        )
        loop = asyncio.get_running_loop()
        timed: Any = SimpleNamespace(
            call_later=self._call_later, call_soon=loop.call_soon, create_task=loop.create_task
        )
        self.protocol = CoalescingProtocol(config, ServerState(), {}, timed)
        self.protocol.connection_made(self.connection)

    async def application(
        self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
    ) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            body += message.get("body", b"")
        self.bodies.append(body)
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body"})

    def _call_later(self, delay_s: float, act: Callable[[], None]) -> SimpleNamespace:
        timer = SimpleNamespace(left_s=delay_s, act=act, is_off=False)
        timer.cancel = lambda: setattr(timer, "is_off", True)
        self.timers.append(timer)
        return timer

    def pass_by(self, seconds: float) -> None:
        """Let time pass."""
        for timer in self.timers:
            timer.left_s -= seconds
        due = [timer for timer in self.timers if timer.left_s <= 0]
        self.timers = [timer for timer in self.timers if timer.left_s > 0]
        for timer in due:
            if not timer.is_off:
                timer.act()

    def tell(self, *pieces: bytes) -> None:
        """Send, as long as the server listens."""
        for piece in pieces:
            if not self.connection.is_closed:
                self.protocol.data_received(piece)

    async def answers(self, count: int) -> None:
        """Wait for so many answers in all."""
        await until(lambda: self.connection.sent.count(b"HTTP/1.1 200") == count)


@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b"GET /", *[PIECE] * MORE], id="address"),
        pytest.param([HEAD, b"x: ", *[PIECE] * MORE], id="header"),
        pytest.param([HEAD, *[b"x: y\r\n" * 4096] * MORE], id="headers"),
        pytest.param([POST, b"0\r\nx: ", *[PIECE] * MORE], id="trailer"),
        pytest.param([POST, b"1\r\na\r\n1;x=", *[PIECE] * MORE], id="words about a piece of a body"),
    ],
)
@pytest.mark.parametrize("is_first", [True, False])
async def test_a_head_or_trailer_without_end_is_cut(pieces: list[bytes], is_first: bool) -> None:
    # Given a connection that is new, or has had an answer
    door = Door()
    door.may_answer.set()
    if not is_first:
        door.tell(HEAD + b"\r\n")
        await door.answers(1)

    # When a head never ends
    door.tell(*pieces)
    await asyncio.sleep(0)

    # Then the connection is closed, with a word where no answer is under way
    assert door.connection.is_closed
    assert (b"HTTP/1.1 431 " in door.connection.sent) is (not pieces[0].startswith(b"POST"))


async def test_bodies_are_no_heads_however_they_come() -> None:
    # Given a large body in pieces, in chunks, and a pipelined request whose head is cut in two
    door = Door()
    door.may_answer.set()
    length = 40 * len(PIECE)
    told = HEAD.replace(b"GET", b"POST") + b"content-length: %d\r\n\r\n" % length

    # When they come
    door.tell(told, *[PIECE] * 40)
    await door.answers(1)
    door.tell(POST, *[b"%x\r\n" % len(PIECE) + PIECE + b"\r\n"] * 40, b"0\r\n\r\n")
    await door.answers(2)
    door.tell(told, PIECE * 40 + HEAD, b"x: y\r\n", b"\r\n")
    await door.answers(4)

    # Then all are answered
    assert [len(body) for body in door.bodies] == [length, length, length, 0]
    assert not door.connection.is_closed


@pytest.mark.parametrize("pieces", [[], [b"\r\n"], [b"GET /"], [HEAD]])
async def test_a_connection_without_a_whole_head_is_closed_in_time(pieces: list[bytes]) -> None:
    # Given a connection that begins a head at most
    door = Door()
    door.tell(*pieces)

    # When nothing more comes, then it is closed when its time is over, no sooner
    door.pass_by(29)
    assert not door.connection.is_closed
    door.pass_by(1)
    assert door.connection.is_closed


def test_the_time_for_a_head_is_a_setting() -> None:
    # Given a setting, then connections of the server go by it
    server = HttpServer(lambda *_: None, Settings(request_timeout=7), lambda: None)  # type: ignore[arg-type]
    assert server.config.http.head_timeout_s == 7  # type: ignore[union-attr]


@pytest.mark.parametrize(("begun", "drop"), [(HEAD, b"x"), (b"", b"\r\n")])
async def test_a_later_head_must_be_complete_in_time_too(begun: bytes, drop: bytes) -> None:
    # Given a connection that had an answer and begins another head, or seems to
    door = Door()
    door.may_answer.set()
    door.tell(HEAD + b"\r\n")
    await door.answers(1)
    door.tell(begun)

    # When it goes on drop by drop, then it is closed
    for _ in range(60):
        door.pass_by(1)
        door.tell(drop)
    assert door.connection.is_closed


async def test_answers_that_take_long_and_connections_that_are_used_now_and_then_are_left_alone() -> None:
    # Given a request whose answer takes minutes
    door = Door()
    door.tell(HEAD + b"\r\n")
    await until(lambda: bool(door.bodies))
    for _ in range(10):
        door.pass_by(30)
    door.may_answer.set()
    await door.answers(1)

    # When others follow, each a while after the one before
    for number in range(2, 40):
        door.pass_by(4)
        door.tell(HEAD)
        door.pass_by(3)
        door.tell(b"\r\n")
        await door.answers(number)

    # Then the connection is open, until it rests for longer than connections are kept
    assert not door.connection.is_closed
    door.pass_by(5)
    assert door.connection.is_closed


async def test_a_socket_is_not_timed_and_a_closed_connection_neither() -> None:
    # Given a connection that becomes a socket, and one that is lost
    socket, lost = Door(), Door()
    socket.tell(
        HEAD + b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    lost.protocol.connection_lost(None)

    # Then neither has a timer of the HTTP that is left behind
    assert socket.connection.protocol is not None
    for door in (socket, lost):
        assert not [timer for timer in door.timers if not timer.is_off and "_look" in timer.act.__name__]
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()
