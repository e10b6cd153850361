"""Sources of every kind that break in earnest, and go on."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing
from functools import partial
from itertools import pairwise

import pytest

from freeroam.clock import SystemClock
from freeroam.sources.demo import DemoSource
from freeroam.sources.hls import hls_factory
from freeroam.sources.reconnecting import ReconnectingSource, SourceConfig
from freeroam.sources.source import SourceRequest
from freeroam.vocabulary.errors import SourceError, SourceErrorCode
from freeroam.vocabulary.frame import FrameWish
from freeroam.vocabulary.job import SourceState
from tests.clips import file_clip, hls_clip, second_of
from tests.origins import HOST, LiveHls, Origin, Reply, running
from tests.servers import free_port
from tests.waiting import until
from tests.workshop import wanted, workshop

CLOCK = SystemClock()
QUICK = SourceConfig(first_pause_s=0.1, greatest_pause_s=0.5, stall_timeout_s=2.0)


@pytest.mark.parametrize("kind", ["demo", "hls"])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_decoder_that_dies_or_hangs_is_followed_by_another(kind, how):
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip())
        live.publish(4)
        make = {
            "demo": partial(DemoSource, pool=shop.pool, clock=CLOCK),
            "hls": lambda request: shop.hls(request.stream_ref, fps=5.0),
        }[kind]
        ref = "demo:" if kind == "demo" else live.url
        source = ReconnectingSource(make, SourceRequest(ref, FrameWish(5.0, 80, 80)), SourceConfig(), CLOCK)
        async with running(live.go_on()), aclosing(source.frames()) as stream, asyncio.timeout(40):
            await anext(stream)

            victim = shop.pool.pids[0]
            os.kill(victim, how)
            while source.status.reconnects == 0:
                await anext(stream)

            assert source.status.last_error == "decoder"
            assert source.status.state is SourceState.RUNNING
            assert victim not in shop.pool.pids


@pytest.mark.parametrize("kind", ["demo", "hls"])
async def test_a_raised_rate_does_not_wait_for_what_was_decoded_slowly(kind):
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip())
        live.publish(6)
        make = {
            "demo": partial(DemoSource, pool=shop.pool, clock=CLOCK),
            "hls": hls_factory(shop.fetcher, shop.pool, CLOCK, shop.config),
        }[kind]
        ref = "demo:" if kind == "demo" else live.url
        source = ReconnectingSource(make, SourceRequest(ref, FrameWish(0.5, 80, 80)), SourceConfig(), CLOCK)
        async with running(live.go_on()), aclosing(source.frames()) as stream, asyncio.timeout(40):
            before = await anext(stream)
            source.change_wish(FrameWish(5.0, 80, 80))
            times = [(await anext(stream)).stream_time_s for _ in range(6)]

        assert times[0] > before.stream_time_s
        assert [later - sooner for sooner, later in pairwise(times)] == pytest.approx([0.2] * 5, abs=0.05)
        assert (source.status.state, source.status.reconnects) == (SourceState.RUNNING, 0)


class DriftingClock(SystemClock):
    """A wall clock that a test sets ahead, as if what lies between two of its readings had taken longer."""

    ahead_s = 0.0

    def epoch_s(self) -> float:
        return super().epoch_s() + self.ahead_s


@pytest.mark.parametrize("ahead_s", [0.1, 0.35, 0.78])
async def test_no_picture_comes_twice_and_none_sooner_than_asked_when_the_rate_is_raised(ahead_s):
    clock = DriftingClock()
    async with workshop(clock=clock) as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip())
        live.publish(6)
        make = hls_factory(shop.fetcher, shop.pool, clock, shop.config)
        source = ReconnectingSource(make, SourceRequest(live.url, FrameWish(0.5, 80, 80)), SourceConfig(), clock)
        async with running(live.go_on()), aclosing(source.frames()) as stream, asyncio.timeout(40):
            frames = [await anext(stream)]
            clock.ahead_s = ahead_s
            source.change_wish(FrameWish(5.0, 80, 80))
            frames += [await anext(stream) for _ in range(10)]

    first_s = frames[0].stream_time_s
    assert [frame.stream_time_s - first_s for frame in frames] == pytest.approx([0.2 * n for n in range(11)], abs=0.02)
    # Segments of one second, each of its own brightness: a place in the stream has one time.
    assert [second_of(frame.pixels) for frame in frames] == [3] * 5 + [4] * 5 + [5]


async def test_an_origin_that_goes_away_and_comes_back():
    async with workshop() as shop:
        port = free_port()
        async with Origin(port=port) as origin:
            live = LiveHls(origin, hls_clip())
            live.publish(4)
            url = live.url
            source = ReconnectingSource(lambda _: shop.hls(url, fps=5.0), wanted(url), QUICK, CLOCK)
            stream = source.frames()
            async with running(live.go_on()):
                first = await anext(stream)
        task = asyncio.create_task(_take_until(stream, lambda: source.status.reconnects >= 1))
        await until(lambda: source.status.state is SourceState.RECONNECTING)

        async with Origin(port=port) as origin:
            live = LiveHls(origin, hls_clip())
            live.publish(4)
            async with running(live.go_on()):
                last = await asyncio.wait_for(task, 40)

        assert last.due_monotonic_s > first.due_monotonic_s
        await stream.aclose()
        await until(lambda: shop.pool.open_feeds == 0)


@pytest.mark.parametrize(
    ("path", "reply", "code"),
    [
        ("/no.m3u8", Reply(status=404), SourceErrorCode.NOT_FOUND),
        ("/secret.m3u8", Reply(status=401), SourceErrorCode.AUTH),
        ("/text.mp4", Reply(b"hello " * 1000, headers={"Content-Type": "text/plain"}), None),
    ],
)
async def test_what_will_never_come_fails_after_three_tries(path, reply, code):
    async with workshop() as shop, Origin() as origin:
        url = origin.on(path, reply)
        make = shop.hls if path.endswith("m3u8") else shop.http
        source = ReconnectingSource(
            lambda _: make(url), wanted(url), SourceConfig(first_pause_s=0.05, max_retries=2), CLOCK
        )
        with pytest.raises(SourceError) as caught:
            async with asyncio.timeout(30):
                await anext(source.frames())

        assert origin.asked(path) >= 3
        assert source.status.state is SourceState.FAILED
        if code is not None:
            assert caught.value.source_code is code


async def test_a_name_that_is_none_fails_in_seconds():
    async with workshop(decodes=False) as shop:
        url = "https://no-such-host.invalid/a.m3u8"
        source = ReconnectingSource(lambda _: shop.hls(url), wanted(url), SourceConfig(), CLOCK)

        with pytest.raises(SourceError) as caught:
            async with asyncio.timeout(30):
                await anext(source.frames())

    assert caught.value.source_code is SourceErrorCode.DNS


async def test_a_source_that_never_connected_leaves_nothing_when_it_is_given_up():
    hung = []

    async def accept(reader, writer):
        hung.append(reader)
        await reader.read(100)
        await reader.read()
        writer.close()

    async with workshop(decodes=False) as shop, await asyncio.start_server(accept, HOST, 0) as server:
        url = f"http://{HOST}:{server.sockets[0].getsockname()[1]}/a.m3u8"
        before = {task for task in asyncio.all_tasks() if "source" in task.get_name()}
        source = ReconnectingSource(lambda _: shop.hls(url), wanted(url), SourceConfig(), CLOCK)
        task = asyncio.create_task(_take_until(source.frames(), lambda: True))
        await until(lambda: hung)

        task.cancel()
        await asyncio.wait({task}, timeout=5.0)

        assert task.cancelled()
        await until(lambda: all(reader.at_eof() for reader in hung))
        assert {task for task in asyncio.all_tasks() if "source" in task.get_name()} == before


async def test_a_recording_ends_and_is_not_opened_again():
    async with workshop() as shop, Origin() as origin:
        url = origin.on("/clip.mp4", file_clip())
        source = ReconnectingSource(lambda _: shop.http(url, fps=5.0, waits=True), wanted(url), QUICK, CLOCK)

        frames = [frame async for frame in source.frames()]

        assert len(frames) == 20
        assert source.status.state is SourceState.ENDED
        assert source.status.reconnects == 0


async def _take_until(stream, condition):
    async for frame in stream:
        if condition():
            return frame
    raise AssertionError("the stream ended")
