"""What runs equals what is stored: restarts, crashes, cancels, drains and many jobs in a row."""

from __future__ import annotations

import asyncio
import gc
import sqlite3

import pytest
from sqlalchemy.exc import OperationalError

from freeroam.jobs.parts import JobConfig
from freeroam.jobs.runner import Runner
from freeroam.store.records import Ending, Lease
from freeroam.vocabulary.errors import Draining, LeaseLost, NotFound, SourceError, SourceErrorCode, StoreError
from freeroam.vocabulary.job import JobPatch, JobStatus, SourceState, SourceStatus, StartRequest
from freeroam.vocabulary.result import Event
from tests.unit.jobs.fakes import Workplace, frame
from tests.unit.jobs.test_runner import has_results, is_over, results_of, start
from tests.waiting import until


async def test_a_redis_job_goes_on_after_a_restart_with_the_entry_after_its_last_result(place: Workplace) -> None:
    source = place.sources.of("redis:frames")
    source.put(frame(0), frame(1), frame(2))
    job_id = await start(place, "redis:frames")
    await until(lambda: has_results(place, job_id, 3))

    await place.restart()
    source.put(frame(3))
    await until(lambda: has_results(place, job_id, 4))

    assert source.requests[-1].resume_after == "1000"
    assert [result.id for result in await results_of(place, job_id)] == [1, 2, 3, 4]


async def test_an_entry_that_comes_twice_has_one_result_and_ids_have_no_gap(place: Workplace) -> None:
    source = place.sources.of("redis:frames")
    source.put(frame(0), frame(1))
    job_id = await start(place, "redis:frames")
    await until(lambda: has_results(place, job_id, 2))

    await place.restart()
    source.put(frame(0), frame(1), frame(2))
    await until(lambda: has_results(place, job_id, 3))

    results = await results_of(place, job_id)
    assert [(result.id, result.metadata.frame_ids) for result in results] == [(1, ["0"]), (2, ["500"]), (3, ["1000"])]


async def test_a_live_stream_whose_time_begins_anew_after_a_restart_loses_nothing(place: Workplace) -> None:
    source = place.sources.of("live")
    source.put(frame(0))
    job_id = await start(place)
    await until(lambda: has_results(place, job_id, 1))

    await place.restart()
    source.put(frame(0))
    await until(lambda: has_results(place, job_id, 2))

    assert [result.metadata.frame_ids for result in await results_of(place, job_id)] == [["0"], ["0"]]


async def test_questions_in_flight_at_a_crash_are_asked_again(place: Workplace) -> None:
    place.engine.holds = True
    source = place.sources.of("redis:frames")
    source.put(*(frame(number) for number in range(4)))
    job_id = await start(place, "redis:frames")
    await until(lambda: len(place.engine.held) == 4)
    place.engine.release(0)
    place.engine.release(2)
    await until(lambda: has_results(place, job_id, 1))

    place.engine.holds = False
    place.engine.held.clear()
    await place.restart()
    source.put(*(frame(number) for number in range(1, 5)))
    await until(lambda: has_results(place, job_id, 5))

    ids = [result.metadata.frame_ids[0] for result in await results_of(place, job_id)]
    assert ids == ["0", "500", "1000", "1500", "2000"]


async def test_a_job_whose_source_never_connects_is_cancelled_at_once(place: Workplace) -> None:
    source = place.sources.of("live")
    job_id = await start(place)
    await until(lambda: source.open == 1)

    async with asyncio.timeout(1.0):
        await place.desk.cancel(job_id)

    assert (await place.desk.status(job_id)).status is JobStatus.CANCELLED
    assert (source.open, place.supervisor.running) == (0, 0)


async def test_cancelling_takes_questions_out_of_the_queue(place: Workplace) -> None:
    place.engine.holds = True
    place.sources.of("redis:frames").put(frame(0), frame(1))
    job_id = await start(place, "redis:frames")
    await until(lambda: len(place.engine.held) == 2)

    await place.desk.cancel(job_id)

    assert place.engine.cancelled == 2
    assert await has_results(place, job_id, 0)


@pytest.mark.parametrize("already", ["unknown", "cancelled", "completed"])
async def test_a_job_that_is_over_cannot_be_cancelled(place: Workplace, already: str) -> None:
    job_id = "unknown"
    if already != "unknown":
        source = place.sources.of("clip", is_live=False)
        job_id = await start(place, "clip")
        if already == "completed":
            source.end()
            await until(lambda: is_over(place, job_id))
        else:
            await place.desk.cancel(job_id)

    with pytest.raises(NotFound, match=f"Job {job_id} not found or cannot be cancelled"):
        await place.desk.cancel(job_id)


async def test_a_caller_that_goes_away_does_not_leave_a_job_half_started(place: Workplace) -> None:
    caller = asyncio.create_task(start(place, job_id="one"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    caller.cancel()

    await until(lambda: place.supervisor.running == 1)
    assert (await place.desk.status("one")).status is JobStatus.PENDING


async def test_a_runner_that_fails_by_our_defect_is_started_again_and_shows_it(place: Workplace, monkeypatch) -> None:
    runs = []

    async def broken(self: Runner) -> None:
        runs.append(self)
        raise RuntimeError("defect")

    monkeypatch.setattr(Runner, "run", broken)
    job_id = await start(place)
    await until(lambda: runs)
    job = await place.desk.status(job_id)
    assert (job.status, job.error_code) == (JobStatus.PENDING, "internal")

    monkeypatch.undo()
    place.sources.of("live").put(frame(0))
    await until(lambda: has_results(place, job_id, 1))
    assert (await place.desk.status(job_id)).error is None


async def test_an_error_is_shown_while_a_source_reconnects_and_cleared_when_frames_come(place: Workplace) -> None:
    source = place.sources.of("live")
    job_id = await start(place)
    await until(lambda: source.open == 1)
    source.status = SourceStatus(
        state=SourceState.RECONNECTING, last_error="refused", last_error_message="connection refused", reconnects=2
    )
    job = await place.desk.status(job_id)
    assert (job.status, job.error, job.error_code) == (JobStatus.PENDING, "refused: connection refused", "refused")

    source.put(frame(0))
    await until(lambda: has_results(place, job_id, 1))
    job = await place.desk.status(job_id)
    assert (job.status, job.error) == (JobStatus.RUNNING, None)


async def test_a_full_disk_is_shown_as_the_jobs_error_until_results_can_be_stored_again(place: Workplace) -> None:
    # Given a job whose results cannot be written
    job_id = await start(place)
    source = place.sources.of("live")
    source.put(frame(0))
    await until(lambda: has_results(place, job_id, 1))
    working = place.store._writer._transact

    async def broken(operations: list) -> list:
        raise OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))

    place.store._writer._transact = broken
    source.put(frame(1))
    await until(lambda: not place.store.health.is_writable)

    # Then its status says why nothing new comes
    job = await place.desk.status(job_id)
    assert (job.status, job.error_code) == (JobStatus.RUNNING, "store")
    assert "disk is full" in job.error

    # And when there is room again, the result is there and the error is not
    place.store._writer._transact = working
    await until(lambda: has_results(place, job_id, 2))
    assert (await place.desk.status(job_id)).error is None


async def test_draining_stores_what_is_in_flight_tells_listeners_and_leaves_jobs_active(place: Workplace) -> None:
    place.engine.holds = True
    source = place.sources.of("redis:frames")
    source.put(frame(0), frame(1))
    job_id = await start(place, "redis:frames")
    await until(lambda: len(place.engine.held) == 2)

    async def hear() -> list[Event]:
        async with await place.desk.listen(job_id) as listener:
            return [event async for event in listener]

    hearing = asyncio.create_task(hear())
    await until(lambda: place.hub.is_heard(job_id))
    draining = asyncio.create_task(place.supervisor.drain(10.0))
    await until(lambda: source.open == 0)
    with pytest.raises(Draining):
        await start(place)
    place.engine.release()
    place.engine.release()
    await draining
    events = await hearing

    assert [event.kind.value for event in events if event.kind.value == "result"] == ["result"] * 2
    assert b'"closing":true' in events[-1].data
    assert (await place.desk.status(job_id)).status is JobStatus.RUNNING

    place.engine.holds = False
    await place.restart()
    source.put(frame(2))
    await until(lambda: has_results(place, job_id, 3))


async def test_draining_does_not_wait_longer_than_it_may(place: Workplace) -> None:
    place.engine.holds = True
    place.sources.of("redis:frames").put(frame(0))
    job_id = await start(place, "redis:frames")
    await until(lambda: place.engine.held)

    await place.supervisor.drain(0.05)

    assert place.supervisor.running == 0
    assert (await place.desk.status(job_id)).results_count == 0


async def test_a_job_taken_over_by_another_process_is_let_go(place: Workplace) -> None:
    place.engine.holds = True
    source = place.sources.of("redis:frames")
    source.put(frame(0))
    job_id = await start(place, "redis:frames")
    await until(lambda: place.engine.held)

    await place.store.claim_jobs(place.supervisor.lease, everything=True)
    place.engine.release()

    await until(lambda: place.supervisor.running == 0)
    assert await has_results(place, job_id, 0)
    with pytest.raises(LeaseLost):
        await place.store.begin_job(job_id, 1, 0.0)


@pytest.mark.parametrize("noticed_by", ["a result", "its own end", "a renewal"])
async def test_listeners_hear_the_end_of_a_job_that_another_process_ended(tmp_path, noticed_by: str) -> None:
    from freeroam.testing import FakeClock

    # Given somebody who listens to a job
    clock = FakeClock()
    place = await Workplace(tmp_path, clock, JobConfig(lease_timeout_s=9.0)).open()
    source = place.sources.of("clip", is_live=False)
    job_id = await start(place, "clip")
    await until(lambda: source.open == 1)
    async with await place.desk.listen(job_id) as listener:
        # When another process ends it, and this one comes to know of it
        clock.move(0.1)
        await place.store.end_job(job_id, None, Ending(JobStatus.CANCELLED, 9.0))
        if noticed_by == "a result":
            source.put(frame(0))
        elif noticed_by == "its own end":
            source.end()
        else:
            clock.move(3.1)

        # Then the listener is through
        events = [event async for event in listener]
        assert (events[-1].kind.value, b'"cancelled"' in events[-1].data) == ("done", True)
    await place.close()


async def test_the_end_of_a_job_that_another_process_runs_now_is_not_told(place: Workplace) -> None:
    source = place.sources.of("clip", is_live=False)
    job_id = await start(place, "clip")
    await until(lambda: source.open == 1)
    async with await place.desk.listen(job_id) as listener:
        await place.store.claim_jobs(Lease("another", 60.0), everything=True)
        source.end()
        await until(lambda: place.supervisor.running == 0)

        assert listener._following[job_id].done is None


async def test_a_job_that_nobody_runs_is_taken_up(tmp_path) -> None:
    from freeroam.testing import FakeClock

    clock = FakeClock()
    place = await Workplace(tmp_path, clock, JobConfig(lease_timeout_s=9.0)).open()
    job_id = await start(place)
    await place.supervisor.stop_job(job_id)
    assert place.supervisor.running == 0

    clock.move(3.1)

    await until(lambda: place.supervisor.running == 1)
    await place.close()


@pytest.mark.parametrize("failure", [StoreError("gone"), TypeError("defect")])
async def test_leases_are_kept_up_whatever_went_wrong_with_one_renewal(tmp_path, monkeypatch, failure) -> None:
    from freeroam.testing import FakeClock

    # Given a job that nobody runs, and a renewal that fails
    clock, failures = FakeClock(), [failure]
    place = await Workplace(tmp_path, clock, JobConfig(lease_timeout_s=9.0)).open()
    job_id = await start(place)
    await place.supervisor.stop_job(job_id)
    working = place.store.renew_leases

    async def renew(lease):
        if failures:
            raise failures.pop()
        return await working(lease)

    monkeypatch.setattr(place.store, "renew_leases", renew)
    clock.move(3.1)
    await until(lambda: not failures)
    await asyncio.sleep(0)

    # Then the next one takes the job up
    clock.move(3.1)
    await until(lambda: place.supervisor.running == 1)
    await place.close()


@pytest.mark.parametrize("failure", [StoreError("gone"), TypeError("defect")])
async def test_a_job_is_taken_again_whatever_went_wrong_with_one_attempt(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, failure: Exception
) -> None:
    # Given a runner that failed by a defect, and a store that fails when its job is taken again
    failures, working = [failure], place.store.retake_job
    runs: list[Runner] = []

    async def retake(*of: object) -> object:
        if failures:
            raise failures.pop()
        return await working(*of)

    async def broken(self: Runner) -> None:
        runs.append(self)
        raise RuntimeError("defect")

    monkeypatch.setattr(place.store, "retake_job", retake)
    with monkeypatch.context() as defect:
        defect.setattr(Runner, "run", broken)
        job_id = await start(place)
        await until(lambda: runs)

    # Then it runs all the same
    place.sources.of("live").put(frame(0))
    await until(lambda: has_results(place, job_id, 1))
    assert failures == []


async def test_two_hundred_jobs_in_a_row_leave_nothing_behind(tmp_path) -> None:
    from freeroam.clock import SystemClock

    place = await Workplace(tmp_path, SystemClock(), JobConfig(max_concurrent_streams=300)).open()

    async def rush(count: int) -> None:
        jobs = []
        for number in range(count):
            ref = f"live{number % 7}"
            jobs.append(await start(place, ref))
        for number, job_id in enumerate(jobs):
            if number % 2:
                await place.desk.cancel(job_id)
        for number in range(7):
            for _ in range(count):
                place.sources.of(f"live{number}").end(SourceError(SourceErrorCode.NOT_FOUND, "gone"))
        await until(lambda: place.supervisor.running == 0)
        place.sources.by_ref.clear()
        place.engine.asked.clear()

    await rush(200)
    gc.collect()
    tasks, objects = len(asyncio.all_tasks()), len(gc.get_objects())
    await rush(200)
    gc.collect()

    assert len(asyncio.all_tasks()) == tasks
    assert len(gc.get_objects()) - objects < 2000
    await place.close()


async def test_a_changed_wish_survives_a_restart(place: Workplace) -> None:
    source = place.sources.of("live")
    job_id = await start(place, "live")
    await until(lambda: source.open == 1)
    await place.desk.patch(job_id, JobPatch(fps=1.0, prompt="Count the cars"))

    await place.restart()
    source.put(frame(0))
    await until(lambda: has_results(place, job_id, 1))

    job = await place.desk.status(job_id)
    assert (job.spec.fps, job.prompt, job.prompt_version) == (1.0, "Count the cars", 2)
    assert place.engine.asked[-1].prompt == "Count the cars"


async def test_erasing_a_running_job_removes_all_of_it(place: Workplace) -> None:
    source = place.sources.of("redis:frames")
    source.put(frame(0))
    job_id = await start(place, "redis:frames", job_id="one")
    await until(lambda: has_results(place, job_id, 1))

    await place.desk.erase(job_id)

    with pytest.raises(NotFound, match="Job one not found"):
        await place.desk.status(job_id)
    assert await place.library.history(10, job_id) == ([], 0)
    again = await place.desk.start(StartRequest(stream_ref="live", prompt="New", job_id="one"))
    assert (again.results_count, again.prompt_version) == (0, 1)
