"""One job from frames to results, with a model and a source that do as they are told."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from freeroam.clock import SystemClock
from freeroam.jobs.parts import JobConfig
from freeroam.results.listener import Listener
from freeroam.vocabulary.errors import ModelError, QueueFull, SourceError, SourceErrorCode
from freeroam.vocabulary.job import JobPatch, JobStatus, Policy, StartRequest
from freeroam.vocabulary.model import ModelState, ModelWishes
from freeroam.vocabulary.result import Event
from tests.unit.jobs.fakes import Workplace, frame
from tests.waiting import until


async def start(place: Workplace, ref: str = "live", **more) -> str:
    more.setdefault("prompt", "Detect all people")
    return (await place.desk.start(StartRequest(stream_ref=ref, **more))).spec.job_id


async def results_of(place: Workplace, job_id: str) -> list:
    return (await place.desk.results(job_id, limit=1000)).results


async def has_results(place: Workplace, job_id: str, count: int) -> bool:
    return (await place.desk.status(job_id)).results_count == count


async def is_over(place: Workplace, job_id: str) -> bool:
    return (await place.desk.status(job_id)).status not in {JobStatus.PENDING, JobStatus.RUNNING}


async def test_each_frame_of_a_recording_becomes_one_result_in_order(place: Workplace) -> None:
    source = place.sources.of("clip", is_live=False)
    source.put(*(frame(number) for number in range(20)))
    source.end()

    job_id = await start(place, "clip")
    await until(lambda: is_over(place, job_id))

    job = await place.desk.status(job_id)
    results = await results_of(place, job_id)
    assert job.status is JobStatus.COMPLETED
    assert [result.id for result in results] == list(range(1, 21))
    assert [result.metadata.frame_ids for result in results] == [[f"{n * 500}"] for n in range(20)]
    assert (job.frames_processed, job.results_count, job.frames_dropped, job.error) == (20, 20, {}, None)


async def test_a_result_says_all_that_the_contract_asks(place: Workplace) -> None:
    source = place.sources.of("clip", is_live=False)
    source.put(frame(3, width=8, height=4))
    source.end()

    job_id = await start(place, "clip")
    await until(lambda: is_over(place, job_id))

    (result,) = await results_of(place, job_id)
    metadata = result.metadata.model_dump()
    assert result.predictions[0].model_dump() == {"label": "person", "confidence": 0.9, "bbox": [0.0, 0.0, 2.0, 2.0]}
    assert (result.confidence, result.text, result.error) == ([0.9], "1 person", None)
    assert metadata["timings_ms"].keys() == {"decode", "wait", "model", "total"}
    del metadata["timings_ms"], metadata["timestamp"]
    assert metadata == {
        "num_frames": 1,
        "frame_shape": [4, 8, 3],
        "prompt": "Detect all people",
        "model_type": "fake",
        "device": "cpu",
        "model": "fake",
        "model_version": "1",
        "prompt_version": 1,
        "frame_ids": ["1500"],
        "stream_time": 1.5,
        "source_size": [1080, 1920],
        "colour": "red",
    }


async def test_latest_keeps_two_questions_in_flight_and_the_newest_frame_waiting(place: Workplace) -> None:
    place.engine.holds = True
    source = place.sources.of("live")
    source.put(*(frame(number) for number in range(6)))

    job_id = await start(place)
    await until(lambda: source.taken == 6)
    await until(lambda: len(place.engine.held) == 2)
    job = await place.desk.status(job_id)
    assert job.frames_dropped == {"superseded": 3}

    place.engine.holds = False
    while place.engine.held:
        place.engine.release()
    await until(lambda: has_results(place, job_id, 3))
    results = await results_of(place, job_id)
    assert [result.metadata.frame_ids for result in results] == [["0"], ["500"], ["2500"]]


async def test_a_jobs_question_waits_for_a_model_that_loads_for_the_first_time(place: Workplace) -> None:
    place.sources.of("live").put(frame(0))

    job_id = await start(place)
    await until(lambda: has_results(place, job_id, 1))

    assert [request.waits_for_load for request in place.engine.asked] == [True]


async def test_frames_wait_in_line_while_a_model_makes_room_for_its_next_version(place: Workplace) -> None:
    # Given a live stream whose model is being exchanged
    place.engine.holds = place.engine.is_exchanged = True
    source = place.sources.of("live")
    source.put(*(frame(number) for number in range(20)))

    job_id = await start(place)
    await until(lambda: source.taken == 20)
    await until(lambda: len(place.engine.held) == 2)

    # When the next version is there and answers
    place.engine.is_exchanged = False
    place.engine.holds = False
    while place.engine.held:
        place.engine.release()
    await until(lambda: has_results(place, job_id, 20))

    # Then every frame has one answer, in order
    results = await results_of(place, job_id)
    assert [result.metadata.frame_ids for result in results] == [[f"{n * 500}"] for n in range(20)]
    assert (await place.desk.status(job_id)).frames_dropped == {}


async def test_no_more_frames_wait_than_there_is_room_for(tmp_path: Path) -> None:
    room_bytes = 5 * frame(0).size_bytes
    place = await Workplace(tmp_path, SystemClock(), JobConfig(max_waiting_bytes=room_bytes)).open()
    place.engine.holds = place.engine.is_exchanged = True
    source = place.sources.of("live")
    source.put(*(frame(number) for number in range(20)))

    job_id = await start(place)
    await until(lambda: source.taken == 20)
    await until(lambda: len(place.engine.held) == 2)
    place.engine.holds = False
    while place.engine.held:
        place.engine.release()
    await until(lambda: has_results(place, job_id, 8))

    # Two were asked, the newest and five before it waited, the others are counted
    results = await results_of(place, job_id)
    asked = [0, 1, 14, 15, 16, 17, 18, 19]
    assert [result.metadata.frame_ids for result in results] == [[f"{n * 500}"] for n in asked]
    assert (await place.desk.status(job_id)).frames_dropped == {"superseded": 12}
    await place.close()


async def test_a_job_that_ends_while_its_model_is_exchanged_has_all_that_waited_answered(place: Workplace) -> None:
    place.engine.holds = place.engine.is_exchanged = True
    source = place.sources.of("live")
    source.put(*(frame(number) for number in range(9)))
    source.end()

    job_id = await start(place)
    await until(lambda: source.taken == 9 and len(place.engine.held) == 2)
    place.engine.holds = False
    while place.engine.held:
        place.engine.release()
    await until(lambda: is_over(place, job_id))

    job = await place.desk.status(job_id)
    assert (job.results_count, job.frames_dropped) == (9, {})


async def test_block_waits_and_loses_nothing(place: Workplace) -> None:
    place.engine.holds = True
    source = place.sources.of("redis:frames")
    source.put(*(frame(number) for number in range(30)))

    job_id = await start(place, "redis:frames")
    await until(lambda: len(place.engine.held) == 8)
    assert source.taken <= 9

    place.engine.holds = False
    while place.engine.held:
        place.engine.release()
    await until(lambda: has_results(place, job_id, 30))
    assert (await place.desk.status(job_id)).frames_dropped == {}


async def test_answers_that_come_out_of_order_are_stored_in_order(place: Workplace) -> None:
    place.engine.holds = True
    place.sources.of("redis:frames").put(*(frame(number) for number in range(4)))

    job_id = await start(place, "redis:frames")
    await until(lambda: len(place.engine.held) == 4)
    for _ in range(3):
        place.engine.release(-1)
    assert await has_results(place, job_id, 0)
    place.engine.release()
    await until(lambda: has_results(place, job_id, 4))

    assert [result.metadata.frame_ids for result in await results_of(place, job_id)] == [
        ["0"],
        ["500"],
        ["1000"],
        ["1500"],
    ]


async def test_a_question_that_fails_for_good_stores_an_error_and_the_job_goes_on(place: Workplace) -> None:
    place.engine.failures = [ModelError("killed two replicas", code="replica_lost")]
    source = place.sources.of("redis:frames")
    source.put(frame(0))

    job_id = await start(place, "redis:frames")
    await until(lambda: has_results(place, job_id, 1))
    assert (await place.desk.status(job_id)).error == "replica_lost: killed two replicas"
    source.put(frame(1))
    await until(lambda: has_results(place, job_id, 2))

    job = await place.desk.status(job_id)
    first, second = await results_of(place, job_id)
    assert first.error == {"code": "replica_lost", "message": "killed two replicas"}
    assert (first.predictions, second.error) == ([], None)
    assert (job.status, job.error) == (JobStatus.RUNNING, None)


@pytest.mark.parametrize(("ref", "results", "dropped"), [("live", 1, {"queue_full": 1}), ("redis:frames", 2, {})])
async def test_a_full_queue_drops_for_latest_and_waits_for_block(
    place: Workplace, ref: str, results: int, dropped: dict[str, int]
) -> None:
    place.engine.failures = [QueueFull("full")]
    place.sources.of(ref).put(frame(0), frame(1))

    job_id = await start(place, ref)

    await until(lambda: has_results(place, job_id, results))
    assert (await place.desk.status(job_id)).frames_dropped == dropped


async def test_frames_of_a_window_make_one_question_and_the_rest_is_asked_at_the_end(place: Workplace) -> None:
    place.engine.wishes = ModelWishes(window=3)
    source = place.sources.of("clip", is_live=False)
    source.put(*(frame(number) for number in range(7)))
    source.end()

    job_id = await start(place, "clip")
    await until(lambda: is_over(place, job_id))

    assert [result.metadata.num_frames for result in await results_of(place, job_id)] == [3, 3, 1]
    assert (await place.desk.status(job_id)).frames_processed == 7


async def test_a_model_that_says_no_window_is_given_the_greatest_batch(place: Workplace) -> None:
    place.engine.wishes = ModelWishes()
    place.sources.of("redis:a").put(*(frame(number) for number in range(8)))

    job_id = await start(place, "redis:a")
    await until(lambda: has_results(place, job_id, 1))

    assert len(place.engine.asked[0].frames) == 8


async def test_a_job_follows_the_wishes_of_a_version_that_takes_over(place: Workplace) -> None:
    place.engine.wishes = ModelWishes(window=1)
    source = place.sources.of("redis:a")
    source.put(frame(0))
    job_id = await start(place, "redis:a")
    await until(lambda: has_results(place, job_id, 1))

    place.engine.wishes = ModelWishes(window=3)
    source.put(*(frame(number) for number in range(1, 8)))
    await until(lambda: has_results(place, job_id, 4))

    assert [len(request.frames) for request in place.engine.asked] == [1, 1, 3, 3]


async def test_a_job_waits_for_its_model_to_load_and_learns_its_wishes(place: Workplace) -> None:
    place.engine.state = ModelState.LOADING
    place.engine.wishes = ModelWishes(window=1, width_px=320, height_px=240)
    source = place.sources.of("live")
    source.put(frame(0))

    job_id = await start(place)
    assert (await place.desk.status(job_id)).status is JobStatus.PENDING
    place.engine.state = ModelState.READY

    await until(lambda: has_results(place, job_id, 1))
    assert (source.requests[0].wish.width_px, source.requests[0].wish.height_px) == (320, 240)


@pytest.mark.parametrize("window", [1, 4])
async def test_max_frames_ends_the_job_after_questions_about_just_so_many(place: Workplace, window: int) -> None:
    source = place.sources.of("redis:frames")
    source.put(*(frame(number) for number in range(20)))

    job_id = await start(place, "redis:frames", max_frames=6, window=window)
    await until(lambda: is_over(place, job_id))

    job = await place.desk.status(job_id)
    assert (job.status, job.frames_processed) == (JobStatus.COMPLETED, 6)


async def test_max_frames_counts_the_question_that_waits(place: Workplace) -> None:
    # Given a live job of three frames whose model holds two questions, and a third that waits
    place.engine.holds = True
    source = place.sources.of("live")
    source.put(*(frame(number) for number in range(3)))
    job_id = await start(place, max_frames=3)
    await until(lambda: source.taken == 3 and len(place.engine.held) == 2)

    # When frames go on coming while the model answers
    place.engine.holds = False
    source.put(*(frame(number) for number in range(3, 6)))
    while place.engine.held:
        place.engine.release()
    await until(lambda: is_over(place, job_id))

    # Then no fourth frame was asked about
    job = await place.desk.status(job_id)
    assert (job.status, job.frames_processed) == (JobStatus.COMPLETED, 3)


async def test_max_seconds_ends_a_job_whose_source_is_quiet(place: Workplace) -> None:
    place.sources.of("redis:frames").put(frame(0))

    job_id = await start(place, "redis:frames", max_seconds=0.05)
    await until(lambda: is_over(place, job_id))

    job = await place.desk.status(job_id)
    assert (job.status, job.results_count) == (JobStatus.COMPLETED, 1)


async def test_a_video_that_fails_for_good_fails_the_job_after_storing_what_was_asked(place: Workplace) -> None:
    source = place.sources.of("clip", is_live=False)
    source.put(frame(0))
    source.end(SourceError(SourceErrorCode.CODEC, "unknown codec"))

    job_id = await start(place, "clip")
    await until(lambda: is_over(place, job_id))

    job = await place.desk.status(job_id)
    assert (job.status, job.error, job.error_code) == (JobStatus.FAILED, "codec: unknown codec", "codec")
    assert job.results_count == 1
    assert job.source.last_error == "codec"


async def test_a_prompt_change_takes_hold_at_the_next_question(place: Workplace) -> None:
    source = place.sources.of("redis:frames")
    source.put(frame(0))
    job_id = await start(place, "redis:frames")
    await until(lambda: has_results(place, job_id, 1))

    await place.desk.patch(job_id, JobPatch(prompt="Detect only vehicles"))
    source.put(frame(1))
    await until(lambda: has_results(place, job_id, 2))

    asked = [(result.metadata.prompt, result.metadata.prompt_version) for result in await results_of(place, job_id)]
    assert asked == [("Detect all people", 1), ("Detect only vehicles", 2)]


async def test_a_slower_rate_takes_hold_at_the_next_question(place: Workplace) -> None:
    source = place.sources.of("redis:frames")
    source.put(frame(0))
    job_id = await start(place, "redis:frames", fps=2.0)
    await until(lambda: has_results(place, job_id, 1))

    await place.desk.patch(job_id, JobPatch(fps=0.5))
    source.put(*(frame(number) for number in range(1, 10)))
    await until(lambda: has_results(place, job_id, 4))

    ids = [result.metadata.frame_ids[0] for result in await results_of(place, job_id)]
    assert ids == ["0", "500", "2500", "4500"]
    assert [wish.fps for wish in source.wishes] == [0.5]


async def test_a_paused_job_closes_its_source_and_goes_on_after_its_last_question(place: Workplace) -> None:
    source = place.sources.of("redis:frames")
    source.put(frame(0), frame(1))
    job_id = await start(place, "redis:frames")
    await until(lambda: has_results(place, job_id, 2))

    paused = await place.desk.patch(job_id, JobPatch(paused=True))
    await until(lambda: source.open == 0)
    assert (paused.source.state.value, paused.status) == ("paused", JobStatus.RUNNING)
    await place.desk.patch(job_id, JobPatch(paused=False))
    source.put(frame(2))

    await until(lambda: has_results(place, job_id, 3))
    assert source.requests[1].resume_after == "500"
    assert source.requests[1].resume_due_s == pytest.approx(1.0)


async def test_pieces_are_told_to_listeners_before_the_result(place: Workplace) -> None:
    place.engine.wishes = ModelWishes(window=1, streams_text=True)
    place.engine.pieces = ["two ", "people"]
    source = place.sources.of("redis:frames")
    job_id = await start(place, "redis:frames", max_frames=1)
    async with await place.desk.listen(job_id) as listener:
        hearing = asyncio.ensure_future(hear(listener))
        following = listener._following[job_id]
        await until(lambda: source.requests and not following.is_behind and following.reading is None)
        source.put(frame(0))
        events = await hearing

    assert [event.kind.value for event in events] == ["token", "token", "result", "done"]
    assert b'"text":"two "' in events[0].data


async def hear(listener: Listener) -> list[Event]:
    return [event async for event in listener if event.kind.value != "status"]


async def test_what_a_model_says_that_json_cannot_becomes_an_error_result(place: Workplace) -> None:
    place.engine.answers = [{"extra": {"x": object()}}, {"confidence": [float("nan")]}]
    place.sources.of("redis:frames").put(frame(0), frame(1))

    job_id = await start(place, "redis:frames")
    await until(lambda: has_results(place, job_id, 2))

    first, second = await results_of(place, job_id)
    assert first.error is not None
    assert second.confidence == [0.0]


async def test_status_shows_the_policy_that_holds_for_a_recording(place: Workplace) -> None:
    place.engine.holds = True
    place.sources.of("clip", is_live=False).put(frame(0))

    job_id = await start(place, "clip")
    await until(lambda: place.engine.held)

    assert (await place.desk.status(job_id)).spec.policy is Policy.BLOCK
