"""The official OpenAI client, unchanged, against the real service."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from enum import Enum
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from tests.integration.doors.conftest import SEER, SPEAKER, Doors

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def client(doors: Doors) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{doors.service.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
async def patient(doors: Doors) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{doors.service.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def user(text: str, *urls: str) -> list[Any]:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": text}]}]


def test_models_are_listed_and_described(client: openai.OpenAI) -> None:
    # Given two models, when they are listed, then both are there; one is described, an unknown one is a 404
    assert {model.id for model in client.models.list()} == {SPEAKER, SEER}
    assert client.models.retrieve(f"{SPEAKER}@1").id == f"{SPEAKER}@1"
    with pytest.raises(openai.NotFoundError) as refusal:
        client.models.retrieve("nobody")
    assert (refusal.value.code, refusal.value.type) == ("model_not_found", "invalid_request_error")


def test_a_whole_answer_has_text_reason_and_usage(client: openai.OpenAI) -> None:
    # Given a question, when it is answered whole, then what the client reads is all there
    answer = client.chat.completions.create(model=SPEAKER, messages=user("count 6"), max_tokens=4)
    assert answer.choices[0].message.content == "word0 word1 word2 word3 "
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (7, 4, 11)
    assert answer.system_fingerprint == f"{SPEAKER}@1"


def test_the_conversation_its_picture_and_the_tuning_reach_the_model(client: openai.OpenAI, data_url: str) -> None:
    # Given a conversation with a picture and every parameter that is honoured
    messages: list[Any] = [
        {"role": "system", "content": "be brief"},
        *user("one", data_url),
        {"role": "assistant", "content": "1"},
        *user("echo two", data_url),
    ]
    answer = client.chat.completions.create(
        model=SPEAKER,
        messages=messages,
        max_completion_tokens=9,
        temperature=0.5,
        top_p=0.75,
        stop=["x", "y"],
        seed=3,
        user="somebody",
        n=1,
    )

    # Then the model was asked with all of it
    asked = json.loads(answer.choices[0].message.content or "")
    assert asked["prompt"] == "echo two"
    assert asked["shapes"] == [[12, 16, 3]] * 2
    turns = [(turn["role"], turn["content"]) for turn in asked["params"].pop("messages")]
    assert turns == [("system", "be brief"), ("user", "one"), ("assistant", "1"), ("user", "echo two")]
    assert asked["params"] == {"max_tokens": 9, "temperature": 0.5, "top_p": 0.75, "stop": ["x", "y"], "seed": 3}


def test_a_stream_says_the_same_piece_by_piece(client: openai.OpenAI) -> None:
    # Given a stream with its usage
    chunks = list(
        client.chat.completions.create(
            model=SPEAKER, messages=user("count 6"), stream=True, stream_options={"include_usage": True}
        )
    )

    # Then it begins with who speaks, gives every word once, and ends with reason and usage
    assert chunks[0].choices[0].delta.role == "assistant"
    said = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(said) == "".join(f"word{index} " for index in range(6))
    assert len([text for text in said if text]) > 1
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 6


async def test_the_asynchronous_client_streams_too(patient: openai.AsyncOpenAI) -> None:
    # Given the asynchronous client, when it streams and when it does not, then it hears the same
    stream = await patient.chat.completions.create(model=SPEAKER, messages=user("count 4"), stream=True)
    said = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    whole = await patient.chat.completions.create(model=SPEAKER, messages=user("count 4"))
    assert said == whole.choices[0].message.content == "word0 word1 word2 word3 "


def test_completions_continue_a_text(client: openai.OpenAI) -> None:
    # Given a text, when it is continued whole and in chunks, then both are the same
    whole = client.completions.create(model=SPEAKER, prompt="count 3")
    chunks = list(client.completions.create(model=SPEAKER, prompt="count 3", stream=True))
    assert whole.choices[0].text == "".join(chunk.choices[0].text for chunk in chunks) == "word0 word1 word2 "
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_a_stream_that_is_closed_early_frees_its_place(client: openai.OpenAI, doors: Doors) -> None:
    # Given a stream that would go on for minutes
    doors.service.wait(doors.is_at_rest)
    before = doors.cancelled()
    stream = client.chat.completions.create(model=SPEAKER, messages=user("count 20000"), max_tokens=4000, stream=True)
    heard = [next(iter(stream)) for _ in range(3)]

    # When the client closes it, then nothing of it is left long before it would have ended
    stream.close()
    doors.service.wait(doors.is_at_rest, limit_s=20)
    assert len(heard) == 3
    assert doors.cancelled() == before + 1


def test_a_detector_answers_by_its_sentence_and_its_predictions(client: openai.OpenAI, data_url: str) -> None:
    # Given a model that sees and does not speak
    answer: Any = client.chat.completions.create(model=SEER, messages=user("what is there", data_url))
    chunks: list[Any] = list(client.chat.completions.create(model=SEER, messages=user("what", data_url), stream=True))

    # Then its sentence is the content, and what it saw a field of its own, in the last chunk of a stream
    assert answer.choices[0].message.content == "1 frames, asked: what is there"
    assert answer.predictions[0]["bbox"] == [0.0, 0.0, 16.0, 12.0]
    assert chunks[-1].predictions[0]["label"] == "thing"

    # And as a JSON object it is all data
    data = client.chat.completions.create(
        model=SEER, messages=user("what", data_url), response_format={"type": "json_object"}
    )
    assert json.loads(data.choices[0].message.content or "")["predictions"][0]["label"] == "thing"


class Colour(Enum):
    RED = "red"
    GREEN = "green"


class Light(BaseModel):
    colour: Colour
    is_on: bool


def test_a_schema_of_few_answers_is_parsed_by_the_client(client: openai.OpenAI) -> None:
    # Given a class of few values, when the client parses an answer into it, then it is one of them, streamed too
    answer = client.chat.completions.parse(model=SPEAKER, messages=user("choose"), response_format=Light)
    assert answer.choices[0].message.parsed == Light(colour=Colour.RED, is_on=True)
    with client.chat.completions.stream(model=SPEAKER, messages=user("choose"), response_format=Light) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == Light(colour=Colour.RED, is_on=True)


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(
    ("wish", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"temperature": 3}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x" * 2_000_000}, *user("count 1")]}, "messages"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"const": "x" * 5000}}}}, "choices.0"),
        ({"messages": user("what", "data:image/png;base64,no picture")}, None),
        ({"messages": user("what", "http://example.org/cat.png")}, None),
        ({"messages": user("what", *["data:image/png;base64,AAAA"] * 17)}, None),
        ({"max_tokens": 10**6}, None),
        ({"extra_body": {"priority": "URGENT"}}, None),
        ({"extra_headers": {"X-Request-Timeout-Ms": "soon"}}, None),
    ],
)
def test_what_cannot_be_is_a_400_that_names_it(
    client: openai.OpenAI, wish: dict[str, Any], param: str | None, is_streamed: bool
) -> None:
    # Given a wish that cannot be met, when it is sent, also for a stream, then the status says so before anything
    body: dict[str, Any] = {"model": SPEAKER, "messages": user("count 3"), "stream": is_streamed, **wish}
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(**body)
    assert refusal.value.param == param
    assert refusal.value.type == "invalid_request_error"


def test_bytes_that_are_no_picture_are_a_415(client: openai.OpenAI) -> None:
    # Given base64 of something else, when it is sent, then the status is that of an unknown form
    with pytest.raises(openai.APIStatusError) as refusal:
        client.chat.completions.create(model=SEER, messages=user("what", "data:image/png;base64,AAAA"))
    assert refusal.value.status_code == 415


def test_an_error_after_the_first_chunk_is_raised_by_the_client(client: openai.OpenAI, doors: Doors) -> None:
    # Given a model that breaks after three words, when it is streamed, then those are heard and then the error
    said: list[str] = []
    stream = client.chat.completions.create(model=SPEAKER, messages=user("break 9"), stream=True)
    with pytest.raises(openai.APIError, match="broke"):
        said.extend(chunk.choices[0].delta.content or "" for chunk in stream)
    assert "".join(said).startswith("word0 ")

    # And before the first chunk, and whole, it is a status
    with pytest.raises(openai.InternalServerError) as failure:
        client.chat.completions.create(model=SPEAKER, messages=user("break 9"))
    assert failure.value.code == "model_failed"
    doors.service.wait(doors.is_at_rest)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b'{"model": "Speaker", "messages": "hello"}',
        b'{"model": "Speaker", "messages": [{"role": "user", "content": {"type": "text"}}]}',
        b'{"model": "Speaker", "messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"model": "Speaker", "messages": [{"role": "user", "content": "q"}], "temperature": NaN}',
        b'{"model": "Speaker", "messages": [{"role": "user", "content": "q"}], "temperature": 1e400}',
        b'{"model": "\\u0000", "messages": [{"role": "user", "content": "q"}]}',
        b'{"model": "Speaker", "messages": ' + b"[" * 5000,
    ],
)
def test_a_body_that_is_none_is_a_4xx_in_openais_shape(doors: Doors, body: bytes) -> None:
    # Given a hostile body, when it is posted, then the answer is a refusal in the door's shape
    answer = doors.service.client.post(
        "/v1/chat/completions", content=body, headers={"content-type": "application/json"}
    )
    assert 400 <= answer.status_code < 500, answer.text
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert httpx.get(f"{doors.service.url}/health/live").status_code == 200
