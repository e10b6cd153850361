"""A change of rate reaches the decoder of every kind of source, also while that decoder is still being taken."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from freeroam.security.dialing import Dialer
from freeroam.security.url_policy import UrlPolicy
from freeroam.sources.demo import DemoSource
from freeroam.sources.file import FileSource
from freeroam.sources.rtsp import RtspSources
from freeroam.sources.source import Source, SourceRequest
from freeroam.vocabulary.frame import FrameWish
from tests.clips import file_clip, hls_clip
from tests.origins import LiveHls, Origin, Reply, running
from tests.servers_rtsp import RtspServer
from tests.taking import Taking
from tests.workshop import Workshop, take, workshop

SLOW = FrameWish(0.5, 80, 45)
FAST = FrameWish(5.0, 80, 45)


@asynccontextmanager
async def recording(shop: Workshop, name: str, reply: Reply) -> AsyncIterator[Source]:
    async with Origin() as origin:
        yield shop.http(origin.on(name, reply), fps=SLOW.fps)


@asynccontextmanager
async def live_hls(shop: Workshop, _: Path) -> AsyncIterator[Source]:
    async with Origin() as origin:
        live = LiveHls(origin, hls_clip())
        live.publish(6)
        async with running(live.go_on()):
            yield shop.hls(live.url, fps=SLOW.fps)


@asynccontextmanager
async def demo(shop: Workshop, _: Path) -> AsyncIterator[Source]:
    yield DemoSource(SourceRequest("demo:", SLOW), pool=shop.pool, clock=shop.clock)


@asynccontextmanager
async def file(shop: Workshop, folder: Path) -> AsyncIterator[Source]:
    (folder / "clip.mp4").write_bytes(file_clip())
    yield FileSource(SourceRequest("file:clip.mp4", SLOW), root=folder, pool=shop.pool, clock=shop.clock)


@asynccontextmanager
async def rtsp(shop: Workshop, _: Path) -> AsyncIterator[Source]:
    with RtspServer() as server:
        dialer = Dialer(UrlPolicy(("127.0.0.0/8",)))
        yield RtspSources(dialer, shop.pool, shop.clock)(SourceRequest(server.url(), SLOW))


@pytest.mark.parametrize(
    "opened",
    [
        demo,
        file,
        lambda shop, _: recording(shop, "/a.ts", Reply(file_clip(form="ts"))),
        lambda shop, _: recording(shop, "/a.mp4", Reply(file_clip())),
        live_hls,
        rtsp,
    ],
    ids=["demo", "file", "http file", "http file read anywhere", "hls", "rtsp"],
)
async def test_a_rate_that_is_changed_while_a_decoder_is_taken_is_what_it_decodes_at(opened, tmp_path) -> None:
    async with workshop() as shop, opened(shop, tmp_path) as source:
        taking = Taking(shop.pool)
        frames = asyncio.create_task(take(source, 8))
        await taking.begun.wait()

        source.change_wish(FAST)
        taking.let_go()
        async with asyncio.timeout(60):
            times = [frame.sample_time_s for frame in await frames]

    steps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert steps == pytest.approx([1.0 / FAST.fps] * 7, abs=0.001)
