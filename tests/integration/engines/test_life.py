"""Versions that come and go among crashes, floods and streams, with real processes."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from pathlib import Path
from typing import Any

import psutil
import pytest

from freeroam.clock import SystemClock
from freeroam.engines.embedded import EmbeddedEngine, EngineConfig, ModelSpec
from freeroam.observability.metrics import Metrics
from freeroam.vocabulary.errors import Draining, ModelError, NotFound
from freeroam.vocabulary.inference import InferenceParams, Output, Piece, Priority
from freeroam.vocabulary.model import ModelState
from tests.engines import fake, question, running
from tests.waiting import until

HERE = "tests.integration.engines.user_models"


def user_model(name: str, path: str = "", version: str = "1", **more: Any) -> ModelSpec:
    return ModelSpec("fake", version, model_type=f"{HERE}:{name}", model_path=path, **more)


def versions_of(engine: EmbeddedEngine) -> dict[str, ModelState]:
    return {info.version: info.state for info in engine.list_models()}


async def heard(stream: Any) -> Output:
    """Listen to the end; no token may be lost, doubled or out of its place."""
    spoken: list[Piece] = []
    async for item in stream:
        if isinstance(item, Output):
            assert [piece.index for piece in spoken] == [sum(p.count for p in spoken[:n]) for n in range(len(spoken))]
            assert "".join(piece.text for piece in spoken) == item.text
            assert sum(piece.count for piece in spoken) == max(1, item.completion_tokens)
            return item
        spoken.append(item)
    raise AssertionError("a stream ended without its output")


@pytest.mark.parametrize("unload_first", [False, True])
@pytest.mark.parametrize(
    ("end", "told"),
    [
        ("out of memory", "MemoryError: cannot allocate 80 GiB"),
        ("killed", "signal 9"),
        ("cold", "no kernel for this device"),
        ("sick", "answers are noise"),
        ("slow", "said nothing for 2 s"),
    ],
)
async def test_a_new_version_that_ends_badly_leaves_the_old_one_answering(end: str, told: str, unload_first: bool):
    async with running(fake(tokens=2), load_timeout_s=2.0) as engine:
        before = engine.replica_pids("*")
        with pytest.raises(ModelError, match=told) as caught:
            await engine.load_model(user_model("Doomed", end, "2"), unload_first=unload_first)

        output = await heard(engine.stream(question()))

        assert caught.value.code == "load_failed"
        assert output.version == "1"
        await until(lambda: versions_of(engine) == {"1": ModelState.READY})
        if not unload_first:
            assert engine.replica_pids("*") == before


async def test_a_replica_that_never_gets_ready_is_tried_ever_less_often_while_another_answers(tmp_path: Path) -> None:
    # Given room for one of two replicas, and questions that are answered all the time
    spec = user_model("Only", str(tmp_path), replicas=2)
    async with running(spec, is_awaited=False, pause_s=3600.0) as engine:
        await until(lambda: versions_of(engine) == {"1": ModelState.DEGRADED})
        for number in range(40):
            await engine.ask(question(str(number)))

        # Then the other was tried once, the start counts as over, and the trouble is told
        assert len(list(tmp_path.iterdir())) == 2
        assert engine.has_started
        assert "no room for a second one" in str(engine.describe().error)

        # When the one that answers is lost, then no pause holds its follower up
        [pid] = engine.replica_pids()
        next(path for path in tmp_path.iterdir() if path.name == str(pid)).unlink()
        next(tmp_path.iterdir()).unlink()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: engine.replica_pids() not in ([], [pid]))
        assert (await engine.ask(question())).version == "1"


async def test_giving_up_a_swap_that_made_room_brings_the_old_version_back() -> None:
    async with running(fake(width_px=320)) as engine:
        swapping = asyncio.create_task(engine.load_model(fake(version="2", load_ms=60_000.0), unload_first=True))
        await until(lambda: versions_of(engine).keys() == {"2"})
        waiting = asyncio.create_task(engine.ask(question()))
        await asyncio.sleep(0)
        swapping.cancel()

        with pytest.raises(asyncio.CancelledError):
            await swapping
        assert (await waiting).version == "1"
        assert engine.wishes_of().width_px == 320
        assert versions_of(engine) == {"1": ModelState.READY}


async def test_giving_up_while_the_old_version_still_speaks_lets_it_go_on(tmp_path: Path) -> None:
    end = tmp_path / "end"
    async with running(user_model("Patient", str(end))) as engine:
        pids = engine.replica_pids()
        stream = engine.stream(question())
        assert isinstance(await anext(stream), Piece)
        swapping = asyncio.create_task(engine.load_model(fake(version="2"), unload_first=True))
        await until(lambda: versions_of(engine).get("1") is ModelState.DRAINING)
        waiting = asyncio.create_task(engine.ask(question(params=InferenceParams(max_tokens=2))))
        await asyncio.sleep(0)
        swapping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await swapping

        output = await waiting
        assert (output.version, output.text) == ("1", "word0 word1 ")
        end.touch()
        assert [item async for item in stream][-1].version == "1"
        assert (engine.replica_pids("*"), versions_of(engine)) == (pids, {"1": ModelState.READY})


async def test_three_generations_speak_at_once_and_each_ends_what_it_began(tmp_path: Path) -> None:
    end = tmp_path / "end"
    async with running(user_model("Patient", str(end))) as engine:
        pids = engine.replica_pids()
        listening = []
        for version in ("1", "2", "3"):
            if version != "1":
                await engine.load_model(user_model("Patient", str(end), version))
            listening += [asyncio.create_task(heard(engine.stream(question(str(n))))) for n in range(4)]
            await until(lambda: engine.describe().running == 4)
        assert versions_of(engine) == {"1": ModelState.DRAINING, "2": ModelState.DRAINING, "3": ModelState.READY}
        end.touch()

        answers = await asyncio.gather(*listening)

        assert [answer.version for answer in answers] == ["1"] * 4 + ["2"] * 4 + ["3"] * 4
        await until(lambda: versions_of(engine) == {"3": ModelState.READY})
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize("who", ["1", "2"])
async def test_a_replica_that_is_killed_in_the_middle_of_a_swap_costs_no_answer(who: str, tmp_path: Path) -> None:
    end = tmp_path / "end"
    async with running(user_model("Patient", str(end))) as engine:
        begun = [asyncio.create_task(engine.ask(question(model=name))) for name in ("fake@1", "fake", "fake@1", "")]
        await until(lambda: engine.describe().running == 4)
        await engine.load_model(user_model("Patient", str(end), "2"))
        later = [asyncio.create_task(engine.ask(question())) for _ in range(3)]
        await until(lambda: engine.describe().running == 3)
        os.kill(engine.replica_pids(f"fake@{who}")[0], signal.SIGKILL)
        # What names no version goes on with the new one, what names the old one with a fresh replica of that.
        await until(lambda: engine.describe("fake@2").running == (5 if who == "1" else 3))
        await until(lambda: engine.describe("fake@1").running == (2 if who == "1" else 4))
        end.touch()

        before = [answer.version for answer in await asyncio.gather(*begun)]
        after = [answer.version for answer in await asyncio.gather(*later)]

        assert before == (["1", "2", "1", "2"] if who == "1" else ["1"] * 4)
        assert after == ["2"] * 3
        await until(lambda: versions_of(engine) == {"2": ModelState.READY})


async def test_an_old_version_whose_last_replica_dies_hands_on_what_it_had_begun() -> None:
    async with running(fake(latency_ms=1.0, max_batch=8), inference_timeout_s=1.0) as engine:
        stuck = asyncio.create_task(engine.ask(question("hang", model="fake@1", lane="stuck")))
        await until(lambda: engine.describe().running == 1)
        await engine.load_model(fake(version="2"))

        # It is asked a second time, by a replica that is started for it alone, and ends with that.
        with pytest.raises(ModelError) as caught:
            await stuck
        assert caught.value.code == "inference_timeout"
        await until(lambda: versions_of(engine) == {"2": ModelState.READY})


async def test_swaps_under_load_lose_and_double_nothing() -> None:
    async with running(fake(tokens=12, token_latency_ms=1.0, max_batch=16)) as engine:
        is_over = False
        versions: set[str] = set()

        async def client(number: int) -> int:
            answered = 0
            while not is_over:
                asked = question(str(number), lane=str(number), priority=Priority(number % 3))
                output = await (heard(engine.stream(asked)) if number % 2 else engine.ask(asked))
                assert output.text == "".join(f"word{n} " for n in range(12))
                versions.add(output.version)
                answered += 1
                assert engine.describe("fake").wishes.streams_text
            return answered

        clients = [asyncio.create_task(client(number)) for number in range(24)]
        for version in range(2, 6):
            await engine.load_model(fake(version=str(version), tokens=12, token_latency_ms=1.0, max_batch=16))
            await until(lambda version=version: str(version) in versions)
        is_over = True
        assert all(await asyncio.gather(*clients))
        await until(lambda: versions_of(engine) == {"5": ModelState.READY})
    assert {"1", "2", "3", "4", "5"} == versions


async def test_stopping_ends_versions_that_still_speak(tmp_path: Path) -> None:
    async with running(user_model("Patient", str(tmp_path / "never"))) as engine:
        listening = asyncio.create_task(heard(engine.stream(question())))
        await until(lambda: engine.describe().running == 1)
        await engine.load_model(fake(version="2"))
        pids = engine.replica_pids("*")
        assert len(pids) == 2
        await engine.stop()

        with pytest.raises(Draining):
            await listening
        await until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
        assert [task.get_name() for task in asyncio.all_tasks() if "replica" in task.get_name()] == []


async def test_a_model_that_has_failed_is_replaced_by_one_that_loads() -> None:
    async with running(fake(load_error="no weights"), is_awaited=False) as engine:
        assert not await engine.wait_ready(60.0)
        assert (await engine.load_model(fake(version="2"))).state is ModelState.READY

        assert (await engine.ask(question())).version == "2"
        await until(lambda: versions_of(engine) == {"2": ModelState.READY})


async def test_unloading_goes_on_when_the_one_who_wished_it_goes_away() -> None:
    async with running(fake(), fake("other", latency_ms=300.0)) as engine:
        asking = asyncio.create_task(engine.ask(question(model="other")))
        await until(lambda: engine.describe("other").running)
        unloading = asyncio.create_task(engine.unload_model("other", "1"))
        await until(lambda: any(info.state is ModelState.DRAINING for info in engine.list_models()))
        unloading.cancel()

        assert (await asking).model == "other"
        await until(lambda: len(engine.list_models()) == 1)
        with pytest.raises(NotFound):
            engine.describe("other")


async def test_a_version_that_is_gone_leaves_no_metric() -> None:
    metrics = Metrics()
    engine = EmbeddedEngine([fake()], EngineConfig(stop_grace_s=0.2), SystemClock(), metrics)
    await engine.start()
    try:
        assert await engine.wait_ready(60.0)
        await engine.ask(question())
        told = metrics.snapshot()
        assert told["freeroam_questions_total"]["model=fake,outcome=answered,version=1"] == 1.0
        assert told["freeroam_batch_wait_seconds_count"] == {"model=fake,version=1": 1.0}
        assert told["freeroam_queue_time_seconds_count"]["model=fake,priority=NORMAL,version=1"] == 1.0
        await engine.load_model(fake(version="2"))
        await engine.ask(question())
        await until(lambda: versions_of(engine) == {"2": ModelState.READY})

        told = metrics.render().decode()
        assert 'version="2"' in told
        assert 'version="1"' not in told
    finally:
        await engine.stop()


async def test_questions_that_nobody_waits_for_any_more_are_counted_by_where_they_were() -> None:
    # Given a model of one slot, whose replica is stopped so that what it was given is not answered
    metrics = Metrics()
    engine = EmbeddedEngine(
        [fake(max_batch=1)], EngineConfig(stop_grace_s=0.2, inference_timeout_s=60.0), SystemClock(), metrics
    )
    await engine.start()
    try:
        assert await engine.wait_ready(60.0)
        [pid] = engine.replica_pids()
        os.kill(pid, signal.SIGSTOP)
        asked = [
            asyncio.create_task(engine.ask(question(priority=priority)))
            for priority in (Priority.HIGH, Priority.HIGH, Priority.LOW)
        ]
        await until(lambda: (engine.describe().running, engine.describe().queued) == (2, 1))
        assert engine.describe().running_by == {"HIGH": 2, "NORMAL": 0, "LOW": 0}
        assert engine.describe().queued_by == {"HIGH": 0, "NORMAL": 0, "LOW": 1}

        # When those who asked go away, the last first
        for asking in reversed(asked):
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

        # Then each is counted where it was
        assert metrics.snapshot()["freeroam_cancelled_total"] == {
            "model=fake,priority=LOW,stage=queued,version=1": 1.0,
            "model=fake,priority=HIGH,stage=running,version=1": 2.0,
        }
        assert not any((engine.describe().running_by | engine.describe().queued_by).values())
        os.kill(pid, signal.SIGCONT)
    finally:
        await engine.stop()


# How models are.


async def test_a_model_that_is_not_well_is_degraded_until_it_is(tmp_path: Path) -> None:
    note = tmp_path / "complaint"
    async with running(user_model("Ailing", str(note)), health_interval_s=0.05) as engine:
        note.write_text("the endpoint answers 502")
        await until(lambda: engine.describe().state is ModelState.DEGRADED)
        assert "the endpoint answers 502" in (engine.describe().error or "")
        assert (await engine.ask(question())).predictions

        note.unlink()
        await until(lambda: engine.describe().state is ModelState.READY)
        assert engine.describe().error is None


async def test_a_check_that_is_asked_for_tells_at_once(tmp_path: Path) -> None:
    note = tmp_path / "complaint"
    async with running(user_model("Ailing", str(note))) as engine:
        assert (await engine.check_model("fake")).state is ModelState.READY
        note.write_text("no answer")
        told = await engine.check_model("fake@1")
        note.unlink()

        assert (told.state, "no answer" in (told.error or "")) == (ModelState.DEGRADED, True)
        assert (await engine.check_model("fake")).state is ModelState.READY


async def test_a_model_that_never_ends_looking_at_itself_is_replaced() -> None:
    async with running(user_model("Stubborn"), inference_timeout_s=0.5) as engine:
        victim = engine.replica_pids()
        told = await engine.check_model("fake")

        assert "said nothing for 0.5 s" in (told.error or "")
        await until(lambda: engine.describe().state is ModelState.READY and engine.replica_pids() != victim)


async def test_a_model_is_asked_how_it_is_between_the_steps_of_its_speech() -> None:
    async with running(fake(tokens=100_000, token_latency_ms=1.0)) as engine:
        stream = engine.stream(question())
        assert isinstance(await anext(stream), Piece)

        assert (await engine.check_model("fake")).state is ModelState.READY
        await stream.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("warmup", "loads"), [(True, False), (False, True)])
async def test_warming_up_can_be_left_out(warmup: bool, loads: bool) -> None:
    async with running(user_model("Doomed", "cold", warmup=warmup), is_awaited=False) as engine:
        assert await engine.wait_ready(60.0) is loads


# Slots of a model that speaks.


async def test_who_leaves_makes_room_between_two_steps() -> None:
    async with running(user_model("Counting")) as engine:
        first, second, third = (engine.stream(question(name)) for name in ("first", "second", "third"))
        await anext(first)
        await anext(second)
        waiting = asyncio.ensure_future(anext(third))
        await until(lambda: engine.describe().queued == 1)
        await first.aclose()  # type: ignore[attr-defined]
        piece = await waiting

        step, joined, left = (int(number) for number in piece.text.split(";")[0].split(","))
        assert left > 0
        assert joined == left  # it joined before the step that the other one was not part of
        assert step == joined + 1
        for stream in (second, third):
            await stream.aclose()  # type: ignore[attr-defined]
        await until(lambda: engine.describe().running == 0)


@pytest.mark.parametrize("slots", [1, 7, 64])
async def test_no_more_answers_are_spoken_at_once_than_allowed(slots: int) -> None:
    async with running(fake(tokens=5, token_latency_ms=1.0, max_batch=slots)) as engine:
        answers = await asyncio.gather(*(heard(engine.stream(question(str(n)))) for n in range(100)))

    assert max(answer.batch_size for answer in answers) <= slots
    assert {answer.completion_tokens for answer in answers} == {5}


async def test_a_thousand_that_vanish_leave_nothing() -> None:
    choices = random.Random(5)
    async with running(fake(tokens=20, token_latency_ms=1.0, max_batch=32), max_queue=2000) as engine:

        async def client(number: int) -> None:
            stream = engine.stream(question(str(number), lane=str(number)))
            try:
                async for _ in stream:
                    await asyncio.sleep(choices.random() * 0.05)
            finally:
                await stream.aclose()  # type: ignore[attr-defined]

        clients = [asyncio.create_task(client(number)) for number in range(1000)]
        for task in choices.sample(clients, len(clients)):
            await asyncio.sleep(0.0005)
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

        await until(lambda: (engine.describe().queued, engine.describe().running) == (0, 0))
        counted = engine.describe().statistics["questions"]
        assert counted["cancelled"] + counted["answered"] == 1000
        assert (await heard(engine.stream(question()))).completion_tokens == 20


async def test_a_low_request_is_answered_in_a_flood_of_high_ones() -> None:
    async with running(fake(tokens=10, token_latency_ms=1.0, max_batch=4), max_priority_wait_s=0.1) as engine:
        flood = True

        async def high(number: int) -> None:
            while flood:
                await engine.ask(question(priority=Priority.HIGH, lane=f"high{number}"))

        flooding = [asyncio.create_task(high(number)) for number in range(32)]
        await until(lambda: engine.describe().queued > 20)
        output = await engine.ask(question(priority=Priority.LOW, lane="low"))
        flood = False
        await asyncio.gather(*flooding)

    assert output.completion_tokens == 10
