"""What callers may ask about jobs, and what they are told when they may not."""

from __future__ import annotations

import asyncio
import csv
import io
import json

import orjson
import pytest
from pydantic import ValidationError

from freeroam.clock import SystemClock
from freeroam.jobs.parts import JobConfig
from freeroam.vocabulary.errors import Conflict, InvalidInput, NotFound, TooManyStreams
from freeroam.vocabulary.inference import Prediction
from freeroam.vocabulary.job import JobPatch, JobStatus, SourceState, StartRequest
from tests.unit.jobs.fakes import Workplace, frame
from tests.unit.jobs.test_runner import has_results, is_over, start
from tests.waiting import until


async def test_a_job_is_completed_with_defaults(place: Workplace) -> None:
    job = await place.desk.start(StartRequest(stream_ref="live", prompt="  Count  "))

    assert (job.status, job.prompt, job.prompt_version, job.spec.fps) == (JobStatus.PENDING, "Count", 1, 2.0)
    assert (job.spec.policy.value, len(job.spec.job_id), job.started_at) == ("latest", 36, None)


async def test_a_job_without_a_prompt_follows_the_global_one(place: Workplace) -> None:
    with pytest.raises(InvalidInput, match="No prompt"):
        await place.desk.start(StartRequest(stream_ref="redis:a"))
    await place.library.update("First")
    source = place.sources.of("redis:a")

    job = await place.desk.start(StartRequest(stream_ref="redis:a"))
    job_id = job.spec.job_id
    source.put(frame(0))
    await until(lambda: has_results(place, job_id, 1))
    await place.library.update("Second")
    source.put(frame(1))
    await until(lambda: has_results(place, job_id, 2))

    assert [request.prompt for request in place.engine.asked] == ["First", "Second"]
    assert (await place.desk.status(job_id)).prompt == "Second"


async def test_a_job_that_is_given_a_prompt_follows_the_global_one_no_more(place: Workplace) -> None:
    await place.library.update("Global")
    source = place.sources.of("redis:a")
    job_id = (await place.desk.start(StartRequest(stream_ref="redis:a"))).spec.job_id
    source.put(frame(0))
    await until(lambda: has_results(place, job_id, 1))
    assert (await place.desk.status(job_id)).spec.prompt is None

    await place.library.update("Mine", job_id)
    while_running = await place.desk.status(job_id)
    await place.desk.cancel(job_id)
    afterwards = await place.desk.status(job_id)

    assert (while_running.spec.prompt, while_running.prompt, while_running.prompt_version) == ("Mine", "Mine", 1)
    assert (afterwards.spec.prompt, afterwards.prompt, afterwards.prompt_version) == ("Mine", "Mine", 1)


async def test_a_job_that_is_over_shows_a_closed_source_and_how_long_its_questions_took(place: Workplace) -> None:
    place.sources.of("live").put(*(frame(number) for number in range(3)))
    job_id = await start(place, "live", max_frames=1)

    await until(lambda: is_over(place, job_id))

    job = await place.desk.status(job_id)
    assert job.source.state is SourceState.ENDED
    assert job.latency_ms.keys() == {"decode", "wait", "model", "total"}


async def test_a_job_with_its_own_prompt_ignores_the_global_one(place: Workplace) -> None:
    job_id = await start(place, "redis:a", prompt="Mine")
    await place.library.update("Global")
    place.sources.of("redis:a").put(frame(0))

    await until(lambda: has_results(place, job_id, 1))

    assert place.engine.asked[0].prompt == "Mine"


@pytest.mark.parametrize(
    ("wish", "error", "words"),
    [
        ({"stream_ref": "bad:ref"}, InvalidInput, "stream_ref is bad"),
        ({"prompt": "   "}, InvalidInput, "Prompt cannot be empty"),
        ({"prompt": "x" * 32769}, InvalidInput, "MAX_PROMPT_CHARS"),
        ({"prompt": "a\x00b"}, InvalidInput, "NUL"),
        ({"fps": 31}, InvalidInput, "MAX_FPS"),
        ({"params": {"max_tokens": 5000}}, InvalidInput, "MAX_TOKENS"),
        ({"params": {"messages": [{"role": "user", "content": "else"}]}}, InvalidInput, "a job asks its prompt"),
        ({"model": "unknown"}, NotFound, "Model unknown not found"),
    ],
)
async def test_a_wish_that_cannot_be_is_refused_and_leaves_nothing(
    place: Workplace, wish: dict, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        await place.desk.start(StartRequest(**{"stream_ref": "live", "prompt": "x", **wish}))

    assert await place.desk.list() == ([], 0)


@pytest.mark.parametrize(
    "wish",
    [
        {"job_id": ""},
        {"job_id": "a b"},
        {"job_id": "a" * 129},
        {"job_id": "a\n"},
        {"fps": 0},
        {"fps": -1},
        {"fps": float("nan")},
        {"fps": float("inf")},
        {"window": 0},
        {"window": 65},
        {"policy": "sometimes"},
        {"priority": "URGENT"},
        {"unknown": 1},
        {"source": {"unknown": 1}},
        {"max_frames": 0},
        {"max_seconds": 0},
    ],
)
def test_a_wish_of_the_wrong_form_is_no_wish(wish: dict) -> None:
    with pytest.raises(ValidationError):
        StartRequest(**{"stream_ref": "live", **wish})


async def test_a_name_is_given_once(place: Workplace) -> None:
    await start(place, job_id="camera-1")

    with pytest.raises(Conflict, match="Job camera-1 already exists"):
        await start(place, job_id="camera-1")


async def test_no_more_streams_run_than_may(tmp_path) -> None:
    place = await Workplace(tmp_path, SystemClock(), JobConfig(max_concurrent_streams=2)).open()
    first = await start(place)
    await start(place)

    with pytest.raises(TooManyStreams, match=r"Maximum concurrent streams \(2\) reached"):
        await start(place)
    await place.desk.cancel(first)
    await start(place)

    assert place.desk.capacity()["streams"] == {"used": 2, "limit": 2, "free": 0}
    await place.close()


async def test_an_owner_has_no_more_jobs_than_it_may_however_many_start_at_once(place: Workplace) -> None:
    await start(place, job_id="of-another")

    wishes = [StartRequest(stream_ref="live", prompt="q", job_id=f"job-{number}") for number in range(5)]
    outcomes = await asyncio.gather(
        *(place.desk.start(wish, owner="robot", limit_of_owner=2) for wish in wishes), return_exceptions=True
    )

    refused = [outcome for outcome in outcomes if isinstance(outcome, TooManyStreams)]
    assert (len(refused), len(outcomes)) == (3, 5)
    assert refused[0].message == "Maximum concurrent streams (2) of the key 'robot' reached"


async def test_jobs_are_listed_newest_first_and_counted(place: Workplace) -> None:
    names = [await start(place, job_id=f"job-{number}") for number in range(5)]
    await place.desk.cancel(names[1])

    page, total = await place.desk.list(limit=2, offset=1)
    cancelled, of_cancelled = await place.desk.list(status="cancelled")

    assert ([job.spec.job_id for job in page], total) == (["job-3", "job-2"], 5)
    assert ([job.spec.job_id for job in cancelled], of_cancelled) == (["job-1"], 1)
    assert await place.desk.count_by_status() == {"cancelled": 1, "pending": 4}
    with pytest.raises(InvalidInput, match="status"):
        await place.desk.list(status="sleeping")


async def test_results_are_the_newest_in_order_or_those_after_an_id(place: Workplace) -> None:
    place.sources.of("redis:a").put(*(frame(number) for number in range(12)))
    job_id = await start(place, "redis:a")
    await until(lambda: has_results(place, job_id, 12))

    newest = await place.desk.results(job_id, limit=5)
    following = await place.desk.results(job_id, limit=5, after=3)

    assert ([result.id for result in newest.results], newest.total_results) == ([8, 9, 10, 11, 12], 12)
    assert [result.id for result in following.results] == [4, 5, 6, 7, 8]
    with pytest.raises(NotFound, match="Job none not found"):
        await place.desk.results("none")
    with pytest.raises(InvalidInput):
        await place.desk.results(job_id, limit=0)


async def test_a_job_that_is_over_cannot_be_changed(place: Workplace) -> None:
    job_id = await start(place)
    await place.desk.cancel(job_id)

    with pytest.raises(Conflict):
        await place.desk.patch(job_id, JobPatch(fps=1.0))
    with pytest.raises(NotFound):
        await place.desk.patch("none", JobPatch(fps=1.0))


async def test_all_results_are_exported_in_each_format(place: Workplace) -> None:
    place.engine.answers = [
        {"predictions": []},
        {"predictions": [Prediction(label="=cmd()", confidence=0.5), Prediction(label="dog", confidence=0.4)]},
    ]
    source = place.sources.of("clip", is_live=False)
    source.put(frame(0), frame(1), frame(2))
    source.end()
    job_id = await start(place, "clip")
    await until(lambda: is_over(place, job_id))

    async def exported(name: str) -> str:
        return b"".join([piece async for piece in place.desk.export(job_id, name)]).decode()

    whole = json.loads(await exported("json"))
    lines = [orjson.loads(line) for line in (await exported("jsonl")).splitlines()]
    rows = list(csv.DictReader(io.StringIO(await exported("csv"))))
    assert [result["id"] for result in whole["results"]] == [1, 2, 3] == [line["id"] for line in lines]
    assert [(row["id"], row["label"]) for row in rows] == [("1", ""), ("2", "'=cmd()"), ("2", "dog"), ("3", "person")]
    with pytest.raises(InvalidInput):
        place.desk.export(job_id, "xml")
