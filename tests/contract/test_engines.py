"""What every engine promises, wherever its models run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import pytest

from freeroam.engines.engine import Engine
from freeroam.engines.specs import EnsembleSpec, Gate
from freeroam.vocabulary.errors import (
    ConfigurationError,
    Conflict,
    DeadlineExceeded,
    Draining,
    InvalidInput,
    ModelError,
    ModelNotReady,
    NotFound,
    QueueFull,
    TooLarge,
)
from freeroam.vocabulary.frame import Frame
from freeroam.vocabulary.inference import FinishReason, InferenceParams, Output, Piece, Priority
from freeroam.vocabulary.model import ModelState
from tests.engines import fake, frame_of, question, running
from tests.waiting import until

Runs = Callable[..., AbstractAsyncContextManager[Engine]]


@pytest.fixture(params=["embedded"])
def runs(request: pytest.FixtureRequest) -> Runs:
    """Return a context that runs an engine with the given fake models."""
    return {"embedded": running}[request.param]


async def collected(stream: AsyncIterator[Piece | Output]) -> tuple[list[Piece], Output]:
    items = [item async for item in stream]
    assert isinstance(items[-1], Output)
    pieces = [item for item in items[:-1] if isinstance(item, Piece)]
    assert len(pieces) == len(items) - 1
    return pieces, items[-1]


async def test_a_question_is_answered(runs: Runs) -> None:
    async with runs(fake(label="cat")) as engine:
        before_s = time.monotonic()

        output = await engine.ask(question("is it a cat?", model="fake"))

    assert output.predictions[0].model_dump() == {"label": "cat", "confidence": 0.5, "bbox": [0.0, 0.0, 64.0, 36.0]}
    assert output.text == "1 frames, asked: is it a cat?"
    assert output.confidence == [0.5]
    assert (output.model, output.version, output.model_type, output.device) == ("fake", "1", "fake", "cpu")
    assert output.finish_reason is FinishReason.STOP
    assert output.batch_size == 1
    assert output.model_ms > 0
    assert before_s <= output.started_monotonic_s <= time.monotonic()


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_any_number_of_frames_may_be_asked_about(runs: Runs, count: int) -> None:
    async with runs() as engine:
        output = await engine.ask(question(frames=tuple(frame_of() for _ in range(count))))

    assert output.text is not None
    assert output.text.startswith(f"{count} frames")


async def test_the_default_a_name_and_a_version_find_their_model(runs: Runs) -> None:
    async with runs(fake("one"), fake("two"), fake("two", version="2")) as engine:
        answers = [await engine.ask(question(model=name)) for name in ("", "one", "two", "two@1", "two@2")]

        assert [(answer.model, answer.version) for answer in answers] == [
            ("one", "1"), ("one", "1"), ("two", "1"), ("two", "1"), ("two", "2"),
        ]  # fmt: skip
        assert [(info.name, info.version) for info in engine.list_models()] == [
            ("one", "1"),
            ("two", "1"),
            ("two", "2"),
        ]
        assert engine.describe().name == "one"
        assert engine.describe("two@2").version == "2"


@pytest.mark.parametrize("name", ["three", "fake@9", "fake@"])
async def test_an_unknown_model_is_not_found(runs: Runs, name: str) -> None:
    async with runs() as engine:
        with pytest.raises(NotFound):
            await engine.ask(question(model=name))
        with pytest.raises(NotFound):
            engine.describe(name)
        with pytest.raises(NotFound):
            await collected(engine.stream(question(model=name)))


async def test_a_description_tells_state_wishes_and_statistics(runs: Runs) -> None:
    async with runs(fake(width_px=320, height_px=320, window=2, max_batch=4)) as engine:
        await engine.ask(question())
        info = engine.describe()

    assert (info.state, info.replicas_ready, info.replicas_wanted) == (ModelState.READY, 1, 1)
    assert (info.wishes.width_px, info.wishes.window, info.wishes.max_batch) == (320, 2, 4)
    assert info.info["model_type"] == "fake"
    assert info.statistics["p50"] > 0
    assert info.statistics["questions"]["answered"] == 1


async def test_a_model_that_raises_fails_its_question_alone(runs: Runs) -> None:
    async with runs() as engine:
        answers = await asyncio.gather(
            *(engine.ask(question(prompt)) for prompt in ("a", "fail", "b", "malformed")), return_exceptions=True
        )

    assert [type(answer) for answer in answers] == [Output, ModelError, Output, ModelError]
    assert "asked to fail" in str(answers[1])
    assert "'label'" in str(answers[3])
    assert answers[1].code == "model_failed"


async def test_waiting_questions_are_put_to_the_model_together(runs: Runs) -> None:
    async with runs(fake(latency_ms=30.0, max_batch=8)) as engine:
        answers = await asyncio.gather(*(engine.ask(question()) for _ in range(24)))

    assert max(answer.batch_size for answer in answers) == 8


async def test_a_queue_that_is_full_refuses_at_once(runs: Runs) -> None:
    async with runs(fake(latency_ms=200.0, max_batch=1), max_queue=4) as engine:
        asking = [asyncio.create_task(engine.ask(question(priority=Priority.HIGH))) for _ in range(12)]
        answers = await asyncio.gather(*asking, return_exceptions=True)

    refused = [answer for answer in answers if isinstance(answer, QueueFull)]
    assert len(refused) == 8
    assert all(error.retry_after_s > 0 for error in refused)


async def test_a_queue_keeps_places_for_the_higher_priorities(runs: Runs) -> None:
    async with runs(fake(latency_ms=300.0, max_batch=1), max_queue=8) as engine:
        low = [asyncio.create_task(engine.ask(question(priority=Priority.LOW))) for _ in range(20)]
        await asyncio.sleep(0)
        high = asyncio.create_task(engine.ask(question(priority=Priority.HIGH)))
        answers = await asyncio.gather(*low, high, return_exceptions=True)

    assert isinstance(answers[-1], Output)
    assert any(isinstance(answer, QueueFull) for answer in answers)


async def test_a_deadline_that_passes_while_waiting_or_answering_is_told(runs: Runs) -> None:
    async with runs(fake(latency_ms=500.0, max_batch=1)) as engine:
        now_s = time.monotonic()
        answers = await asyncio.gather(
            engine.ask(question(deadline_monotonic_s=now_s + 0.1)),
            engine.ask(question(deadline_monotonic_s=now_s + 0.2)),
            engine.ask(question(deadline_monotonic_s=now_s + 0.2)),
            engine.ask(question(deadline_monotonic_s=now_s - 0.1)),
            engine.ask(question(deadline_monotonic_s=now_s + 60)),
            return_exceptions=True,
        )

    assert [type(answer) for answer in answers] == [DeadlineExceeded] * 4 + [Output]


async def test_a_cancelled_question_leaves_its_place(runs: Runs) -> None:
    async with runs(fake(latency_ms=100.0, max_batch=1), max_queue=100) as engine:
        asking = [asyncio.create_task(engine.ask(question())) for _ in range(20)]
        await asyncio.sleep(0.05)
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        output = await engine.ask(question("last"))

        assert engine.describe().queued == 0
    assert output.text is not None
    assert output.text.endswith("last")


async def test_text_is_streamed_piece_by_piece(runs: Runs) -> None:
    async with runs(fake(tokens=6, token_latency_ms=5.0)) as engine:
        pieces, output = await collected(engine.stream(question("tell me more")))

    assert "".join(piece.text for piece in pieces) == output.text == "".join(output.tokens)
    assert [piece.index for piece in pieces] == [sum(p.count for p in pieces[:n]) for n in range(len(pieces))]
    assert sum(piece.count for piece in pieces) == output.completion_tokens == 6
    assert output.prompt_tokens == 3


async def test_a_slow_listener_gets_merged_pieces_and_loses_none(runs: Runs) -> None:
    async with runs(fake(tokens=200)) as engine:
        pieces = []
        async for item in engine.stream(question()):
            if isinstance(item, Piece):
                pieces.append(item)
                await asyncio.sleep(0.02)

    assert len(pieces) < 200
    assert "".join(piece.text for piece in pieces) == "".join(f"word{n} " for n in range(200))


async def test_several_answers_are_spoken_at_once(runs: Runs) -> None:
    async with runs(fake(tokens=10, token_latency_ms=2.0, max_batch=4)) as engine:
        answers = await asyncio.gather(*(collected(engine.stream(question(str(n)))) for n in range(9)))

    assert {output.completion_tokens for _, output in answers} == {10}
    assert max(output.batch_size for _, output in answers) > 1


async def test_a_model_that_does_not_stream_gives_one_piece(runs: Runs) -> None:
    async with runs() as engine:
        pieces, output = await collected(engine.stream(question("x")))

    assert pieces == [Piece("1 frames, asked: x", 0, 1)]
    assert output.tokens == ()


async def test_the_text_of_a_streaming_model_can_be_had_whole(runs: Runs) -> None:
    async with runs(fake(tokens=3)) as engine:
        output = await engine.ask(question(params=InferenceParams(max_tokens=2)))

    assert output.text == "word0 word1 "
    assert output.finish_reason is FinishReason.LENGTH


async def test_a_stream_that_is_left_frees_its_place(runs: Runs) -> None:
    async with runs(fake(tokens=100_000, token_latency_ms=1.0, max_batch=1)) as engine:
        stream = engine.stream(question())
        assert isinstance(await anext(stream), Piece)
        await stream.aclose()  # type: ignore[attr-defined]

        second = engine.stream(question())
        assert isinstance(await anext(second), Piece)
        await second.aclose()  # type: ignore[attr-defined]


async def test_stopping_fails_what_waits_with_draining(runs: Runs) -> None:
    async with runs(fake(latency_ms=2000.0, max_batch=1)) as engine:
        asking = [asyncio.create_task(engine.ask(question())) for _ in range(3)]
        await asyncio.sleep(0.05)
        await engine.stop()

        answers = await asyncio.gather(*asking, return_exceptions=True)
        with pytest.raises(Draining):
            await engine.ask(question())

    assert [type(answer) for answer in answers] == [Draining] * 3


async def test_a_model_that_cannot_load_is_failed_and_says_why(runs: Runs) -> None:
    async with runs(fake(load_error="no such weights"), is_awaited=False) as engine:
        waiting = asyncio.create_task(engine.ask(question(waits_for_load=True)))

        assert not await engine.wait_ready(60.0)
        with pytest.raises(ModelNotReady, match="no such weights"):
            await waiting
        with pytest.raises(ModelNotReady) as caught:
            await engine.ask(question())
        info = engine.describe()

    assert caught.value.retry_after_s > 0
    assert info.state is ModelState.FAILED
    assert "no such weights" in (info.error or "")


async def test_a_model_that_loads_for_the_first_time_refuses_at_once(runs: Runs) -> None:
    async with runs(fake(load_ms=60_000.0), fake("ready"), is_awaited=False) as engine:
        await until(lambda: engine.describe("ready").state is ModelState.READY)

        refusals = []
        for model in ("", "fake", "fake@1"):
            with pytest.raises(ModelNotReady, match="still loading") as asked:
                await engine.ask(question(model=model))
            with pytest.raises(ModelNotReady, match="still loading") as listened:
                await anext(engine.stream(question(model=model)))
            with pytest.raises(ModelNotReady, match="still loading") as reserved:
                engine.reserve(model, Priority.NORMAL)
            refusals += [asked.value, listened.value, reserved.value]

        assert all(1.0 <= refusal.retry_after_s <= 30.0 for refusal in refusals)
        assert (engine.describe().queued, engine.describe().statistics["questions"]["rejected"]) == (0, 9)
        assert (await engine.ask(question(model="ready"))).predictions


@pytest.mark.parametrize("end", ["it is ready", "it has failed"])
async def test_the_start_is_over_when_the_last_model_is_ready_or_has_failed(runs: Runs, end: str) -> None:
    late = fake("late", load_ms=300.0, load_error="no weights" if end == "it has failed" else None)
    async with runs(fake(), late, is_awaited=False) as engine:
        await until(lambda: engine.describe().state is ModelState.READY)
        await until(lambda: engine.has_started)
        assert engine.describe("late").state is (ModelState.READY if end == "it is ready" else ModelState.FAILED)

        # A version that is loaded later is no part of the start.
        loading = asyncio.create_task(engine.load_model(fake("later", load_ms=300.0)))
        await until(lambda: any(info.name == "later" for info in engine.list_models()))
        assert engine.has_started
        await loading


async def test_the_start_is_not_over_while_a_model_is_loading(runs: Runs) -> None:
    async with runs(fake(), fake("late", load_ms=60_000.0), is_awaited=False) as engine:
        await until(lambda: engine.describe().state is ModelState.READY)
        assert not engine.has_started


async def test_a_question_that_says_so_waits_for_a_model_that_is_loading(runs: Runs) -> None:
    async with runs(fake(load_ms=300.0), is_awaited=False) as engine:
        assert engine.describe().state is ModelState.LOADING
        assert not await engine.wait_ready(0.0)

        output = await engine.ask(question(waits_for_load=True))

    assert output.predictions


async def test_of_versions_that_share_only_those_that_are_loaded_are_asked(runs: Runs) -> None:
    specs = (fake(share=1.0), fake(version="2", share=1.0, load_ms=60_000.0))
    async with runs(*specs, is_awaited=False) as engine:
        await until(lambda: versions_of(engine)["fake@1"] is ModelState.READY)

        assert {(await engine.ask(question())).version for _ in range(4)} == {"1"}
        with pytest.raises(ModelNotReady):
            await engine.ask(question(model="fake@2"))


async def test_a_model_that_was_lost_before_it_was_ever_there_is_still_loading(runs: Runs) -> None:
    async with runs(fake(load_ms=60_000.0), is_awaited=False, load_timeout_s=0.2, max_deaths=1000) as engine:
        await until(lambda: "said nothing" in (engine.describe().error or ""))

        assert engine.describe().state in {ModelState.LOADING, ModelState.WARMING}
        with pytest.raises(ModelNotReady, match="still loading"):
            await engine.ask(question())


async def test_frames_too_large_to_send_are_refused(runs: Runs) -> None:
    huge = Frame(b"", 20_000, 20_000, "0", 0.0, 0.0, 0.0, 0.0, 20_000, 20_000)

    async with runs() as engine:
        with pytest.raises(TooLarge):
            await engine.ask(question(frames=(huge,)))


async def test_a_frame_that_is_not_what_it_says_is_refused(runs: Runs) -> None:
    torn = Frame(bytes(10), 64, 36, "0", 0.0, 0.0, 0.0, 0.0, 64, 36)

    async with runs() as engine:
        with pytest.raises(InvalidInput, match="64x36"):
            await engine.ask(question(frames=(torn,)))


@pytest.mark.parametrize("prompt", ["", "half a pair \ud800", "\0", "x" * 1_000_000])
async def test_any_text_may_be_asked(runs: Runs, prompt: str) -> None:
    async with runs() as engine:
        output = await engine.ask(question(prompt))

    assert output.text is not None
    assert output.text.startswith("1 frames, asked: ")


async def test_many_lanes_and_priorities_are_all_answered(runs: Runs) -> None:
    def asked(number: int) -> Any:
        return engine.ask(question(str(number), lane=str(number % 7), priority=Priority(number % 3)))

    async with runs(fake(latency_ms=1.0, replicas=2)) as engine:
        answers = await asyncio.gather(*(asked(number) for number in range(300)))

    assert [answer.text for answer in answers] == [f"1 frames, asked: {number}" for number in range(300)]


# Places.


async def test_a_reserved_place_counts_as_one_who_waits(runs: Runs) -> None:
    async with runs(fake(latency_ms=1.0), max_queue=2) as engine:
        places = [engine.reserve("fake", Priority.HIGH) for _ in range(2)]
        with pytest.raises(QueueFull):
            engine.reserve("", Priority.HIGH)
        with pytest.raises(QueueFull):
            await engine.ask(question(priority=Priority.HIGH))

        places[0].release()
        places[0].release()
        engine.reserve("", Priority.HIGH).release()
        output = await engine.ask(question(priority=Priority.HIGH), places[1])
        places[1].release()

        assert output.predictions
        assert [engine.reserve("", Priority.HIGH) for _ in range(2)]


async def test_a_place_of_a_stream_is_taken_by_it(runs: Runs) -> None:
    async with runs(fake(tokens=3), max_queue=1) as engine:
        place = engine.reserve("fake", Priority.HIGH)

        pieces, _ = await collected(engine.stream(question(priority=Priority.HIGH), place))

        assert sum(piece.count for piece in pieces) == 3
        engine.reserve("fake", Priority.HIGH).release()


@pytest.mark.parametrize("name", ["three", "fake@9"])
async def test_no_place_is_kept_with_an_unknown_model(runs: Runs, name: str) -> None:
    async with runs() as engine:
        with pytest.raises(NotFound):
            engine.reserve(name, Priority.HIGH)


# Versions.


def versions_of(engine: Engine) -> dict[str, ModelState]:
    return {f"{info.name}@{info.version}": info.state for info in engine.list_models()}


async def test_a_new_version_takes_over_and_the_old_one_goes(runs: Runs) -> None:
    async with runs(fake(label="old")) as engine:
        info = await engine.load_model(fake(version="2", label="new"))
        output = await engine.ask(question())

        await until(lambda: versions_of(engine) == {"fake@2": ModelState.READY})
        assert (info.version, info.state, info.share) == ("2", ModelState.READY, 1.0)
        assert (output.version, output.predictions[0].label) == ("2", "new")
        assert engine.describe("fake").version == "2"
        with pytest.raises(NotFound):
            engine.describe("fake@1")


async def test_what_waits_goes_to_the_new_version_but_not_what_names_the_old_one(runs: Runs) -> None:
    async with runs(fake(latency_ms=1.0, max_batch=1)) as engine:
        loading = asyncio.create_task(engine.load_model(fake(version="2", load_ms=50.0)))
        await until(lambda: versions_of(engine).get("fake@2"))
        stopper = asyncio.create_task(engine.ask(question("hang", model="fake@1")))
        bare = [asyncio.create_task(engine.ask(question(str(n), model="fake", lane=str(n)))) for n in range(10)]
        await loading

        answers = await asyncio.gather(*bare)
        assert [answer.text for answer in answers] == [f"1 frames, asked: {n}" for n in range(10)]
        assert {answer.version for answer in answers} == {"2"}
        assert engine.describe("fake@1").state is ModelState.DRAINING
        with pytest.raises(NotFound):
            await engine.ask(question(model="fake@1"))
        stopper.cancel()


async def test_a_stream_that_is_being_spoken_is_finished_by_the_old_version(runs: Runs) -> None:
    async with runs(fake(tokens=300, token_latency_ms=2.0)) as engine:
        stream = engine.stream(question())
        pieces = [await anext(stream)]
        await engine.load_model(fake(version="2", tokens=3))
        _, answered = await collected(engine.stream(question()))

        pieces += [item async for item in stream]
        *pieces, output = pieces
        assert (output.version, answered.version) == ("1", "2")
        assert "".join(piece.text for piece in pieces) == output.text == "".join(f"word{n} " for n in range(300))
        await until(lambda: versions_of(engine) == {"fake@2": ModelState.READY})


@pytest.mark.parametrize("unload_first", [False, True])
async def test_a_version_that_does_not_load_leaves_the_old_one_serving(runs: Runs, unload_first: bool) -> None:
    async with runs(fake(label="old")) as engine:
        with pytest.raises(ModelError, match="no such weights") as caught:
            await engine.load_model(fake(version="2", load_error="no such weights"), unload_first=unload_first)
        output = await engine.ask(question())

        assert caught.value.code == "load_failed"
        assert output.version == "1"
        await until(lambda: versions_of(engine) == {"fake@1": ModelState.READY})
        await engine.load_model(fake(version="2"), unload_first=unload_first)
        assert (await engine.ask(question())).version == "2"


async def test_where_both_do_not_fit_questions_wait_for_the_new_version(runs: Runs) -> None:
    async with runs(fake(width_px=320)) as engine:
        swapping = asyncio.create_task(engine.load_model(fake(version="2", load_ms=200.0), unload_first=True))
        await until(lambda: "fake@1" not in versions_of(engine))
        assert engine.describe("fake").state in {ModelState.LOADING, ModelState.WARMING}
        assert engine.describe().wishes.width_px == engine.wishes_of().width_px == 320

        output = await engine.ask(question())

        await swapping
        assert output.version == "2"
        assert engine.wishes_of("fake").width_px is None


async def test_questions_that_wait_for_a_version_that_does_not_load_are_answered_by_the_old_one(runs: Runs) -> None:
    async with runs(fake()) as engine:
        spec = fake(version="2", load_ms=300.0, load_error="no such weights")
        swapping = asyncio.create_task(engine.load_model(spec, unload_first=True))
        await until(lambda: "fake@1" not in versions_of(engine))

        outputs = await asyncio.gather(*(engine.ask(question(str(number))) for number in range(9)))

        assert {output.version for output in outputs} == {"1"}
        with pytest.raises(ModelError, match="no such weights"):
            await swapping
        with pytest.raises(NotFound):
            await engine.ask(question(model="fake@2"))


@pytest.mark.parametrize("load_error", ["", "no such weights"])
async def test_it_is_told_while_a_version_has_made_room_for_one_that_is_not_there_yet(
    runs: Runs, load_error: str
) -> None:
    async with runs(fake(), fake("other"), EnsembleSpec("both", members=("fake", "other"))) as engine:
        spec = fake(version="2", load_ms=300.0, load_error=load_error)
        assert not engine.awaits_successor()

        swapping = asyncio.create_task(engine.load_model(spec, unload_first=True))
        await until(lambda: "fake@1" not in versions_of(engine))

        assert engine.awaits_successor()
        assert engine.awaits_successor("both")
        assert not engine.awaits_successor("other")
        with pytest.raises(NotFound):
            engine.awaits_successor("fake@1")
        await asyncio.wait([swapping])
        assert (swapping.exception() is None) is (load_error == "")
        # Also the version that is brought back is waited for, and only until it is there.
        await until(lambda: ModelState.READY in versions_of(engine).values() and not engine.awaits_successor())
        assert (await engine.ask(question())).version == ("1" if load_error else "2")


async def test_a_version_that_is_loaded_beside_another_is_waited_for_by_nobody(runs: Runs) -> None:
    async with runs(fake()) as engine:
        loading = asyncio.create_task(engine.load_model(fake(version="2", load_ms=60_000.0)))
        await until(lambda: "fake@2" in versions_of(engine))

        assert not engine.awaits_successor("fake")
        assert not engine.awaits_successor("fake@2")
        assert (await engine.ask(question())).version == "1"
        with pytest.raises(ModelNotReady):
            await engine.ask(question(model="fake@2"))
        loading.cancel()


async def test_a_previous_version_can_be_kept_and_traffic_be_split(runs: Runs) -> None:
    async with runs(fake()) as engine:
        info = await engine.load_model(fake(version="2"), keep_previous=True)
        assert info.share == 0.0
        assert {(await engine.ask(question())).version for _ in range(5)} == {"1"}
        assert (await engine.ask(question(model="fake@2"))).version == "2"

        engine.set_traffic("fake", {"1": 3, "2": 1})
        asked = [(await engine.ask(question())).version for _ in range(20)]
        shares = {info.version: info.share for info in engine.list_models()}

        assert asked.count("2") == 5
        assert shares == {"1": 0.75, "2": 0.25}
        assert engine.describe("fake").version == "1"
        await engine.unload_model("fake", "1")
        assert {(await engine.ask(question())).version for _ in range(3)} == {"2"}


@pytest.mark.parametrize("shares", [{}, {"1": 0.0}, {"1": -1.0, "2": 2.0}, {"1": float("nan")}, {"1": float("inf")}])
async def test_shares_that_are_none_are_refused(runs: Runs, shares: dict[str, float]) -> None:
    async with runs(fake(), fake(version="2")) as engine:
        with pytest.raises(InvalidInput):
            engine.set_traffic("fake", shares)
        assert (await engine.ask(question())).version == "1"


async def test_traffic_goes_to_versions_that_are_there(runs: Runs) -> None:
    async with runs() as engine:
        for name, shares in (("fake", {"9": 1.0}), ("other", {"1": 1.0})):
            with pytest.raises(NotFound):
                engine.set_traffic(name, shares)


async def test_versions_of_the_start_may_share(runs: Runs) -> None:
    async with runs(fake(share=1.0), fake(version="2", share=1.0), fake(version="3")) as engine:
        asked = [(await engine.ask(question())).version for _ in range(6)]

    assert sorted(asked) == ["1"] * 3 + ["2"] * 3


async def test_one_change_of_a_name_at_a_time(runs: Runs) -> None:
    async with runs(fake()) as engine:
        loading = asyncio.create_task(engine.load_model(fake(version="2", load_ms=300.0)))
        await until(lambda: "fake@2" in versions_of(engine))

        with pytest.raises(Conflict):
            await engine.load_model(fake(version="3"))
        with pytest.raises(Conflict):
            await engine.unload_model("fake", "1")
        with pytest.raises(Conflict):
            engine.set_traffic("fake", {"2": 1.0})
        assert (await engine.load_model(fake("other"))).name == "other"
        await loading


async def test_a_version_that_is_there_is_not_loaded_again(runs: Runs) -> None:
    async with runs(fake()) as engine:
        with pytest.raises(Conflict, match="version 1 already"):
            await engine.load_model(fake())
        with pytest.raises(ConfigurationError):
            await engine.load_model(fake(version="2", max_batch=65))
        assert (await engine.ask(question())).version == "1"


async def test_the_only_version_of_the_default_model_stays(runs: Runs) -> None:
    async with runs(fake(), fake("other")) as engine:
        with pytest.raises(Conflict, match="only version"):
            await engine.unload_model("fake", "1")
        with pytest.raises(NotFound):
            await engine.unload_model("fake", "2")

        waiting = asyncio.create_task(engine.ask(question(model="other")))
        await asyncio.sleep(0)
        await engine.unload_model("other", "1")

        assert (await waiting).model == "other"
        with pytest.raises(NotFound):
            engine.describe("other")
        await engine.load_model(fake("other", version="2"))
        assert (await engine.ask(question(model="other"))).version == "2"


async def test_loading_that_is_given_up_leaves_nothing(runs: Runs) -> None:
    async with runs(fake()) as engine:
        for name in ("fake", "new"):
            loading = asyncio.create_task(engine.load_model(fake(name, version="2", load_ms=60_000.0)))
            await until(lambda name=name: f"{name}@2" in versions_of(engine))
            waiting = asyncio.create_task(engine.ask(question(model=f"{name}@2", waits_for_load=True)))
            await asyncio.sleep(0)
            loading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await loading

            with pytest.raises(ModelNotReady):
                await waiting
            assert versions_of(engine) == {"fake@1": ModelState.READY}
        assert (await engine.load_model(fake(version="2"))).version == "2"


async def test_nothing_is_loaded_into_an_engine_that_stops(runs: Runs) -> None:
    async with runs(fake()) as engine:
        loading = asyncio.create_task(engine.load_model(fake(version="2", load_ms=60_000.0)))
        await until(lambda: "fake@2" in versions_of(engine))
        await engine.stop()

        with pytest.raises(Draining):
            await loading
        with pytest.raises(Draining):
            await engine.load_model(fake(version="3"))


async def test_a_model_is_asked_how_it_is(runs: Runs) -> None:
    async with runs(fake()) as engine:
        assert (await engine.check_model("fake")).state is ModelState.READY
        with pytest.raises(NotFound):
            await engine.check_model("other")


# Ensembles.


async def test_members_answer_together(runs: Runs) -> None:
    ensemble = EnsembleSpec("both", members=("one", "two@1"))
    async with runs(fake("one", label="cat"), fake("two", label="dog"), ensemble) as engine:
        output = await engine.ask(question("what?", model="both"))
        pieces, streamed = await collected(engine.stream(question("what?", model="both")))
        info = engine.describe("both")

    assert [(one.label, one.model_dump()["member"]) for one in output.predictions] == [("cat", "one"), ("dog", "two@1")]
    assert output.text == "1 frames, asked: what?\n1 frames, asked: what?"
    assert (output.model, output.version) == ("both", "1")
    assert [member["model"] for member in output.extra["members"]] == ["one@1", "two@1"]
    assert pieces == [Piece(output.text, 0)]
    assert streamed.text == output.text
    assert (info.state, info.model_type, info.info["members"]) == (ModelState.READY, "ensemble", ["one", "two@1"])


async def test_a_member_that_fails_is_told_and_the_others_answer(runs: Runs) -> None:
    ensemble = EnsembleSpec("both", members=("one", "two"))
    async with runs(fake("one"), fake("two", load_error="no weights"), ensemble, is_awaited=False) as engine:
        assert not await engine.wait_ready(60.0)
        output = await engine.ask(question(model="both"))

        assert [one.model_dump()["member"] for one in output.predictions] == ["one"]
        assert output.extra["members"][1]["name"] == "two"
        assert "no weights" in output.extra["members"][1]["error"]
        assert engine.describe("both").state is ModelState.DEGRADED
        with pytest.raises(ModelError, match="asked to fail"):
            await engine.ask(question("fail", model="both"))


GATE = Gate("eye", then="tongue", labels=("Cat",), min_count=1, threshold=0.4, prompt="look")


@pytest.mark.parametrize(
    ("changes", "passes"),
    [({}, True), ({"labels": ("dog",)}, False), ({"min_count": 2}, False), ({"threshold": 0.6}, False)],
)
async def test_a_gate_decides_who_is_asked(runs: Runs, changes: dict[str, Any], passes: bool) -> None:
    ensemble = EnsembleSpec("guard", gate=replace(GATE, **changes))
    async with runs(fake("eye", label="cat"), fake("tongue", tokens=4), ensemble) as engine:
        output = await engine.ask(question("tell", model="guard"))
        pieces, streamed = await collected(engine.stream(question("tell", model="guard")))
        asked = engine.describe("tongue").statistics["questions"]["answered"]

    told = output.extra["gate"]
    assert (told["passed"], told["model"]) == (passes, "eye@1")
    assert output.predictions[0].label == "cat"
    assert asked == (2 if passes else 0)
    if passes:
        assert output.text == streamed.text == "".join(piece.text for piece in pieces) == "word0 word1 word2 word3 "
        assert sum(piece.count for piece in pieces) == 4
        assert told["then"] == "tongue@1"
    else:
        assert output.text == "1 frames, asked: look"


async def test_an_ensemble_keeps_deadlines_places_and_cancelling(runs: Runs) -> None:
    ensembles = EnsembleSpec("both", members=("one", "two")), EnsembleSpec("guard", gate=Gate("one", then="two"))
    slow = fake("one", latency_ms=60_000.0, max_batch=1), fake("two", latency_ms=1.0)
    async with runs(*slow, *ensembles, max_queue=3) as engine:
        for name in ("both", "guard"):
            now_s = time.monotonic()
            # The member that answers in time is told beside the one that does not; a gate is waited for.
            soon = engine.ask(question(model=name, deadline_monotonic_s=now_s + 1.0, priority=Priority.HIGH))
            if name == "guard":
                with pytest.raises(DeadlineExceeded):
                    await soon
            else:
                assert (await soon).extra["members"][1]["code"] == "deadline_exceeded"
            places = [engine.reserve(name, Priority.HIGH) for _ in range(3)]
            with pytest.raises(QueueFull):
                engine.reserve(name, Priority.HIGH)
            asking = [asyncio.create_task(engine.ask(question(model=name), place)) for place in places]
            await asyncio.sleep(0.05)
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)
            assert engine.describe("one").queued == 0


@pytest.mark.parametrize("is_heard", [False, True])
async def test_a_gate_is_not_asked_for_what_the_model_behind_it_cannot_take(runs: Runs, is_heard: bool) -> None:
    guard = EnsembleSpec("guard", gate=Gate("eye", then="tongue"))
    async with runs(fake("eye"), fake("tongue"), guard, max_queue=2) as engine:
        # Given a model behind a gate whose queue is full
        waiting = [engine.reserve("tongue", Priority.HIGH) for _ in range(2)]

        # When the ensemble is asked, then it refuses at once
        asked = question(model="guard", priority=Priority.HIGH)
        with pytest.raises(QueueFull):
            await (collected(engine.stream(asked)) if is_heard else engine.ask(asked))
        with pytest.raises(QueueFull):
            engine.reserve("guard", Priority.HIGH)

        # And the gate has done nothing for it, nor is a place kept there
        assert engine.describe("eye").statistics["calls"] == 0
        for place in [*waiting, *(engine.reserve("eye", Priority.HIGH) for _ in range(2))]:
            place.release()

        # And when there is room it is answered
        assert (await engine.ask(asked)).extra["gate"]["passed"]


async def test_a_gate_that_does_not_let_pass_gives_back_the_place_behind_it(runs: Runs) -> None:
    guard = EnsembleSpec("guard", gate=Gate("eye", then="tongue", labels=("dog",)))
    async with runs(fake("eye", label="cat"), fake("tongue"), guard, max_queue=2) as engine:
        for _ in range(3):
            kept = engine.reserve("guard", Priority.HIGH)
            assert not (await engine.ask(question(model="guard"), kept)).extra["gate"]["passed"]
            assert not (await engine.ask(question(model="guard"))).extra["gate"]["passed"]

        assert [engine.reserve("tongue", Priority.HIGH) for _ in range(2)]


async def test_members_that_take_no_more_do_not_keep_the_others_from_answering(runs: Runs) -> None:
    both = EnsembleSpec("both", members=("one", "two"))
    async with runs(fake("one"), fake("two"), both, max_queue=1) as engine:
        full = engine.reserve("two", Priority.HIGH)

        kept = engine.reserve("both", Priority.HIGH)
        output = await engine.ask(question(model="both"), kept)

        assert [member.get("code") for member in output.extra["members"]] == [None, "queue_full"]
        with pytest.raises(QueueFull):
            kept = engine.reserve("one", Priority.HIGH), engine.reserve("both", Priority.HIGH)
        full.release()


@pytest.mark.parametrize(
    "ensembles",
    [
        [EnsembleSpec("a", members=("nobody",))],
        [EnsembleSpec("a")],
        [EnsembleSpec("a", members=("fake",), gate=Gate("fake", then="fake"))],
        [EnsembleSpec("fake", members=("fake",))],
        [EnsembleSpec("a", members=("fake@2",))],
        [EnsembleSpec("a", members=("b",)), EnsembleSpec("b", members=("a", "fake"))],
        [EnsembleSpec("a", members=("a",))],
        [EnsembleSpec("a", members=("fake",)), EnsembleSpec("a", members=("fake",))],
    ],
    ids=["unknown", "empty", "both kinds", "taken", "no such version", "circle", "itself", "twice"],
)
async def test_an_ensemble_that_can_never_answer_is_refused_at_the_start(runs: Runs, ensembles: Any) -> None:
    with pytest.raises(ConfigurationError, match="ensemble"):
        async with runs(fake(), *ensembles):
            pass


async def test_an_ensemble_of_ensembles_answers(runs: Runs) -> None:
    pair = EnsembleSpec("pair", members=("one", "two"))
    guard = EnsembleSpec("guard", gate=Gate("pair", then="one"))
    async with runs(fake("one", label="a"), fake("two", label="b"), pair, guard) as engine:
        output = await engine.ask(question(model="guard"))

    assert [one.model_dump()["member"] for one in output.predictions] == ["one", "two", "one"]


async def test_what_an_ensemble_needs_is_not_unloaded(runs: Runs) -> None:
    ensembles = EnsembleSpec("any", members=("one", "other")), EnsembleSpec("exact", members=("one@1",))
    async with runs(fake("other"), fake("one"), *ensembles) as engine:
        await engine.load_model(fake("one", version="2"), keep_previous=True)
        with pytest.raises(Conflict, match="exact needs one@1"):
            await engine.unload_model("one", "1")
        with pytest.raises(Conflict, match="exact needs one@1"):
            await engine.load_model(fake("one", version="3"))
        await engine.unload_model("one", "2")
        with pytest.raises(Conflict):
            await engine.unload_model("one", "1")
        for name in ("any", "exact"):
            with pytest.raises(Conflict):
                await engine.load_model(fake(name, version="2"))
        assert (await engine.ask(question(model="any"))).model == "any"
