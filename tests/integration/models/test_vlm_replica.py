"""Vision-language models in replica processes of their own, asked through the engine as jobs and clients ask them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freeroam.engines.embedded import EmbeddedEngine, ModelSpec
from freeroam.vocabulary.errors import InvalidInput
from freeroam.vocabulary.frame import Frame
from freeroam.vocabulary.inference import FinishReason, InferenceParams, Output, Piece
from freeroam.vocabulary.model import ModelState
from tests.engines import frame_of, question, running
from tests.tiny_vlms import KINDS, make_vlm
from tests.waiting import until

ENDLESS = 3500
"""Tokens of an answer that is still being spoken when its test is over."""


@pytest.fixture(scope="module", params=KINDS)
def spec(request, tmp_path_factory) -> ModelSpec:
    return spec_of(make_vlm(request.param, tmp_path_factory.mktemp("vlm") / request.param))


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> ModelSpec:
    return spec_of(make_vlm("llava", tmp_path_factory.mktemp("vlm") / "llava"))


def spec_of(folder: Path, **more: Any) -> ModelSpec:
    options = {"threads": 1, **more.pop("options", {})}
    return ModelSpec(
        "vlm", model_type="transformers_vlm", model_path=str(folder), device="cpu", options=options, **more
    )


def frame(seed: int, height_px: int = 60, width_px: int = 100) -> Frame:
    return frame_of(np.random.default_rng(seed).integers(0, 255, (height_px, width_px, 3), np.uint8))


async def ask(engine: EmbeddedEngine, prompt: str, *frames: Frame, **params: Any) -> Output:
    params.setdefault("max_tokens", 12)
    return await engine.ask(question(prompt, "vlm", frames=frames, params=InferenceParams(**params)))


async def test_a_model_answers_about_one_frame_several_and_none(spec: ModelSpec) -> None:
    async with running(spec) as engine:
        info = engine.describe("vlm")
        one = await ask(engine, "what", frame(1))
        several = await ask(engine, "what", frame(1), frame(2), frame(3))
        none = await ask(engine, "what")

    assert info.state is ModelState.READY
    assert info.wishes.streams_text
    assert info.wishes.width_px
    assert info.info["device"] == info.device == "cpu"
    assert info.info["parameters"] > 50_000
    assert len({one.text, several.text, none.text}) == 3
    assert none.prompt_tokens < min(one.prompt_tokens, several.prompt_tokens)
    for output in (one, several, none):
        assert output.completion_tokens == 12
        assert output.finish_reason is FinishReason.LENGTH
        assert output.predictions == []


async def test_answers_asked_for_at_once_are_those_asked_for_one_by_one(spec: ModelSpec) -> None:
    asked = [
        ("what", frame(1)),
        ("and this", frame(2, 150, 40), frame(3)),
        ("text alone",),
        ("x" * 60, frame(4, 40, 40)),
    ]
    lengths = [30, 7, 19, 3]
    async with running(spec) as engine:
        alone = [(await ask(engine, *one, max_tokens=most)).text for one, most in zip(asked, lengths, strict=True)]
        together = await asyncio.gather(
            *(ask(engine, *one, max_tokens=most) for one, most in zip(asked * 3, lengths * 3, strict=True))
        )

    assert [output.text for output in together] == alone * 3
    assert max(output.batch_size for output in together) > 1


async def test_what_is_streamed_is_the_whole_text(llava: ModelSpec) -> None:
    asked = question("what", "vlm", frames=(frame(1),), params=InferenceParams(max_tokens=40), wants_pieces=True)
    async with running(llava) as engine:
        whole = await ask(engine, "what", frame(1), max_tokens=40)
        items = [item async for item in engine.stream(asked)]

    *pieces, output = items
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert "".join(piece.text for piece in pieces) == output.text == whole.text
    assert [piece.index for piece in pieces] == [
        sum(earlier.count for earlier in pieces[:number]) for number in range(len(pieces))
    ]
    assert sum(piece.count for piece in pieces) == output.completion_tokens == 40


async def test_a_client_that_goes_away_frees_its_place_among_the_answers(llava: ModelSpec) -> None:
    async with running(spec_of(Path(llava.model_path), options={"max_batch": 2})) as engine:
        spoken = [0, 0]

        async def listen(number: int) -> None:
            params = InferenceParams(max_tokens=ENDLESS)
            endless = question("what", "vlm", frames=(frame(number),), params=params, wants_pieces=True)
            async for item in engine.stream(endless):
                spoken[number] += isinstance(item, Piece)

        listeners = [asyncio.create_task(listen(number)) for number in range(2)]
        await until(lambda: all(spoken))
        waiting = asyncio.create_task(ask(engine, "late", frame(3)))

        listeners[0].cancel()
        output = await waiting

        assert output.completion_tokens == 12
        assert not listeners[1].done()
        listeners[1].cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
        again = await asyncio.gather(*(ask(engine, "late", frame(3)) for _ in range(4)))

    assert {one.text for one in again} == {output.text}


async def test_a_choice_comes_with_the_share_of_each(llava: ModelSpec) -> None:
    async with running(llava) as engine:
        output = await ask(engine, "is it day or night", frame(1), choices=["day", "night"])

    shares = output.extra["choices"]
    assert output.text == max(shares, key=shares.__getitem__)
    assert output.confidence == [max(shares.values())]
    assert sum(shares.values()) == pytest.approx(1.0)


async def test_a_question_that_cannot_be_put_is_refused_alone(llava: ModelSpec) -> None:
    async with running(spec_of(Path(llava.model_path), options={"context": 200})) as engine:
        good, bad = await asyncio.gather(
            ask(engine, "what", frame(1)), ask(engine, "what " * 60, frame(1)), return_exceptions=True
        )

    assert isinstance(good, Output)
    assert isinstance(bad, Exception)
    assert getattr(bad, "code", "") == InvalidInput.default_code
    assert "200" in str(bad)


async def test_a_model_that_is_not_there_fails_with_its_path() -> None:
    spec = spec_of(Path("/nowhere/at/all"))
    async with running(spec, is_awaited=False, max_deaths=1, pause_s=60.0) as engine:
        await until(lambda: engine.describe("vlm").state is ModelState.FAILED)

        assert "MODEL_PATH=/nowhere/at/all" in (engine.describe("vlm").error or "")
