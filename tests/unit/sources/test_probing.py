"""A look at a video."""

from __future__ import annotations

import asyncio

from freeroam.sources.opening import Opener
from freeroam.sources.probing import probe
from freeroam.testing import FakeClock
from freeroam.vocabulary.errors import ForbiddenReference, SourceError, SourceErrorCode
from tests.unit.sources.scripted import Pause, Script, frame

REF = "rtsp://me:hunter2@camera.example.org/1"


async def look(script, clock, **more):
    task = asyncio.create_task(probe(Opener({"rtsp": script.open}), REF, clock=clock, **more))
    await clock.advance(100.0)
    return await task


async def test_a_good_video_is_described_and_let_go():
    clock = FakeClock()
    script = Script(clock, [[Pause(0.5), frame(0), Pause()]])

    report = await look(script, clock)

    assert report.is_usable
    assert (report.codec, report.size, report.fps, report.first_frame_ms) == ("h264", [1, 2], 25.0, 500.0)
    assert script.closed == 1
    assert clock.sleepers == 0


async def test_what_is_wrong_is_told_without_credentials():
    clock = FakeClock()
    for steps, code in [
        ([SourceError(SourceErrorCode.AUTH, f"{REF} refuses access")], "auth"),
        ([], "no_video"),
        ([Pause()], "timeout"),
        ([ForbiddenReference("no")], "forbidden"),
        ([ZeroDivisionError()], "unavailable"),
    ]:
        report = await look(Script(clock, [steps]), clock, limit_s=10.0)
        assert report.error_code == code
        assert not report.is_usable
        assert "hunter2" not in report.model_dump_json()


async def test_a_reference_that_cannot_be_is_told_too():
    report = await probe(Opener({}), "ftp://me:hunter2@example.org/a")

    assert report.error_code == "invalid_input"
    assert report.kind is None
    assert "hunter2" not in report.model_dump_json()
