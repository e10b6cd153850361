"""A real language model, SmolLM2-135M-Instruct as GGUF, in a replica process, asked as jobs and clients ask it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from freeroam.engines.embedded import EmbeddedEngine, ModelSpec
from freeroam.vocabulary.errors import InvalidInput
from freeroam.vocabulary.inference import FinishReason, InferenceParams, InferenceRequest, Output, Piece
from freeroam.vocabulary.model import ModelState
from tests.engines import question, running
from tests.tiny_language_models import require, smollm2
from tests.waiting import until

require("torch", "transformers", "gguf")
WEIGHTS = smollm2()

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

FRANCE = "What is the capital of France?"
QUESTIONS = (FRANCE, "Name three colours.", "Who wrote Hamlet?", "How many legs has a spider?")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[EmbeddedEngine]:
    spec = ModelSpec(
        "text",
        model_type="transformers_text",
        model_path=str(WEIGHTS),
        device="cpu",
        max_batch=4,
        max_batch_wait_ms=0.0,
        options={"threads": 1},
    )
    async with running(spec) as engine:
        yield engine


def request(prompt: str, *, wants_pieces: bool = False, **params: Any) -> InferenceRequest:
    tuned = InferenceParams(**{"max_tokens": 12, **params})
    return question(prompt, "text", frames=(), params=tuned, wants_pieces=wants_pieces)


async def ask(engine: EmbeddedEngine, prompt: str, **params: Any) -> Output:
    return await engine.ask(request(prompt, **params))


async def test_bars_stay_out_of_the_log_and_warnings_do_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    chatty = ModelSpec("m", model_type="tests.integration.engines.user_models:Chatty")
    async with running(chatty):
        await until(lambda: "half of it is missing" in caplog.text)

    assert "child_output" in caplog.text
    assert "Loading" not in caplog.text


async def test_it_says_what_it_is(engine: EmbeddedEngine) -> None:
    model = engine.describe("text")

    assert model.state is ModelState.READY
    assert model.wishes.streams_text
    assert (model.info["architecture"], model.info["parameters"]) == ("LlamaForCausalLM", 134_515_008)
    assert model.info["decodes_together"] is True
    assert model.info["context_tokens"] == 8192


async def test_a_question_is_answered_in_the_models_own_chat_template(engine: EmbeddedEngine) -> None:
    output = await ask(engine, FRANCE)

    assert output.text == "The capital of France is Paris."
    assert output.finish_reason is FinishReason.STOP
    # The mark that ends the answer is a token too.
    assert (output.prompt_tokens, output.completion_tokens) == (37, 8)


async def test_a_conversation_is_remembered(engine: EmbeddedEngine) -> None:
    turns = [
        {"role": "user", "content": FRANCE},
        {"role": "assistant", "content": "The capital of France is Paris."},
        {"role": "user", "content": "And of Italy?"},
    ]

    output = await ask(engine, "not read", messages=turns)

    assert output.text == "The capital of Italy is Rome."


async def test_a_text_is_gone_on_with(engine: EmbeddedEngine) -> None:
    output = await ask(engine, "The capital of France is", chat=False, max_tokens=1)

    assert output.text == " Paris"
    assert output.prompt_tokens == 5


async def test_answers_asked_for_at_once_are_those_asked_for_one_by_one(engine: EmbeddedEngine) -> None:
    alone = [(await ask(engine, text, max_tokens=8)).text for text in QUESTIONS]

    together = await asyncio.gather(*(ask(engine, text, max_tokens=8) for text in QUESTIONS * 2))

    assert [output.text for output in together] == alone * 2
    assert max(output.batch_size for output in together) > 1


async def test_what_is_streamed_is_the_whole_text(engine: EmbeddedEngine) -> None:
    whole = await ask(engine, QUESTIONS[1], max_tokens=20)

    items = [item async for item in engine.stream(request(QUESTIONS[1], max_tokens=20, wants_pieces=True))]

    *pieces, output = items
    assert all(isinstance(piece, Piece) for piece in pieces)
    assert "".join(piece.text for piece in pieces) == output.text == whole.text
    assert sum(piece.count for piece in pieces) == output.completion_tokens == whole.completion_tokens


async def test_a_late_question_is_answered_while_others_are_spoken_on(engine: EmbeddedEngine) -> None:
    # Given a long answer in its midst
    spoken: list[int] = []

    async def listen() -> None:
        async for item in engine.stream(request("Write a long story.", max_tokens=4000, wants_pieces=True)):
            if isinstance(item, Piece):
                spoken.append(item.index + item.count)

    listener = asyncio.create_task(listen())
    await until(lambda: len(spoken) > 2)

    # When a question comes late
    output = await ask(engine, FRANCE)

    # Then it is over, the long one is not, and when nobody listens to that one any more its place is free
    assert output.text == "The capital of France is Paris."
    assert not listener.done()
    listener.cancel()
    await asyncio.gather(listener, return_exceptions=True)
    again = await asyncio.gather(*(ask(engine, FRANCE) for _ in range(4)))
    assert {one.text for one in again} == {output.text}


async def test_characters_of_many_bytes_come_whole(engine: EmbeddedEngine) -> None:
    prompt = "Repeat: \U0001f600 \u65e5\u672c\u8a9e \U0001f600 \u65e5\u672c\u8a9e"

    items = [item async for item in engine.stream(request(prompt, max_tokens=24, wants_pieces=True))]

    text = items[-1].text
    assert any(ord(character) > 0x2000 for character in text)
    assert "\ufffd" not in "".join(piece.text for piece in items[:-1])


async def test_stop_texts_seeds_and_choices_are_honoured(engine: EmbeddedEngine) -> None:
    cut = await ask(engine, FRANCE, stop=[" is Par"])
    drawn = await asyncio.gather(
        *(ask(engine, "Tell a story.", temperature=1.0, top_p=0.9, seed=seed, max_tokens=10) for seed in (1, 2, 1))
    )
    chosen = await ask(engine, "Which animal says meow?", choices=["a dog", "a cat", "a fish"])

    assert (cut.text, cut.finish_reason) == ("The capital of France", FinishReason.STOP)
    assert drawn[0].text == drawn[2].text != drawn[1].text
    assert {output.finish_reason for output in drawn} == {FinishReason.LENGTH}
    assert chosen.text == "a cat"
    assert set(chosen.extra["choices"]) == {"a dog", "a cat", "a fish"}


async def test_a_question_that_cannot_be_put_is_the_askers_error(engine: EmbeddedEngine) -> None:
    with pytest.raises(InvalidInput, match="the model reads 8192"):
        await ask(engine, "x " * 9000)
    with pytest.raises(InvalidInput, match="text only"):
        await engine.ask(question("what", "text"))

    assert (await ask(engine, FRANCE)).text == "The capital of France is Paris."
