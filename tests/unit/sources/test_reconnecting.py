"""Keeping a source going, on a clock that only the test moves."""

from __future__ import annotations

import asyncio

import pytest

from freeroam.sources.reconnecting import PERMANENT_TRIES, ReconnectingSource, SourceConfig, pause_after
from freeroam.sources.source import SourceRequest
from freeroam.testing import FakeClock
from freeroam.vocabulary.errors import (
    PERMANENT_SOURCE_ERRORS,
    ForbiddenReference,
    InvalidInput,
    SourceError,
    SourceErrorCode,
)
from freeroam.vocabulary.frame import FrameWish
from freeroam.vocabulary.job import SourceOptions, SourceState
from tests.unit.sources.scripted import Pause, Script, broken, frame

REF = "rtsp://me:hunter2@camera.example.org/1"


class Taker:
    """Takes every frame of a reconnecting source in a task, as a job does."""

    def __init__(self, source):
        self.source = source
        self.frames = []
        self.error = None
        self.task = asyncio.create_task(self._run())

    async def _run(self):
        try:
            async for got in self.source.frames():
                self.frames.append(got)
        except SourceError as error:
            self.error = error

    @property
    def ids(self):
        return [got.frame_id for got in self.frames]


def a_source(clock, script, *, config=None, chance=0.0, **request):
    request.setdefault("wish", FrameWish(2.0))
    config = config or SourceConfig()
    return ReconnectingSource(script.open, SourceRequest(REF, **request), config, clock, chance=lambda: chance)


async def test_frames_pass_and_the_end_ends():
    clock = FakeClock()
    script = Script(clock, [[frame(0), frame(0.5), frame(1)]])
    taker = Taker(source := a_source(clock, script))

    await taker.task

    assert taker.ids == ["0", "500", "1000"]
    assert source.status.state is SourceState.ENDED
    assert not script.is_open


async def test_the_status_says_what_is_known():
    clock = FakeClock()
    script = Script(clock, [[frame(0), Pause()]])
    source = a_source(clock, script)
    assert source.status.state is SourceState.CONNECTING
    taker = Taker(source)

    await clock.advance(3.0)

    status = source.status
    assert (status.state, status.kind, status.codec, status.size, status.fps) == (
        SourceState.RUNNING,
        "scripted",
        "h264",
        [720, 1280],
        25.0,
    )
    assert status.seconds_since_frame == pytest.approx(3.0)
    assert status.last_error is None
    taker.task.cancel()


@pytest.mark.parametrize("code", sorted(PERMANENT_SOURCE_ERRORS))
async def test_a_permanent_error_before_the_first_frame_fails_after_three_tries(code):
    clock = FakeClock()
    script = Script(clock, [[broken(code)]])
    taker = Taker(source := a_source(clock, script))

    await clock.advance(2.0)

    assert taker.error is not None
    assert taker.error.source_code is code
    assert len(script.requests) == PERMANENT_TRIES
    assert source.status.state is SourceState.FAILED
    assert source.status.last_error == code.value


@pytest.mark.parametrize("code", sorted(set(SourceErrorCode) - PERMANENT_SOURCE_ERRORS))
async def test_any_other_error_is_retried_for_ever(code):
    clock = FakeClock()
    script = Script(clock, [[broken(code)]])
    taker = Taker(a_source(clock, script))

    await clock.advance(1000.0)

    assert taker.error is None
    assert len(script.requests) > 30
    taker.task.cancel()


async def test_permanent_errors_between_others_do_not_add_up():
    clock = FakeClock()
    runs = [[broken(SourceErrorCode.DNS)], [broken(SourceErrorCode.TIMEOUT)]] * 6 + [[frame(0), Pause()]]
    taker = Taker(a_source(clock, Script(clock, runs)))

    await clock.advance(1000.0)

    assert taker.error is None
    assert taker.ids[0] == "0"
    taker.task.cancel()


async def test_after_the_first_frame_even_permanent_errors_are_retried():
    clock = FakeClock()
    script = Script(clock, [[frame(0), broken()], *[[broken(SourceErrorCode.NOT_FOUND)]] * 9, [frame(9), Pause()]])
    taker = Taker(source := a_source(clock, script))

    await clock.advance(300.0)

    assert taker.ids[:2] == ["0", "9000"]
    assert source.status.last_error == "not_found" or source.status.stalls > 0
    taker.task.cancel()


async def test_a_request_that_resumes_has_had_its_first_frame():
    clock = FakeClock()
    script = Script(clock, [[broken(SourceErrorCode.DNS)]])
    taker = Taker(a_source(clock, script, resume_after="1-0", resume_due_s=2.0))

    await clock.advance(100.0)

    assert taker.error is None
    assert script.requests[0].resume_after == "1-0"
    taker.task.cancel()


async def test_max_retries_bounds_failures_in_a_row():
    clock = FakeClock()
    script = Script(clock, [[frame(0), broken()], [broken(SourceErrorCode.SERVER)]])
    taker = Taker(a_source(clock, script, config=SourceConfig(max_retries=4)))

    await clock.advance(1000.0)

    assert taker.error is not None
    assert taker.error.source_code is SourceErrorCode.SERVER
    assert len(script.requests) == 1 + 4


def test_pauses_double_to_a_limit_and_jitter_downwards():
    config = SourceConfig(first_pause_s=0.5, greatest_pause_s=30.0)

    assert [pause_after(count, config, 0.0) for count in (1, 2, 3, 6, 7, 1000)] == [0.5, 1.0, 2.0, 16.0, 30.0, 30.0]
    assert pause_after(7, config, 0.999) == pytest.approx(15.0, abs=0.1)


async def test_a_good_run_begins_the_pauses_anew():
    clock = FakeClock()
    long_run = [frame(0), Pause(6.0), frame(6), Pause(6.0), frame(12), broken()]
    script = Script(clock, [*[[broken()]] * 5, long_run, [frame(20), Pause()]])
    taker = Taker(a_source(clock, script))
    await clock.advance(0.5 + 1 + 2 + 4 + 8)
    assert len(script.requests) == 6

    await clock.advance(12.0 + 0.5)

    assert taker.ids == ["0", "6000", "12000", "20000"]
    taker.task.cancel()


async def test_a_lost_decoder_is_replaced_at_once():
    clock = FakeClock()
    lost = broken(SourceErrorCode.DECODER)
    script = Script(clock, [[frame(0), lost], [frame(1), lost], [frame(2), Pause()]])
    taker = Taker(source := a_source(clock, script))

    await clock.advance(0.3)

    assert taker.ids == ["0", "1000", "2000"]
    assert source.status.reconnects == 2
    taker.task.cancel()


async def test_a_stream_that_kills_decoders_before_any_frame_is_slowed_down():
    clock = FakeClock()
    script = Script(clock, [[broken(SourceErrorCode.DECODER)]])
    taker = Taker(a_source(clock, script))

    await clock.advance(100.0)

    assert len(script.requests) < 12
    taker.task.cancel()


async def test_a_frozen_source_is_restarted_and_counted():
    clock = FakeClock()
    script = Script(clock, [[frame(0), Pause()], [frame(30), Pause()]])
    taker = Taker(source := a_source(clock, script, config=SourceConfig(stall_timeout_s=20.0)))

    await clock.advance(20.0)
    assert len(script.requests) == 1
    await clock.advance(2.0)

    assert taker.ids == ["0", "30000"]
    assert source.status.stalls == 1
    assert source.status.last_error == "stalled"
    assert script.closed == 1
    taker.task.cancel()


async def test_a_slow_grid_is_no_stall():
    clock = FakeClock()
    script = Script(clock, [[frame(0), Pause(60.0), frame(60), Pause(60.0), frame(120)]])
    taker = Taker(source := a_source(clock, script, wish=FrameWish(1 / 60)))

    await clock.advance(120.0)
    await taker.task

    assert len(taker.ids) == 3
    assert source.status.stalls == 0


async def test_a_source_that_may_be_quiet_is_never_stalled():
    clock = FakeClock()
    script = Script(clock, [[Pause(3600.0), frame(0), Pause(3600.0), frame(1)]], may_be_quiet=True)
    taker = Taker(source := a_source(clock, script))

    await clock.advance(7200.0)
    await taker.task

    assert taker.ids == ["0", "1000"]
    assert source.status.stalls == 0


@pytest.mark.parametrize(("stall_timeout_s", "restarts"), [(2.0, 1), (0.0, 0), (100.0, 0)])
async def test_a_job_says_its_own_stall_time(stall_timeout_s, restarts):
    clock = FakeClock()
    script = Script(clock, [[frame(0), Pause()]])
    options = SourceOptions(stall_timeout_s=stall_timeout_s)
    taker = Taker(source := a_source(clock, script, options=options))

    await clock.advance(3.6)

    assert source.status.stalls == restarts
    taker.task.cancel()


async def test_a_slow_reader_is_no_stall():
    clock = FakeClock()
    script = Script(clock, [[frame(0), frame(1), frame(2)]])
    source = a_source(clock, script)
    frames = source.frames()

    ids = []
    async for got in frames:
        ids.append(got.frame_id)
        await clock.advance(1000.0)

    assert ids == ["0", "1000", "2000"]
    assert source.status.stalls == 0


async def test_a_source_reads_one_frame_ahead_and_no_more():
    clock = FakeClock()
    script = Script(clock, [[frame(n) for n in range(10)]])
    frames = a_source(clock, script).frames()

    await anext(frames)
    await clock.settle()

    assert script.handed_out == 2
    await frames.aclose()


async def test_an_opening_that_hangs_times_out():
    clock = FakeClock()
    script = Script(clock, [[Pause()]])
    config = SourceConfig(open_timeout_s=10.0, stall_timeout_s=20.0)
    taker = Taker(source := a_source(clock, script, config=config))

    await clock.advance(30.1)

    assert source.status.last_error == "timeout"
    assert source.status.state is SourceState.RECONNECTING
    assert not script.is_open
    taker.task.cancel()


async def test_reading_goes_on_after_the_last_frame_handed_out():
    clock = FakeClock()
    script = Script(clock, [[frame(0), frame(0.5, "b"), broken()], [frame(1.0)]])
    taker = Taker(a_source(clock, script))

    await clock.advance(1.0)
    await taker.task

    assert script.requests[0].resume_after is None
    assert (script.requests[1].resume_after, script.requests[1].resume_due_s) == ("b", 1.0)


async def test_what_an_opening_knew_of_its_place_reaches_the_next_and_outlives_one_that_knew_none():
    clock = FakeClock()
    script = Script(clock, [[frame(0), broken()], [broken()], [frame(1.0), Pause()]], places=["here", None, None])
    taker = Taker(a_source(clock, script))

    await clock.advance(5.0)

    assert [asked.resume_place for asked in script.requests] == [None, "here", "here"]
    taker.task.cancel()


async def test_another_rate_reaches_the_open_source_and_the_next_opening():
    clock = FakeClock()
    script = Script(clock, [[frame(0), Pause(5.0), broken()], [frame(1), Pause()]])
    taker = Taker(source := a_source(clock, script))
    await clock.advance(1.0)

    source.change_wish(FrameWish(4.0))
    await clock.advance(10.0)

    assert [wish.fps for wish in script.wishes] == [4.0]
    assert script.requests[1].wish.fps == 4.0
    taker.task.cancel()


async def test_a_faster_rate_opens_a_source_that_planned_ahead_at_once_and_it_is_no_failure():
    clock = FakeClock()
    script = Script(clock, [[frame(0), Pause(10.0), frame(10.0)], [frame(0.1), Pause()]], plans_ahead=True)
    taker = Taker(source := a_source(clock, script, wish=FrameWish(0.1)))
    failures = []
    source.on_failure = failures.append
    await clock.advance(1.0)

    source.change_wish(FrameWish(10.0))
    await clock.settle()

    assert taker.ids == ["0", "100"]
    assert (script.requests[1].resume_after, script.requests[1].resume_due_s) == ("0", pytest.approx(0.1))
    assert script.closed == 1
    assert (source.status.state, source.status.reconnects, source.openings) == (SourceState.RUNNING, 0, 1)
    assert source.status.last_error is None
    assert failures == []
    taker.task.cancel()


@pytest.mark.parametrize(
    ("before", "after", "plans_ahead"),
    [(10.0, 0.1, True), (0.1, 0.1, True), (8.0, 30.0, True), (0.1, 10.0, False)],
    ids=["slower", "the same", "little to wait for", "nothing planned"],
)
async def test_another_rate_opens_nothing_anew_where_little_is_to_be_won(before, after, plans_ahead):
    clock = FakeClock()
    script = Script(clock, [[frame(0), Pause()]], plans_ahead=plans_ahead)
    taker = Taker(source := a_source(clock, script, wish=FrameWish(before)))
    await clock.advance(1.0)

    source.change_wish(FrameWish(after))
    await clock.advance(1.0)

    assert len(script.requests) == 1
    assert script.wishes[-1].fps == after
    taker.task.cancel()


async def test_a_frame_that_is_ready_is_not_lost_when_the_rate_is_raised():
    clock = FakeClock()
    script = Script(clock, [[frame(0), frame(1.0), frame(2.0)], [frame(1.1)]], plans_ahead=True)
    frames = (source := a_source(clock, script, wish=FrameWish(1.0))).frames()
    assert (await anext(frames)).frame_id == "0"
    await clock.settle()

    source.change_wish(FrameWish(10.0))

    assert [got.frame_id async for got in frames] == ["1000", "1100"]
    assert (script.requests[1].resume_after, script.requests[1].resume_due_s) == ("1000", pytest.approx(1.1))


async def test_a_video_that_has_ended_stays_ended_when_the_rate_is_raised():
    clock = FakeClock()
    script = Script(clock, [[frame(0)]], plans_ahead=True)
    frames = (source := a_source(clock, script, wish=FrameWish(0.1))).frames()
    await anext(frames)
    await clock.settle()

    source.change_wish(FrameWish(10.0))

    assert [got.frame_id async for got in frames] == []
    assert len(script.requests) == 1


async def test_several_raises_while_it_opens_are_one_opening():
    clock = FakeClock()
    script = Script(clock, [[frame(0), Pause()], [Pause(0.5), frame(0.1), Pause()]], plans_ahead=True)
    taker = Taker(source := a_source(clock, script, wish=FrameWish(0.1)))
    await clock.advance(1.0)

    for fps in (0.2, 0.5, 10.0):
        source.change_wish(FrameWish(fps))
    await clock.advance(1.0)

    assert [asked.wish.fps for asked in script.requests] == [0.1, 10.0]
    assert taker.ids == ["0", "100"]
    taker.task.cancel()


@pytest.mark.parametrize("moment", ["connecting", "running", "pausing"])
async def test_cancelling_leaves_nothing_behind(moment):
    clock = FakeClock()
    run = {"connecting": [Pause()], "running": [frame(0), Pause()], "pausing": [broken()]}[moment]
    script = Script(clock, [run])
    before = asyncio.all_tasks()
    taker = Taker(a_source(clock, script))
    await clock.settle()

    taker.task.cancel()
    await clock.settle()

    assert taker.task.cancelled()
    assert not script.is_open
    assert clock.sleepers == 0
    assert asyncio.all_tasks() == before


async def test_closing_between_frames_leaves_nothing_behind():
    clock = FakeClock()
    script = Script(clock, [[frame(0), frame(1), frame(2)]])
    before = asyncio.all_tasks()
    frames = a_source(clock, script).frames()
    await anext(frames)

    await frames.aclose()
    await clock.settle()

    assert not script.is_open
    assert asyncio.all_tasks() == before


async def test_a_defect_of_a_source_is_an_error_like_others():
    clock = FakeClock()
    script = Script(clock, [[frame(0), ZeroDivisionError("hunter2")], [frame(1), Pause()]])
    taker = Taker(source := a_source(clock, script))

    await clock.advance(1.0)

    assert taker.ids == ["0", "1000"]
    assert source.status.last_error == "unavailable"
    assert "hunter2" not in source.status.last_error_message
    taker.task.cancel()


@pytest.mark.parametrize("place", ["building", "reading"])
async def test_a_forbidden_address_is_a_permanent_failure(place):
    clock = FakeClock()
    script = Script(clock, [[ForbiddenReference("not this one")]])
    opened = []

    def refuse(request):
        opened.append(request)
        if place == "reading":
            return script.open(request)
        raise ForbiddenReference("not this one")

    source = ReconnectingSource(refuse, SourceRequest(REF, FrameWish(2.0)), SourceConfig(), clock)
    taker = Taker(source)
    await clock.advance(2.0)

    assert taker.error.source_code is SourceErrorCode.FORBIDDEN
    assert len(opened) == PERMANENT_TRIES


async def test_a_request_that_cannot_be_met_fails_at_once():
    clock = FakeClock()

    def refuse(request):
        raise InvalidInput("no such clip")

    source = ReconnectingSource(refuse, SourceRequest("demo:x", FrameWish(2.0)), SourceConfig(), clock)

    with pytest.raises(InvalidInput, match="no such clip"):
        await anext(source.frames())
    assert source.status.state is SourceState.FAILED


async def test_what_was_passed_over_is_counted_over_all_openings():
    clock = FakeClock()
    script = Script(clock, [[frame(0), Pause(5.0), broken()], [frame(1), Pause()]])
    taker = Taker(source := a_source(clock, script))
    await clock.settle()
    source.facts.count_skipped("bad_data", 2)

    await clock.advance(8.0)
    source.facts.count_skipped("bad_data")

    assert source.status.skipped == {"bad_data": 3}
    taker.task.cancel()
