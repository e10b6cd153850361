"""Jobs on one reference share one decode, of real streams."""

from __future__ import annotations

import asyncio

import pytest

from freeroam.clock import SystemClock
from freeroam.sources.opening import Opener
from freeroam.sources.reconnecting import SourceConfig
from freeroam.sources.rtsp import RtspSources
from freeroam.sources.sharing import SharedSources
from freeroam.sources.source import SourceRequest
from freeroam.vocabulary.frame import FrameWish
from tests.clips import hls_clip
from tests.origins import LiveHls, Origin, running
from tests.servers_rtsp import RtspServer
from tests.waiting import until
from tests.workshop import workshop

CLOCK = SystemClock()


def request(url, fps=5.0, **more):
    return SourceRequest(url, FrameWish(fps, 80, 80), **more)


def shared(**factories):
    opener = Opener(factories)
    return SharedSources(opener.open, opener.can_go_back, SourceConfig(), CLOCK)


class Job:
    def __init__(self, sources, wanted):
        self.subscription = sources.subscribe(wanted)
        self.frames = []
        self.task = asyncio.create_task(self._run())

    async def _run(self):
        async with self.subscription as subscription:
            async for frame in subscription.frames():
                self.frames.append(frame)

    async def leave(self):
        self.task.cancel()
        await asyncio.wait({self.task})


@pytest.fixture
async def shop():
    async with workshop(("127.0.0.0/8",)) as shop:
        yield shop


def hls_sources(shop):
    return shared(hls=lambda wanted: shop.hls(wanted.stream_ref, fps=wanted.wish.fps, waits=wanted.waits))


async def test_a_segment_is_fetched_and_decoded_once_for_all_jobs(shop):
    async with Origin() as origin:
        live = LiveHls(origin, hls_clip())
        live.publish(4)
        sources = hls_sources(shop)
        async with running(live.go_on()):
            jobs = [Job(sources, request(live.url, fps)) for fps in (1.0, 2.0, 5.0)]
            await until(lambda: all(len(job.frames) >= 3 for job in jobs))

            assert sources.open_sources == shop.pool.open_feeds == 1
            asked = [entry.path for entry in origin.requests if entry.path.endswith(".ts")]
            assert len(asked) == len(set(asked))
            for job in jobs:
                await job.leave()

    assert sources.open_sources == shop.pool.open_feeds == 0
    assert all(job.subscription.dropped == {} for job in jobs)


async def test_each_job_of_a_recording_sees_it_from_its_beginning(shop):
    async with Origin() as origin:
        recording = LiveHls(origin, hls_clip(), is_ended=True, window=99)
        recording.publish(8)
        sources = hls_sources(shop)

        jobs = [Job(sources, request(recording.url, 2.0)) for _ in range(2)]
        await asyncio.wait({job.task for job in jobs}, timeout=40)

    assert [len(job.frames) for job in jobs] == [16, 16]
    assert all(job.subscription.dropped == {} for job in jobs)


async def test_a_camera_is_asked_once_and_a_job_that_leaves_disturbs_nobody(shop):
    with RtspServer() as server:
        sources = shared(rtsp=RtspSources(shop.fetcher.dialer, shop.pool, CLOCK))
        first, second = Job(sources, request(server.url())), Job(sources, request(server.url(), 10.0))
        await until(lambda: first.frames and len(second.frames) >= 5)
        assert shop.pool.open_feeds == 1

        await second.leave()
        count = len(first.frames)
        await until(lambda: len(first.frames) >= count + 5)

        assert first.subscription.status.reconnects == 0
        await first.leave()
        assert shop.pool.open_feeds == 0
