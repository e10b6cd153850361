"""One decode, many jobs."""

from __future__ import annotations

import asyncio

import pytest

from freeroam.sources.reconnecting import SourceConfig
from freeroam.sources.sharing import CONSUMER_BUSY, SLOTS, SharedSources
from freeroam.sources.source import SourceRequest
from freeroam.testing import FakeClock
from freeroam.vocabulary.errors import SourceError, SourceErrorCode
from freeroam.vocabulary.frame import FrameWish
from freeroam.vocabulary.job import SourceOptions
from tests.unit.sources.scripted import Pause, Script, broken, frame

REF = "rtsp://camera.example.org/1"


def shared(clock, script, goes_back=()):
    return SharedSources(script.open, lambda ref: ref in goes_back, SourceConfig(), clock)


def live(fps=2.0, count=1000, start_s=0.0):
    """Frames at the pace of stream time."""
    steps = []
    for number in range(count):
        steps += [frame(start_s + number / fps), Pause(1.0 / fps)]
    return steps


def request(ref=REF, fps=2.0, **more):
    return SourceRequest(ref, FrameWish(fps), **more)


class Job:
    """Holds a subscription and takes its frames, unless it is busy."""

    def __init__(self, sources, wanted, *, busy=False):
        self.subscription = sources.subscribe(wanted)
        self.frames = []
        self.error = None
        self.is_done = False
        self.free = asyncio.Event()
        if not busy:
            self.free.set()
        self.task = asyncio.create_task(self._run())

    async def _run(self):
        async with self.subscription as subscription:
            try:
                async for got in subscription.frames():
                    self.frames.append(got)
                    await self.free.wait()
            except SourceError as error:
                self.error = error
            self.is_done = True

    @property
    def times(self):
        return [got.sample_time_s for got in self.frames]

    async def leave(self):
        self.task.cancel()
        await asyncio.wait({self.task})


async def test_two_jobs_on_one_reference_share_one_decode():
    clock = FakeClock()
    script = Script(clock, [live()])
    sources = shared(clock, script)
    one, two = Job(sources, request()), Job(sources, request())

    await clock.advance(2.1)

    assert len(script.requests) == sources.open_sources == 1
    assert one.times == two.times == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert one.frames[0].pixels is two.frames[0].pixels
    await one.leave()
    await two.leave()


@pytest.mark.parametrize(
    "other",
    [
        request("rtsp://camera.example.org/2"),
        SourceRequest(REF, FrameWish(2.0, 320, 240)),
        request(options=SourceOptions(headers={"X": "1"})),
        request(waits=True),
    ],
    ids=["reference", "size", "options", "waits"],
)
async def test_what_differs_is_not_shared(other):
    clock = FakeClock()
    script = Script(clock, [live()])
    sources = shared(clock, script)
    jobs = [Job(sources, request()), Job(sources, other)]

    await clock.advance(0.1)

    assert len(script.requests) == 2
    for job in jobs:
        await job.leave()
    assert sources.open_sources == 0


async def test_a_reference_that_can_go_back_is_never_shared():
    clock = FakeClock()
    script = Script(clock, [live()])
    sources = shared(clock, script, goes_back={REF})
    jobs = [Job(sources, request()), Job(sources, request())]

    await clock.advance(0.1)

    assert len(script.requests) == 2
    for job in jobs:
        await job.leave()


async def test_each_job_keeps_its_own_rate_and_the_decode_has_the_greatest():
    clock = FakeClock()
    script = Script(clock, [live(fps=4.0)])
    sources = shared(clock, script)
    slow = Job(sources, request(fps=1.0))
    await clock.settle()
    fast = Job(sources, request(fps=4.0))

    await clock.advance(2.1)
    assert script.wishes[-1].fps == 4.0
    assert slow.times == [0.0, 1.0, 2.0]
    assert len(fast.times) >= 8

    await fast.leave()
    assert script.wishes[-1].fps == 1.0
    await clock.advance(2.0)
    assert slow.times == [0.0, 1.0, 2.0, 3.0, 4.0]
    await slow.leave()


async def test_a_job_may_change_its_rate():
    clock = FakeClock()
    script = Script(clock, [live(fps=2.0)])
    sources = shared(clock, script)
    job = Job(sources, request(fps=2.0))
    await clock.advance(1.1)

    job.subscription.change_wish(FrameWish(1.0))
    await clock.advance(2.0)

    assert script.wishes[-1].fps == 1.0
    assert job.times[:3] == [0.0, 0.5, 1.0]
    assert all(later - earlier == 1.0 for earlier, later in zip(job.times[3:], job.times[4:], strict=False))
    await job.leave()


async def test_a_faster_job_that_joins_does_not_wait_for_what_was_decoded_slowly():
    clock = FakeClock()
    script = Script(clock, [live(fps=0.1), live(fps=10.0, start_s=0.1)], plans_ahead=True)
    sources = shared(clock, script)
    slow = Job(sources, request(fps=0.1))
    await clock.advance(5.0)

    fast = Job(sources, request(fps=10.0))
    await clock.advance(20.0)

    assert fast.times[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert len(fast.times) >= 200
    assert slow.times == pytest.approx([0.0, 10.0, 20.0])
    assert [asked.wish.fps for asked in script.requests] == [0.1, 10.0]
    assert slow.subscription.status.reconnects == 0
    await fast.leave()
    await clock.advance(20.0)
    assert len(script.requests) == 2
    await slow.leave()


async def test_a_job_that_raises_its_rate_does_not_wait_for_what_was_decoded_slowly():
    clock = FakeClock()
    script = Script(clock, [live(fps=1.0), live(fps=10.0, start_s=1.1)], plans_ahead=True)
    sources = shared(clock, script)
    job = Job(sources, request(fps=1.0))
    await clock.advance(1.5)

    job.subscription.change_wish(FrameWish(10.0))
    await clock.advance(1.0)

    assert job.times[:5] == pytest.approx([0.0, 1.0, 1.1, 1.2, 1.3])
    assert len(job.times) >= 12
    await job.leave()


async def test_a_job_that_leaves_does_not_disturb_the_other_and_the_last_one_closes():
    clock = FakeClock()
    script = Script(clock, [live()])
    sources = shared(clock, script)
    one, two = Job(sources, request()), Job(sources, request())
    await clock.advance(1.1)

    await one.leave()
    await clock.advance(1.0)
    assert script.is_open
    assert two.times == [0.0, 0.5, 1.0, 1.5, 2.0]

    await two.leave()
    assert not script.is_open
    assert sources.open_sources == 0
    assert clock.sleepers == 0


async def test_a_busy_job_loses_the_oldest_frames_and_they_are_counted():
    clock = FakeClock()
    script = Script(clock, [live(count=20)])
    sources = shared(clock, script)
    busy, quick = Job(sources, request(), busy=True), Job(sources, request())

    await clock.advance(9.6)
    busy.free.set()
    await clock.advance(0.5)

    assert quick.subscription.dropped == {}
    assert len(quick.times) == 20
    assert busy.subscription.dropped == {CONSUMER_BUSY: 20 - 1 - SLOTS}
    assert busy.times == [0.0, 8.0, 8.5, 9.0, 9.5]
    await asyncio.wait({busy.task, quick.task})


async def test_a_job_that_waits_loses_nothing():
    clock = FakeClock()
    script = Script(clock, [[frame(n) for n in range(50)]], is_live=False)
    sources = shared(clock, script)
    job = Job(sources, request(waits=True, fps=1.0), busy=True)
    await clock.advance(100.0)
    assert script.handed_out <= SLOTS + 4

    job.free.set()
    await asyncio.wait({job.task})

    assert job.times == [float(n) for n in range(50)]
    assert job.subscription.dropped == {}


async def test_a_recording_waits_even_for_a_job_that_would_drop():
    clock = FakeClock()
    script = Script(clock, [[frame(n) for n in range(50)]], is_live=False)
    sources = shared(clock, script)
    job = Job(sources, request(fps=1.0), busy=True)
    assert not job.subscription.waits

    await clock.advance(100.0)
    assert job.subscription.waits
    job.free.set()
    await asyncio.wait({job.task})

    assert len(job.times) == 50
    assert job.subscription.dropped == {}


async def test_a_recording_that_two_jobs_share_is_seen_by_each_from_its_beginning():
    clock = FakeClock()
    script = Script(clock, [[frame(n) for n in range(30)]], is_live=False)
    sources = shared(clock, script)
    busy, quick = Job(sources, request(fps=1.0), busy=True), Job(sources, request(fps=1.0))

    await asyncio.wait({quick.task})
    busy.free.set()
    await asyncio.wait({busy.task})

    assert busy.times == quick.times == [float(n) for n in range(30)]
    assert len(script.requests) == 2
    assert sources.open_sources == 0


async def test_the_end_and_a_failure_reach_every_job():
    clock = FakeClock()
    ends = Script(clock, [[frame(0)]])
    sources = shared(clock, ends)
    jobs = [Job(sources, request()) for _ in range(2)]
    await clock.advance(1.0)
    assert all(job.is_done and job.error is None for job in jobs)

    fails = Script(clock, [[broken(SourceErrorCode.AUTH)]])
    sources = shared(clock, fails)
    jobs = [Job(sources, request()) for _ in range(2)]
    await clock.advance(5.0)

    assert [job.error.source_code for job in jobs] == [SourceErrorCode.AUTH] * 2
    assert len(fails.requests) == 3


async def test_a_source_that_ended_is_opened_anew_for_the_next_job():
    clock = FakeClock()
    script = Script(clock, [[frame(0)]])
    sources = shared(clock, script)
    first = Job(sources, request())
    await clock.advance(1.0)

    second = Job(sources, request())
    await clock.advance(1.0)

    assert first.is_done
    assert second.times == [0.0]
    assert len(script.requests) == 2


async def test_a_job_that_joins_a_broken_source_fails_after_three_tries_while_the_first_goes_on():
    clock = FakeClock()
    script = Script(clock, [[frame(0), broken()], [broken(SourceErrorCode.NOT_FOUND)]])
    sources = shared(clock, script)
    old = Job(sources, request())
    await clock.advance(1.0)

    new = Job(sources, request())
    await clock.advance(120.0)

    assert new.error.source_code is SourceErrorCode.NOT_FOUND
    assert old.error is None
    assert not old.is_done
    await old.leave()


async def test_stream_time_that_begins_anew_after_a_reconnect_makes_no_hole():
    clock = FakeClock()
    script = Script(clock, [[*live(count=4), broken()], live()])
    sources = shared(clock, script)
    job = Job(sources, request())

    await clock.advance(4.1)

    assert job.times[:4] == [0.0, 0.5, 1.0, 1.5]
    assert job.times[4:7] == [0.0, 0.5, 1.0]
    await job.leave()


@pytest.mark.parametrize("script_steps", [[Pause()], [broken()], live()], ids=["connecting", "pausing", "running"])
async def test_leaving_at_any_moment_leaves_nothing_behind(script_steps):
    clock = FakeClock()
    script = Script(clock, [script_steps])
    sources = shared(clock, script)
    before = asyncio.all_tasks()
    job = Job(sources, request())
    await clock.advance(0.1)

    await job.leave()
    await clock.settle()

    assert not script.is_open
    assert clock.sleepers == 0
    assert asyncio.all_tasks() == before
    assert sources.open_sources == 0


async def test_what_is_wrong_with_one_job_ends_that_job_alone():
    clock = FakeClock()
    script = Script(clock, [live()])
    sources = shared(clock, script)
    first, second = Job(sources, request()), Job(sources, request())
    await clock.advance(1.1)
    first.subscription._sampled = lambda frame, opening: 1 / 0
    had = len(second.frames)
    await clock.advance(2.0)

    assert first.error is not None
    assert first.error.code == "unavailable"
    assert second.error is None
    assert len(second.frames) == had + 4
    await second.leave()
    assert sources.open_sources == 0
