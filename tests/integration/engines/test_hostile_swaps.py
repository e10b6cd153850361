"""What may go wrong while versions come and go: kept places, races, endless answers, deaths, and models that lie."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from freeroam.engines.embedded import EmbeddedEngine, ModelSpec
from freeroam.engines.specs import EnsembleSpec, Gate
from freeroam.vocabulary.errors import (
    Conflict,
    DeadlineExceeded,
    FreeroamError,
    ModelError,
    ModelNotReady,
    NotFound,
)
from freeroam.vocabulary.inference import InferenceParams, Output, Piece, Priority
from freeroam.vocabulary.model import ModelState
from tests.engines import fake, question, running
from tests.waiting import until

HERE = "tests.integration.engines.user_models"
PROMPT_S = 10.0
"""Sooner than the next look at a model's health, which would hide that nobody was told."""


def user_model(name: str, path: str = "", version: str = "1", **more: Any) -> ModelSpec:
    return ModelSpec("fake", version, model_type=f"{HERE}:{name}", model_path=path, **more)


def versions_of(engine: EmbeddedEngine) -> dict[str, ModelState]:
    return {info.version: info.state for info in engine.list_models()}


async def listened(engine: EmbeddedEngine, **more: Any) -> tuple[list[Piece], Output | FreeroamError]:
    """Return the pieces of a stream and how it ended."""
    pieces: list[Piece] = []
    try:
        async for item in engine.stream(question(**more)):
            if isinstance(item, Output):
                return pieces, item
            pieces.append(item)
    except FreeroamError as error:
        return pieces, error
    raise AssertionError("a stream ended without its output")


# Places that outlive their version.


@pytest.mark.parametrize("end", ["asked", "too late", "released"])
async def test_a_place_that_was_kept_in_a_version_that_leaves_does_not_hold_it(end: str) -> None:
    async with running(fake(), fake("eye")) as engine:
        place = engine.reserve("fake", Priority.NORMAL)
        await engine.load_model(fake(version="2"))
        for _ in range(5):
            await asyncio.sleep(0)  # whoever ends it looks, and finds the place kept
        assert engine.describe("fake@1").state is ModelState.DRAINING
        if end == "asked":
            assert (await engine.ask(question(model="fake"), place)).version == "2"
        elif end == "too late":
            with pytest.raises(DeadlineExceeded):
                await engine.ask(question(model="fake@1", deadline_monotonic_s=time.monotonic() - 1.0), place)
        else:
            place.release()

        await until(lambda: "fake@1" not in {f"{i.name}@{i.version}" for i in engine.list_models()}, PROMPT_S)


# Counting.


async def test_who_goes_away_in_the_moment_of_the_answer_is_counted_once() -> None:
    choices = random.Random(3)
    async with running(fake(latency_ms=3.0, max_batch=8)) as engine:

        async def ask_and_go(number: int) -> None:
            asking = asyncio.create_task(engine.ask(question(lane=str(number))))
            # Woken together with the asker, so that many go just as their answer has come.
            before = engine.describe().statistics["questions"]["answered"]
            while engine.describe().statistics["questions"]["answered"] == before and not asking.done():
                await asyncio.sleep(0)
            if choices.random() < 0.8:
                asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

        for _ in range(40):
            await asyncio.gather(*(ask_and_go(number) for number in range(5)))

        counted = engine.describe().statistics["questions"]
        assert sum(counted.values()) == 200, counted


@pytest.mark.parametrize("path", ["", "speaks"])
@pytest.mark.parametrize("is_heard", [False, True])
async def test_an_answer_begins_when_the_model_takes_it_up(path: str, is_heard: bool) -> None:
    spec = fake(tokens=50, token_latency_ms=10.0) if path else user_model("Thoughtful")
    async with running(spec) as engine:
        output = (await listened(engine))[1] if is_heard else await engine.ask(question())

    assert isinstance(output, Output)
    assert output.model_ms >= 500.0
    assert output.wait_ms < output.model_ms


# Batches that are changed.


async def test_how_many_answers_are_spoken_at_once_follows_a_change(tmp_path: Path) -> None:
    end = tmp_path / "end"
    async with running(user_model("Patient", str(end), max_batch=2)) as engine:
        asking = [asyncio.create_task(engine.ask(question(str(n), lane=str(n)))) for n in range(6)]
        await until(lambda: (engine.describe().running, engine.describe().queued) == (2, 4))

        engine.change_batching("fake", max_batch=5)
        await until(lambda: (engine.describe().running, engine.describe().queued) == (5, 1))
        assert engine.describe().wishes.max_batch == engine.wishes_of().max_batch == 5
        engine.change_batching("fake", max_batch=64)
        await until(lambda: engine.describe().running == 6)
        assert engine.wishes_of().max_batch == 16  # what the model itself can do

        engine.change_batching("fake", max_batch=1)
        asking.append(asyncio.create_task(engine.ask(question("late", lane="late"))))
        await asyncio.sleep(0)
        await until(lambda: engine.describe().queued == 1)
        end.touch()
        assert len(await asyncio.gather(*asking)) == 7


async def test_batches_grow_when_they_may() -> None:
    async with running(fake(latency_ms=20.0, max_batch=1)) as engine:
        engine.change_batching("fake", max_batch=8)
        answers = await asyncio.gather(*(engine.ask(question(str(n), lane=str(n))) for n in range(32)))

    assert max(answer.batch_size for answer in answers) == 8


# Versions that leave.


async def test_an_endless_answer_does_not_keep_a_version_for_ever(tmp_path: Path) -> None:
    end = tmp_path / "end"
    async with running(user_model("Patient", str(end)), drain_limit_s=1.0) as engine:
        pids = engine.replica_pids()
        heard = asyncio.create_task(listened(engine))
        unheard = asyncio.create_task(engine.ask(question("unheard")))
        pinned = asyncio.create_task(engine.ask(question("pinned", model="fake@1")))
        await until(lambda: engine.describe().running == 3)
        await engine.load_model(user_model("Patient", str(end), "2"))
        await until(lambda: versions_of(engine) == {"2": ModelState.READY})

        # What was heard cannot be said again, what names the version is for no other; the third is asked anew.
        pieces, error = await heard
        assert pieces
        assert isinstance(error, NotFound)
        with pytest.raises(NotFound, match="was unloaded"):
            await pinned
        await until(lambda: engine.describe().running == 1)
        end.touch()
        assert (await unheard).version == "2"
        await until(lambda: not any(psutil.pid_exists(pid) for pid in pids))


async def test_a_replica_that_is_stopped_while_its_version_leaves_is_not_waited_for(tmp_path: Path) -> None:
    end = tmp_path / "end"
    async with running(user_model("Patient", str(end)), inference_timeout_s=1.0) as engine:
        heard = asyncio.create_task(listened(engine))
        unheard = [asyncio.create_task(engine.ask(question(str(n)))) for n in range(3)]
        await until(lambda: engine.describe().running == 4)
        pids = engine.replica_pids()
        swapping = asyncio.create_task(engine.load_model(user_model("Patient", str(end), "2")))
        os.kill(pids[0], signal.SIGSTOP)
        await swapping

        pieces, error = await heard
        assert pieces
        assert isinstance(error, ModelError)
        assert error.code == "inference_timeout"
        end.touch()
        assert {answer.version for answer in await asyncio.gather(*unheard)} == {"2"}
        await until(lambda: versions_of(engine) == {"2": ModelState.READY})
        await until(lambda: not any(psutil.pid_exists(pid) for pid in pids))


async def test_a_version_that_is_unloaded_ends_its_streams_first(tmp_path: Path) -> None:
    end = tmp_path / "end"
    async with running(user_model("Patient", str(end))) as engine:
        await engine.load_model(user_model("Patient", str(end), "2"), keep_previous=True)
        engine.set_traffic("fake", {"1": 0.5, "2": 0.5})
        listening = [asyncio.create_task(listened(engine, lane=str(n))) for n in range(8)]
        await until(lambda: [info.running for info in engine.list_models()] == [4, 4])
        unloading = asyncio.create_task(engine.unload_model("fake", "1"))
        await until(lambda: versions_of(engine)["1"] is ModelState.DRAINING)
        assert (await engine.ask(question(params=InferenceParams(max_tokens=1)))).version == "2"
        with pytest.raises(NotFound, match="being unloaded"):
            await engine.ask(question(model="fake@1"))
        assert not unloading.done()
        end.touch()

        answers = [output for _, output in await asyncio.gather(*listening)]
        await unloading
        assert Counter(output.version for output in answers if isinstance(output, Output)) == {"1": 4, "2": 4}
        assert versions_of(engine) == {"2": ModelState.READY}


async def test_traffic_cannot_be_split_while_a_swap_goes_on() -> None:
    async with running(fake()) as engine:
        swapping = asyncio.create_task(engine.load_model(fake(version="2", load_ms=300.0)))
        await until(lambda: "2" in versions_of(engine))
        for shares in ({"1": 1.0}, {"1": 0.5, "2": 0.5}):
            with pytest.raises(Conflict, match="being changed"):
                engine.set_traffic("fake", shares)
        await swapping

        await until(lambda: versions_of(engine) == {"2": ModelState.READY})
        engine.set_traffic("fake", {"2": 1.0})
        assert (await engine.ask(question())).version == "2"


async def test_who_names_a_version_that_never_got_ready_is_not_told_that_the_service_stops() -> None:
    errors: Counter[type] = Counter()
    async with running(fake()) as engine:
        loading = asyncio.create_task(engine.load_model(user_model("Doomed", "sick", "2")))
        await until(lambda: "2" in versions_of(engine))
        while not loading.done():
            try:
                await engine.ask(question(model="fake@2"))
            except FreeroamError as error:
                errors[type(error)] += 1
            await asyncio.sleep(0)
        with pytest.raises(ModelError, match="answers are noise"):
            await loading

    assert errors[ModelNotReady]
    assert errors.keys() <= {ModelNotReady, NotFound}


# Models that lie, or die.


async def test_a_model_that_dies_in_silence_again_and_again_is_given_up() -> None:
    async with running(user_model("Thoughtful", "dies"), max_deaths=3) as engine:
        told = await asyncio.gather(*(engine.ask(question(str(n))) for n in range(2)), return_exceptions=True)
        told += await asyncio.gather(*(engine.ask(question(str(n))) for n in range(2)), return_exceptions=True)

        # It gave signs of life each time, but no answer.
        await until(lambda: engine.describe().state is ModelState.FAILED)
    assert all(isinstance(one, ModelError | ModelNotReady) for one in told), told


async def test_one_dictionary_for_all_answers_mixes_none_of_them() -> None:
    async with running(user_model("Thoughtful", "one for all")) as engine:
        answers = [await engine.ask(question()) for _ in range(3)]

    assert [answer.text for answer in answers] == ["1", "2", "3"]
    assert [answer.tokens for answer in answers] == [("1",), ("2",), ("3",)]


async def test_what_is_no_text_costs_its_own_question_only() -> None:
    async with running(user_model("Thoughtful", "numbers")) as engine:
        pids = engine.replica_pids()
        for _ in range(2):
            with pytest.raises(ModelError, match="something else than text"):
                await engine.ask(question())
        assert engine.replica_pids() == pids


# Ensembles.


async def test_a_member_that_dies_leaves_the_word_to_the_others() -> None:
    bystander = ModelSpec("fragile", model_type=f"{HERE}:Bystander")
    both = EnsembleSpec("both", members=("fake", "fragile"))
    async with running(fake(), bystander, both) as engine:
        output = await engine.ask(question("poison", model="both"))

        told = {member["name"]: member for member in output.extra["members"]}
        assert told["fragile"]["code"] == "replica_lost"
        assert told["fake"]["model"] == "fake@1"
        await until(lambda: engine.describe("both").state is ModelState.READY)
        again = await engine.ask(question("peace", model="both"))
        assert [member.get("error") for member in again.extra["members"]] == [None, None]


@pytest.mark.parametrize("is_heard", [False, True])
async def test_a_gate_that_takes_the_time_of_both_leaves_nothing(is_heard: bool) -> None:
    gated = EnsembleSpec("gated", gate=Gate(model="gate", then="fake"))
    async with running(fake(tokens=3), fake("gate", latency_ms=400.0), gated) as engine:
        deadline_s = time.monotonic() + 0.1
        asked = question(model="gated", deadline_monotonic_s=deadline_s)
        answering = anext(aiter(engine.stream(asked))) if is_heard else engine.ask(asked)
        with pytest.raises(DeadlineExceeded):
            await answering

        await until(lambda: not any(info.queued or info.running for info in engine.list_models()))
        assert engine.describe("fake").statistics["questions"]["answered"] == 0
        assert (await engine.ask(question(model="gated"))).extra["gate"]["passed"] is True


async def test_the_parts_of_an_ensemble_are_swapped_while_it_is_asked() -> None:
    gated = EnsembleSpec("gated", gate=Gate(model="gate", then="fake"))
    async with running(fake(tokens=5, token_latency_ms=1.0), fake("gate"), gated) as engine:
        is_over = False
        versions: Counter[tuple[str, str]] = Counter()

        async def ask_on(number: int) -> None:
            while not is_over:
                if number % 2:
                    pieces, output = await listened(engine, model="gated", lane=str(number))
                    assert isinstance(output, Output), output
                    assert "".join(piece.text for piece in pieces) == output.text
                else:
                    output = await engine.ask(question(model="gated", lane=str(number)))
                told = output.extra["gate"]
                versions[told["model"], told["then"]] += 1

        asking = [asyncio.create_task(ask_on(number)) for number in range(12)]
        for version in ("2", "3"):
            await engine.load_model(fake(version=version, tokens=5, token_latency_ms=1.0))
            await engine.load_model(fake("gate", version=version), unload_first=True)
            await until(lambda version=version: versions[f"gate@{version}", f"fake@{version}"])
        is_over = True
        await asyncio.gather(*asking)
