"""What every source keeps, of whatever kind: frames in order, nothing left behind, no second try."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import pytest

from freeroam.clock import SystemClock
from freeroam.security.dialing import Dialer
from freeroam.security.url_policy import UrlPolicy
from freeroam.sources.decoding.pool import DecoderPool
from freeroam.sources.decoding.values import DecoderConfig
from freeroam.sources.demo import DemoSource
from freeroam.sources.fetching import Fetcher
from freeroam.sources.file import FileSource
from freeroam.sources.hls import HlsConfig, hls_factory
from freeroam.sources.http import http_factory
from freeroam.sources.redis_stream import RedisConfig, RedisSources
from freeroam.sources.rtsp import RtspSources
from freeroam.sources.source import Source, SourceFactory, SourceRequest
from freeroam.vocabulary.errors import SourceError, SourceErrorCode
from freeroam.vocabulary.frame import FrameWish
from tests.clips import file_clip, hls_clip, picture
from tests.origins import HOST, LiveHls, Origin, Reply, Request, running
from tests.servers import free_port
from tests.servers_redis import RedisServer, jpeg
from tests.servers_rtsp import RtspServer
from tests.waiting import until

CLOCK = SystemClock()
CLOSE_LIMIT_S = 5.0
"""A source has one second; the rest is for a busy machine."""
CANCELLED_TURNS = 60
"""More turns of the event loop than connecting and the first read take, where a cancellation is lost most easily."""


@dataclass
class Parts:
    """What sources are made of."""

    pool: DecoderPool
    dialer: Dialer
    fetcher: Fetcher

    @property
    def hls(self) -> SourceFactory:
        return hls_factory(self.fetcher, self.pool, CLOCK, HlsConfig())

    @property
    def http(self) -> SourceFactory:
        return http_factory(self.fetcher, self.pool, CLOCK, HlsConfig())

    @property
    def rtsp(self) -> SourceFactory:
        return RtspSources(self.dialer, self.pool, CLOCK)

    @property
    def redis(self) -> SourceFactory:
        return RedisSources(RedisConfig(), self.dialer, self.pool, CLOCK)


@dataclass
class Bench:
    """One kind, ready to be tried.

    Attributes:
        ref: A good video, wider than the box that is asked for.
        server_ref: An address of this kind at a port where something else listens; None for kinds without network.
        missing_ref: A video that is not there.
        missing_code: What that ends with.
    """

    factory: SourceFactory
    ref: str
    server_ref: Callable[[int], str] | None
    missing_ref: str | None = None
    missing_code: SourceErrorCode = SourceErrorCode.NOT_FOUND
    fps: float = 5.0


@asynccontextmanager
async def file_bench(parts: Parts, folder) -> AsyncIterator[Bench]:
    (folder / "clip.mp4").write_bytes(file_clip())
    factory = partial(FileSource, root=folder, pool=parts.pool, clock=CLOCK)
    yield Bench(factory, "file:clip.mp4", None, "file:nothing.mp4")


@asynccontextmanager
async def demo_bench(parts: Parts, folder) -> AsyncIterator[Bench]:
    yield Bench(partial(DemoSource, pool=parts.pool, clock=CLOCK), "demo:", None)


@asynccontextmanager
async def hls_bench(parts: Parts, folder) -> AsyncIterator[Bench]:
    async with Origin() as origin:
        live = LiveHls(origin, hls_clip())
        live.publish(4)
        async with running(live.go_on()):
            yield Bench(
                parts.hls, live.url, lambda port: f"http://{HOST}:{port}/a.m3u8", origin.url("/no.m3u8"), fps=5.0
            )


@asynccontextmanager
async def hls_recording_bench(parts: Parts, folder) -> AsyncIterator[Bench]:
    async with Origin() as origin:
        recording = LiveHls(origin, hls_clip(), is_ended=True, window=99)
        recording.publish(8)
        yield Bench(parts.hls, recording.url, None)


@asynccontextmanager
async def http_bench(parts: Parts, folder) -> AsyncIterator[Bench]:
    async with Origin() as origin:
        url = origin.on("/clip.mp4", file_clip())
        yield Bench(parts.http, url, lambda port: f"http://{HOST}:{port}/a.mp4", origin.url("/no.mp4"))


@asynccontextmanager
async def mjpeg_bench(parts: Parts, folder) -> AsyncIterator[Bench]:
    async def stream(request: Request) -> None:
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=x\r\n\r\n")
        for number in range(10_000):
            body = picture(number // 10)
            head = f"--x\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            request.writer.write(head + body + b"\r\n")
            await request.writer.drain()
            await asyncio.sleep(0.05)

    async with Origin() as origin:
        url = origin.on("/cam", stream)
        yield Bench(parts.http, url, lambda port: f"http://{HOST}:{port}/cam", origin.url("/no"))


@asynccontextmanager
async def snapshot_bench(parts: Parts, folder) -> AsyncIterator[Bench]:
    async with Origin() as origin:
        url = origin.on("/now.jpg", Reply(picture(), headers={"Content-Type": "image/jpeg"}))
        yield Bench(parts.http, url, lambda port: f"http://{HOST}:{port}/now.jpg", origin.url("/no.jpg"))


@asynccontextmanager
async def rtsp_bench(parts: Parts, folder) -> AsyncIterator[Bench]:
    with RtspServer() as server:
        yield Bench(parts.rtsp, server.url(), lambda port: f"rtsp://{HOST}:{port}/a", server.url("nothing"))


@asynccontextmanager
async def redis_bench(parts: Parts, folder) -> AsyncIterator[Bench]:
    with RedisServer() as server:
        for number in range(40):
            server.add("frames", f"{1_700_000_000_000 + number * 100}-0", frame=jpeg(160, 90))
        server.add("frames", eof=1)
        server.client.lpush("list", "a")
        where = f"redis://127.0.0.1:{server.port}/0"
        yield Bench(
            parts.redis,
            f"{where}/frames",
            lambda port: f"redis://{HOST}:{port}/0/frames",
            f"{where}/list",
            SourceErrorCode.NO_VIDEO,
        )


ALL = {
    "file": file_bench,
    "demo": demo_bench,
    "hls": hls_bench,
    "hls-recording": hls_recording_bench,
    "http": http_bench,
    "mjpeg": mjpeg_bench,
    "snapshot": snapshot_bench,
    "rtsp": rtsp_bench,
    "redis": redis_bench,
}
ENDING = ["file", "hls-recording", "http", "redis"]
NETWORKED = ["hls", "http", "mjpeg", "snapshot", "rtsp", "redis"]
MAY_BE_MISSING = ["file", *NETWORKED]


@pytest.fixture
async def parts():
    pool = DecoderPool(DecoderConfig(processes=1), CLOCK)
    dialer = Dialer(UrlPolicy(("127.0.0.0/8",)), clock=CLOCK)
    fetcher = Fetcher(dialer, CLOCK)
    await pool.start()
    yield Parts(pool, dialer, fetcher)
    await fetcher.aclose()
    await pool.stop()


@pytest.fixture
async def bench(request, parts, tmp_path):
    make: Callable[..., AbstractAsyncContextManager[Bench]] = ALL[request.param]
    async with make(parts, tmp_path) as bench:
        yield bench


def on(*kinds):
    return pytest.mark.parametrize("bench", kinds, indirect=True)


def wanted(ref: str, fps: float = 5.0, **more) -> SourceRequest:
    return SourceRequest(ref, FrameWish(fps, 80, 80), **more)


async def take(source: Source, count: int | None, limit_s: float = 40.0):
    frames = []
    async with asyncio.timeout(limit_s), aclosing(source.frames()) as stream:
        async for frame in stream:
            frames.append(frame)
            if len(frames) == count:
                break
    return frames


@on(*ALL)
async def test_frames_come_in_order_scaled_named_and_on_the_grid(bench):
    source = bench.factory(wanted(bench.ref, bench.fps))

    frames = await take(source, 8)

    assert len(frames) == 8
    for frame in frames:
        assert max(frame.width_px, frame.height_px) == 80
        assert frame.array().shape == (frame.height_px, frame.width_px, 3)
        assert frame.source_width_px > 80
    times = [frame.stream_time_s for frame in frames]
    assert times == sorted(times)
    assert len({frame.frame_id for frame in frames}) == 8
    dues = [frame.sample_time_s for frame in frames]
    assert [later - dues[0] for later in dues] == pytest.approx([number / bench.fps for number in range(8)], abs=0.21)
    due_times = [frame.due_monotonic_s for frame in frames]
    assert due_times == sorted(due_times)
    assert source.facts.kind in {"file", "demo", "hls", "http", "mjpeg", "snapshot", "rtsp", "redis"}
    assert source.facts.width_px == frames[0].source_width_px
    assert source.facts.codec


@on(*ENDING)
async def test_a_video_that_ends_returns(bench):
    source = bench.factory(wanted(bench.ref, 2.0, waits=True))

    frames = await take(source, None)

    assert len(frames) >= 8
    assert source.facts.is_live == (source.facts.kind == "redis")


@on(*ALL)
async def test_building_does_nothing(bench, parts):
    before = asyncio.all_tasks()

    bench.factory(wanted(bench.ref))
    await asyncio.sleep(0)

    assert parts.pool.open_feeds == 0
    assert asyncio.all_tasks() <= before | {asyncio.current_task()} | _servers()


@on(*ALL)
async def test_closing_after_a_frame_releases_everything(bench, parts):
    source = bench.factory(wanted(bench.ref))
    stream = source.frames()
    await anext(stream)

    began_s = time.monotonic()
    await stream.aclose()

    assert time.monotonic() - began_s < CLOSE_LIMIT_S
    assert parts.pool.open_feeds == 0
    await until(lambda: not _own_tasks(), limit_s=CLOSE_LIMIT_S)


@on(*ALL)
async def test_cancelling_releases_everything(bench, parts):
    source = bench.factory(wanted(bench.ref))
    task = asyncio.create_task(take(source, None))
    await until(lambda: parts.pool.open_feeds > 0 or source.facts.kind == "snapshot" or task.done())

    task.cancel()
    await asyncio.wait({task}, timeout=CLOSE_LIMIT_S)

    assert task.done()
    assert parts.pool.open_feeds == 0
    await until(lambda: not _own_tasks(), limit_s=CLOSE_LIMIT_S)


@on(*ALL)
async def test_cancelling_at_any_turn_of_the_loop_releases_everything(bench, parts):
    for turns in range(CANCELLED_TURNS):
        task = asyncio.create_task(take(bench.factory(wanted(bench.ref)), None))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=CLOSE_LIMIT_S)

        assert task.done(), f"cancelled after {turns} turns"
        assert parts.pool.open_feeds == 0
    await until(lambda: not _own_tasks(), limit_s=CLOSE_LIMIT_S)


@on(*ALL)
async def test_being_cancelled_again_while_it_closes_it_releases_everything_still(bench, parts):
    for turns in range(12):
        source = bench.factory(wanted(bench.ref))
        task = asyncio.create_task(take(source, None))
        await until(lambda: parts.pool.open_feeds > 0 or source.facts.kind == "snapshot" or task.done())  # noqa: B023
        task.cancel()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=CLOSE_LIMIT_S)

        assert task.done(), f"cancelled again after {turns} turns"
        assert parts.pool.open_feeds == 0, f"cancelled again after {turns} turns"
    await until(lambda: not _own_tasks(), limit_s=CLOSE_LIMIT_S)


@on(*NETWORKED)
async def test_cancelling_in_the_middle_of_a_connect_releases_everything(bench, parts):
    async with _silent_server() as (port, callers):
        source = bench.factory(wanted(bench.server_ref(port)))
        task = asyncio.create_task(take(source, None))
        await until(lambda: callers)

        task.cancel()
        await asyncio.wait({task}, timeout=CLOSE_LIMIT_S)

        assert task.cancelled()
        assert parts.pool.open_feeds == 0
        await until(lambda: all(writer.is_closing() or reader.at_eof() for reader, writer in callers))


@on(*MAY_BE_MISSING)
async def test_what_is_missing_is_told_by_its_code(bench, parts):
    with pytest.raises(SourceError) as caught:
        await take(bench.factory(wanted(bench.missing_ref)), None)

    assert caught.value.source_code is bench.missing_code
    assert parts.pool.open_feeds == 0


@on(*NETWORKED)
async def test_a_refused_connection_is_told_and_not_tried_again(bench):
    with pytest.raises(SourceError) as caught:
        await take(bench.factory(wanted(bench.server_ref(free_port()))), None)

    assert caught.value.source_code is SourceErrorCode.REFUSED


@on(*NETWORKED)
async def test_a_connection_that_is_dropped_is_told_and_not_tried_again(bench):
    async with _silent_server(drops=True) as (port, callers):
        with pytest.raises(SourceError):
            await take(bench.factory(wanted(bench.server_ref(port))), None)

        # HTTP asks once more, because a kept connection may have died unseen; that is no back-off.
        assert len(callers) <= 2


@on("demo", "mjpeg", "snapshot", "rtsp")
async def test_another_rate_is_taken_while_it_runs(bench):
    source = bench.factory(wanted(bench.ref, 1.0))
    async with asyncio.timeout(40), aclosing(source.frames()) as stream:
        await anext(stream)
        source.change_wish(FrameWish(10.0, 80, 80))
        frames = [await anext(stream) for _ in range(14)]

    late = [frame.stream_time_s for frame in frames[-5:]]
    assert late[-1] - late[0] < 2.0


@on("file", "redis")
async def test_reading_goes_on_after_the_frame_that_was_stored(bench):
    whole = await take(bench.factory(wanted(bench.ref, 5.0, waits=True)), None)
    last = whole[6]

    rest = await take(
        bench.factory(
            wanted(bench.ref, 5.0, waits=True, resume_after=last.frame_id, resume_due_s=last.sample_time_s + 1 / 5.0)
        ),
        None,
    )

    assert [frame.frame_id for frame in rest] == [frame.frame_id for frame in whole[7:]]


@asynccontextmanager
async def _silent_server(*, drops: bool = False):
    callers: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def called(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        callers.append((reader, writer))
        if drops:
            writer.close()
            return
        with contextlib.suppress(ConnectionError):
            await reader.read()
            while await reader.read(1000):
                pass

    server = await asyncio.start_server(called, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1], callers
    finally:
        server.close()
        for _, writer in callers:
            writer.transport.abort()


def _servers() -> set[asyncio.Task]:
    return {task for task in asyncio.all_tasks() if "Origin" in repr(task.get_coro()) or "go_on" in repr(task)}


def _own_tasks() -> list[asyncio.Task]:
    """Tasks of sources that still run: those whose code is ours and that are neither the pool's nor the test's."""
    found = []
    for task in asyncio.all_tasks():
        code = getattr(task.get_coro(), "cr_code", None)
        path = code.co_filename if code else ""
        is_source = "/freeroam/sources/" in path and "/decoding/slot" not in path and "/decoding/pool" not in path
        if is_source and task is not asyncio.current_task():
            found.append(task)
    return found
