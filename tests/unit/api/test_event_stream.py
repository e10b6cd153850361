"""An event stream: ids, pings, coalescing, a reader that goes and a reader that drains nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from freeroam.api.event_stream import EventStream, encode_event
from freeroam.api.listening import encode_message, read_subscription
from freeroam.api.parts import Parts
from freeroam.vocabulary.errors import InvalidInput
from freeroam.vocabulary.job import Job, JobSpec, JobStatus, Policy
from freeroam.vocabulary.result import Event, EventKind
from tests.waiting import until


class Reader:
    """The other end of a stream: takes what is sent, goes when told, and may stop to drain."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.is_gone = asyncio.Event()
        self.drains = asyncio.Event()
        self.drains.set()
        self.was_cut = False

    async def receive(self) -> dict[str, Any]:
        await self.is_gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        await self.drains.wait()
        self.sent.append(message)

    def abort(self) -> None:
        self.was_cut = True

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()

    @property
    def is_complete(self) -> bool:
        return bool(self.sent) and self.sent[-1].get("more_body") is False


class Stream:
    """A stream of a job of the hub, running."""

    def __init__(self, parts: Parts, ping_s: float = 60.0, idle_timeout_s: float = 60.0) -> None:
        self.parts = parts
        self.reader = Reader()
        self.hub = parts.hub
        self.hub.find_job = self._find  # type: ignore[method-assign]
        self._times = (ping_s, idle_timeout_s)

    async def begin(self) -> asyncio.Task[None]:
        listener = self.hub.listener()
        await listener.add("a", None)
        scope = {"type": "http", "freeroam.transport": self.reader, "headers": []}
        stream = EventStream(listener, self.parts, *self._times)
        task = asyncio.create_task(stream(scope, self.reader.receive, self.reader.send))
        await until(lambda: self.reader.sent)
        return task

    async def _find(self, job_id: str) -> Job:
        return job(job_id, JobStatus.RUNNING)


def job(job_id: str, status: JobStatus) -> Job:
    spec = JobSpec(job_id=job_id, stream_ref="demo:", prompt="q", fps=1.0, policy=Policy.LATEST)
    return Job(spec=spec, status=status, created_at=0.0)


async def test_results_come_with_their_ids_and_the_end_is_told(parts: Parts) -> None:
    # Given a reader of a job
    stream = Stream(parts)
    task = await stream.begin()

    # When results are published and the job ends
    stream.hub.publish_result("a", 1, b'{"id":1}')
    stream.hub.publish_result("a", 2, b'{"id":2}')
    stream.hub.publish_done(job("a", JobStatus.COMPLETED))
    await task

    # Then each result carries its id, and the stream ends with done
    assert 'id: 1\nevent: result\ndata: {"id":1}\n\nid: 2\nevent: result\ndata: {"id":2}\n\n' in stream.reader.text
    assert "event: done\ndata: " in stream.reader.text
    assert stream.reader.is_complete

    # And its headers keep proxies from holding it back
    headers = dict(stream.reader.sent[0]["headers"])
    assert headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert (headers[b"cache-control"], headers[b"x-accel-buffering"]) == (b"no-cache", b"no")


async def test_what_is_at_hand_is_sent_as_one_piece(parts: Parts) -> None:
    # Given a reader that is busy while results come
    stream = Stream(parts)
    task = await stream.begin()
    await until(lambda: "retry" in stream.reader.text)
    stream.reader.drains.clear()
    stream.hub.publish_result("a", 1, b'{"id":1}')
    await asyncio.sleep(0.01)
    for number in range(2, 52):
        stream.hub.publish_result("a", number, b'{"id":%d}' % number)

    # When it drains again
    before = len(stream.reader.sent)
    stream.reader.drains.set()
    await until(lambda: "id: 51\n" in stream.reader.text)

    # Then fifty events came as one piece, none lost
    assert len(stream.reader.sent) - before <= 3
    assert stream.reader.text.count("event: result") == 51
    stream.reader.is_gone.set()
    await task


async def test_a_quiet_stream_is_kept_awake_by_comments(parts: Parts) -> None:
    # Given a stream on which nothing happens, then comments come
    stream = Stream(parts, ping_s=0.01)
    task = await stream.begin()
    await until(lambda: stream.reader.text.count(": ping\n\n") >= 3)
    stream.reader.is_gone.set()
    await task


async def test_a_reader_that_goes_is_noticed_and_forgotten(parts: Parts) -> None:
    # Given a reader
    stream = Stream(parts)
    task = await stream.begin()
    assert stream.hub.listeners == 1

    # When it goes, then the stream ends and nobody listens any more
    stream.reader.is_gone.set()
    await asyncio.wait_for(task, 20)
    assert stream.hub.listeners == 0
    assert parts.metrics.snapshot()["freeroam_listeners"] == {"kind=sse": 0.0}


async def test_a_reader_that_drains_nothing_is_cut(parts: Parts) -> None:
    # Given a reader that stops to drain
    stream = Stream(parts, idle_timeout_s=0.05)
    task = await stream.begin()
    await until(lambda: "retry" in stream.reader.text)
    stream.reader.drains.clear()

    # When there is something to send
    stream.hub.publish_result("a", 1, b'{"id":1}')
    await asyncio.wait_for(task, 20)

    # Then its connection is cut and counted
    assert stream.reader.was_cut
    assert stream.hub.listeners == 0
    assert parts.metrics.snapshot()["freeroam_slow_client_total"] == {"action=dropped,kind=sse": 1.0}


async def test_a_stop_is_told_before_the_stream_ends(parts: Parts) -> None:
    # Given a reader, when the service stops
    stream = Stream(parts)
    task = await stream.begin()
    stream.hub.close(lambda _: "running")
    await asyncio.wait_for(task, 20)

    # Then the last event says so, and the answer is complete
    assert '"closing":true' in stream.reader.text
    assert stream.reader.is_complete


def test_events_read_alike_on_both_doors() -> None:
    # Given an event with a result and one without
    result = Event(EventKind.RESULT, "a", 7, b'{"id":7}')
    status = Event(EventKind.STATUS, "a", None, b'{"status":"running"}')

    # Then both doors tell the same
    assert encode_event(result) == b'id: 7\nevent: result\ndata: {"id":7}\n\n'
    assert encode_event(status) == b'event: status\ndata: {"status":"running"}\n\n'
    assert orjson.loads(encode_message(result)) == {"event": "result", "job_id": "a", "id": 7, "data": {"id": 7}}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"subscribe": "a"}', '{"after": {"a": -1}}', '{"follow": ["a"]}', "x" * 70_000]
)
def test_what_a_socket_cannot_obey_is_explained(text: str) -> None:
    # Given a message that says nothing usable, then the reader is told why
    with pytest.raises(InvalidInput):
        read_subscription(text)
