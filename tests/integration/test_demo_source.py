"""The shipped clip as a live stream."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import pytest

from freeroam.clock import SystemClock
from freeroam.sources import demo
from freeroam.sources.decoding.pool import DecoderPool
from freeroam.sources.decoding.values import DecoderConfig
from freeroam.sources.demo import CLIP_S, DemoSource
from freeroam.sources.source import SourceRequest
from freeroam.vocabulary.errors import InvalidInput
from freeroam.vocabulary.frame import Frame, FrameWish


class FastClock(SystemClock):
    """Sleeps a hundredth of what it is asked, and tells time accordingly."""

    def monotonic_s(self) -> float:
        return super().monotonic_s() * 100

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(max(0.0, duration_s) / 100)


@pytest.fixture
async def pool() -> AsyncIterator[DecoderPool]:
    running = DecoderPool(DecoderConfig(processes=1), SystemClock())
    await running.start()
    yield running
    await running.stop()


async def take(frames: AsyncIterator[Frame], count: int) -> list[Frame]:
    taken = []
    async for frame in frames:
        taken.append(frame)
        if len(taken) == count:
            break
    return taken


async def test_stream_time_goes_on_across_the_loops(pool) -> None:
    opened = DemoSource(SourceRequest("demo:", FrameWish(2.5, 160, 160)), pool=pool, clock=FastClock())
    frames = opened.frames()

    taken = await take(frames, 150)
    await frames.aclose()

    times = [frame.stream_time_s for frame in taken]
    assert times == sorted(times)
    assert times[-1] > 2 * CLIP_S
    assert [round(frame.sample_time_s, 3) for frame in taken] == [round(number / 2.5, 3) for number in range(150)]
    assert all(frame.stream_time_s - frame.sample_time_s < 0.2 for frame in taken)
    assert len({frame.frame_id for frame in taken}) == 150
    # The same moment of two loops shows the same picture.
    assert bytes(taken[5].pixels) == bytes(taken[65].pixels)
    assert pool.open_feeds == 0
    assert opened.facts.is_live
    assert (opened.facts.codec, opened.facts.width_px, opened.facts.height_px) == ("h264", 640, 360)


async def test_frames_are_handed_out_when_they_are_due(pool) -> None:
    clock = SystemClock()
    frames = DemoSource(SourceRequest("demo:", FrameWish(5, 160, 160)), pool=pool, clock=clock).frames()

    taken = await take(frames, 6)
    now_s = clock.monotonic_s()
    await frames.aclose()

    assert taken[-1].due_monotonic_s <= now_s
    spread_s = taken[-1].due_monotonic_s - taken[0].due_monotonic_s
    assert spread_s >= taken[-1].stream_time_s - taken[0].stream_time_s - 0.01


async def test_after_a_restart_its_time_goes_on(pool) -> None:
    request = SourceRequest("demo:", FrameWish(2), resume_after="5000")
    frames = DemoSource(request, pool=pool, clock=FastClock()).frames()

    taken = await take(frames, 2)
    await frames.aclose()

    assert taken[0].stream_time_s == pytest.approx(5.5)


async def test_a_change_of_rate_takes_hold(pool) -> None:
    opened = DemoSource(SourceRequest("demo:", FrameWish(1, 160, 160)), pool=pool, clock=FastClock())
    frames = opened.frames()
    await take(frames, 2)
    opened.change_wish(FrameWish(5, 160, 160))

    taken = await take(frames, 60)
    await frames.aclose()

    steps = [after.stream_time_s - before.stream_time_s for before, after in itertools.pairwise(taken)]
    assert max(steps[-30:]) < 0.3


@pytest.mark.parametrize("ref", ["demo:x", "demo:///x", "demo://host"])
def test_there_is_only_one_demo(ref) -> None:
    with pytest.raises(InvalidInput):
        DemoSource(SourceRequest(ref, FrameWish(1)), pool=None, clock=SystemClock())


def test_the_clip_is_as_long_as_the_source_believes() -> None:
    import io

    import av

    with av.open(io.BytesIO(demo.demo_clip())) as container:
        times = sorted(packet.pts * packet.time_base for packet in container.demux(video=0) if packet.pts is not None)

    assert float(times[-1] - times[0]) + 1 / 25 == pytest.approx(CLIP_S)
    assert len(demo.demo_clip()) < 3_000_000
