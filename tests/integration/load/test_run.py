"""The load client against real sockets: what it counts when a server behaves, and when it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from freeroam.clock import SystemClock
from freeroam.load.plan import Plan, Wording
from freeroam.load.report import lines_of, report_of
from freeroam.load.run import Run, target_of
from tests.waiting import until

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 46\r\n\r\n"
    b'{"error": "x", "detail":{"code":"queue_full"}}'
)
DONE = b'event: done\ndata: {"finish_reason":"stop","usage":{"completion_tokens":2}}\n\n'

Answering = Callable[[asyncio.StreamWriter], Awaitable[None]]


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


def piece(index: int) -> bytes:
    return chunk(b'data: {"request_id":"r","token":"x","index":%d}\n\n' % index)


async def speak(writer: asyncio.StreamWriter) -> None:
    """Answer well."""
    for part in (HEAD, piece(0), piece(1), chunk(DONE), END):
        writer.write(part)
        await writer.drain()


class Server:
    """Answers each question as ``answering`` does; counts connections and questions."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.connections = 0
        self.questions = 0
        self.tasks: set[asyncio.Task[None] | None] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.tasks.add(asyncio.current_task())
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                self.questions += 1
                await self.answering(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(answering: Answering) -> AsyncIterator[tuple[Server, str]]:
    server = Server(answering)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield server, f"http://127.0.0.1:{port}"
    finally:
        listening.close()
        tasks = [task for task in server.tasks if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run_of(url: str, **plan: Any) -> Run:
    made = Plan(url, [Wording("q")], **plan)
    return Run(made, target_of(made, None), SystemClock())


async def carried_out(url: str, **plan: Any) -> dict[str, Any]:
    run = run_of(url, **plan)
    await run.carry_out()
    return report_of(run)


async def test_every_question_is_answered_on_connections_that_are_used_again() -> None:
    # Given a server that answers well, when forty questions are asked, four at a time
    async with serving(speak) as (server, url):
        report = await carried_out(url, requests=40, concurrency=4)

    # Then each is counted once, every token accounted for, over four connections
    assert (report["requests"]["answered"], report["requests"]["failed"]) == (40, 0)
    assert (report["tokens"]["received"], report["tokens"]["missing"]) == (80, 0)
    assert server.questions == 40
    assert (server.connections, report["connections"]) == (4, 4)
    assert report["first_token_ms"]["count"] == report["end_to_end_ms"]["count"] == 40
    assert report["first_token_ms"]["p50"] <= report["end_to_end_ms"]["p50"]
    assert any("80 in 80 pieces; 0 indexes missing" in line for line in lines_of(report))


async def test_times_count_from_when_a_question_was_due_and_not_from_when_it_could_be_sent() -> None:
    # Given a server that answers nothing for a while, and one question in flight at most
    may_answer = asyncio.Event()

    async def stall(writer: asyncio.StreamWriter) -> None:
        await may_answer.wait()
        await speak(writer)

    async with serving(stall) as (server, url):
        run = run_of(url, requests=20, concurrency=1, rate_per_s=100.0, pace="even")
        running = asyncio.create_task(run.carry_out())
        await until(lambda: server.questions == 1)
        asked_s = asyncio.get_running_loop().time()  # the first was due before this, the last 0.19 s later
        await until(lambda: asyncio.get_running_loop().time() > asked_s + 0.5)

        # When it goes on again
        held_s = asyncio.get_running_loop().time() - asked_s
        may_answer.set()
        await running
    report = report_of(run)

    # Then the questions that were due meanwhile have waited too, and that the rate was not kept is said
    assert report["requests"]["answered"] == 20
    assert report["end_to_end_ms"]["p50"] >= (held_s - 0.2) * 1000
    assert report["schedule"]["behind_ms"]["p99"] >= (held_s - 0.2) * 1000
    assert report["schedule"]["is_kept"] is False
    assert report["schedule"]["due"] == 20
    assert any("NOT KEPT" in line for line in lines_of(report))


async def refuse(writer: asyncio.StreamWriter) -> None:
    writer.write(FULL)


async def reset(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def break_off(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + piece(0))
    await writer.drain()
    writer.close()


async def end_early(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + piece(0) + END)


async def lose_one(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + piece(0) + piece(2) + chunk(DONE) + END)


async def babble(writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")


async def be_silent(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


@pytest.mark.parametrize(
    ("answering", "error"),
    [
        (refuse, "503 queue_full"),
        (reset, "connection lost"),
        (break_off, "connection lost"),
        (end_early, "broke off"),
        (lose_one, "index gap"),
        (babble, "no HTTP"),
        (be_silent, "timeout"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_every_way_to_fail_is_counted_by_its_name(answering: Answering, error: str) -> None:
    # Given a server that fails in one way, when questions are asked, then each is counted as failed, once, under it
    async with serving(answering) as (_, url):
        report = await carried_out(url, requests=3, concurrency=3, timeout_s=0.5)
    assert report["requests"]["answered"] == 0
    assert {name.partition(":")[0]: count for name, count in report["errors"].items()} == {error: 3}


async def test_a_server_that_is_not_there_is_counted_and_not_hammered() -> None:
    # Given an address where nobody listens, when questions are asked, then each is a failure without a hang
    async with serving(speak) as (_, url):
        pass
    report = await carried_out(url, requests=4, concurrency=2)
    assert report["errors"] == {"no connection: ConnectionRefusedError": 4}


async def test_a_connection_that_the_server_closed_while_idle_costs_no_question() -> None:
    # Given a server that closes each connection after its answer without saying so
    async def speak_and_close(writer: asyncio.StreamWriter) -> None:
        await speak(writer)
        writer.close()

    # When questions are asked one after another
    async with serving(speak_and_close) as (server, url):
        report = await carried_out(url, requests=10, concurrency=1)

    # Then all are answered; those that met the closing were asked anew
    assert (report["requests"]["answered"], report["requests"]["failed"]) == (10, 0)
    assert server.connections == 10


async def test_questions_in_flight_at_the_end_are_waited_for_and_then_named() -> None:
    # Given a server that never answers, when the time is over, then what was asked is counted, not forgotten
    async with serving(be_silent) as (_, url):
        closed = await carried_out(url, duration_s=0.2, concurrency=2, drain_s=0.1)
        opened = await carried_out(url, duration_s=0.2, concurrency=1, rate_per_s=50.0, pace="even", drain_s=0.1)
    assert closed["errors"] == {"unanswered at the end": 2}
    assert opened["errors"]["unanswered at the end"] == 1
    assert opened["errors"]["never sent"] == sum(opened["errors"].values()) - 1 > 0


async def test_what_is_asked_while_warming_up_is_not_measured() -> None:
    # Given a warm-up that outlasts the questions, when they are asked, then no time of theirs is counted
    async with serving(speak) as (server, url):
        report = await carried_out(url, requests=5, concurrency=1, warmup_s=30.0)
    assert server.questions == 5
    assert report["end_to_end_ms"]["count"] == 0


async def test_an_interrupted_run_tells_what_it_measured_and_blames_nobody() -> None:
    # Given a run without an end, when it is interrupted, then what was answered is told, and what was open is no error
    async with serving(speak) as (server, url):
        run = run_of(url, duration_s=3600.0, concurrency=4)
        running = asyncio.create_task(run.carry_out())
        await until(lambda: server.questions > 20)
        running.cancel()
        await asyncio.wait([running])
        report = report_of(run)
    assert report["requests"]["answered"] > 10
    assert report["requests"]["failed"] == 0
    assert report["requests"]["answered_per_s"] > 0
