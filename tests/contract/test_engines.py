"""What every engine promises, wherever its models run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from freeroam.engines.engine import Engine
from freeroam.vocabulary.errors import (
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
        waiting = asyncio.create_task(engine.ask(question()))

        assert not await engine.wait_ready(60.0)
        with pytest.raises(ModelNotReady, match="no such weights"):
            await waiting
        with pytest.raises(ModelNotReady) as caught:
            await engine.ask(question())
        info = engine.describe()

    assert caught.value.retry_after_s > 0
    assert info.state is ModelState.FAILED
    assert "no such weights" in (info.error or "")


async def test_a_question_waits_for_a_model_that_is_loading(runs: Runs) -> None:
    async with runs(fake(load_ms=300.0), is_awaited=False) as engine:
        assert engine.describe().state is ModelState.LOADING
        assert not await engine.wait_ready(0.0)

        output = await engine.ask(question())

    assert output.predictions


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
