"""OpenAI's words: conversations, formats that can be promised, chunks, and the shape of errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from freeroam.api.openai.answers import Chunks, chat_completion
from freeroam.api.openai.bodies import ChatBody, CompletionBody, Message
from freeroam.api.openai.conversation import read_conversation
from freeroam.api.openai.formats import FREE, AnswerFormat, read_format
from freeroam.api.shapes import error_body
from freeroam.vocabulary.errors import InvalidInput, ModelError
from freeroam.vocabulary.inference import FinishReason, Output, Piece, Prediction
from freeroam.vocabulary.model import ModelInfo, ModelState, ModelWishes

USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}


def info(*, speaks: bool) -> ModelInfo:
    wishes = ModelWishes(streams_text=speaks)
    return ModelInfo(name="m", version="1", model_type="fake", state=ModelState.READY, device="cpu", wishes=wishes)


def output(text: str | None = "yes", **more: Any) -> Output:
    more.setdefault("predictions", [])
    return Output(text=text, confidence=[], extra={}, model="m", version="1", model_type="fake", device="cpu", **more)


def talk(*messages: dict[str, Any]) -> Any:
    return read_conversation([Message.model_validate(message) for message in messages], 100)


def schema(inner: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": inner}}


def test_the_last_text_of_the_user_is_the_question() -> None:
    # Given a conversation with pictures
    read = talk(
        {"role": "developer", "content": "be brief"},
        {
            "role": "user",
            "content": [{"type": "image_url", "image_url": {"url": "data:a"}}, {"type": "text", "text": "one"}],
        },
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "text", "text": "three"}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:b", "detail": "low"}}]},
    )

    # Then every turn is there as text, and the pictures in order
    assert [turn["role"] for turn in read.turns] == ["system", "user", "assistant", "user", "user"]
    assert read.prompt == "two\nthree"
    assert read.images == ("data:a", "data:b")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x"}, "messages.0.role"),
        ({"role": "user", "content": None}, "messages.0.content"),
        ({"role": "user", "content": ""}, "messages"),
        ({"role": "assistant", "content": "x"}, "messages"),
        ({"role": "user", "content": "x" * 101}, "messages"),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "messages.0.content.0"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages.0.content.0"),
    ],
)
def test_what_cannot_be_put_to_a_model_is_refused_by_its_place(message: dict[str, Any], param: str) -> None:
    # Given a message that no model here understands, when it is read, then the refusal names the place
    with pytest.raises(InvalidInput) as refusal:
        talk(message)
    assert refusal.value.detail["problems"][0]["field"] == param


@pytest.mark.parametrize(
    ("inner", "texts"),
    [
        ({"enum": ["red", "green"]}, ['"red"', '"green"']),
        ({"const": 3}, ["3"]),
        ({"type": "boolean"}, ["true", "false"]),
        ({"type": "integer", "minimum": 1, "maximum": 3}, ["1", "2", "3"]),
        ({"anyOf": [{"type": "null"}, {"enum": ["a"]}]}, ["null", '"a"']),
        (
            {
                "$defs": {"C": {"enum": ["r"]}},
                "type": "object",
                "properties": {"c": {"$ref": "#/$defs/C"}},
                "required": ["c"],
            },
            ['{"c": "r"}'],
        ),
    ],
)
def test_a_schema_of_few_answers_becomes_choices(inner: Any, texts: list[str]) -> None:
    # Given a schema that allows a few answers, when it is read, then the model chooses among them
    assert list(read_format(schema(inner), info(speaks=True)).choices) == texts


@pytest.mark.parametrize(
    "wanted",
    [
        schema({"type": "string"}),
        schema({"type": "object", "properties": {"a": {"enum": [1]}}}),
        schema({"type": "integer", "minimum": 0, "maximum": 10**12}),
        schema({"enum": list(range(65))}),
        schema({"$ref": "#"}),
        schema({"$ref": "#/$defs/none"}),
        schema({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 20}}}),
        schema({"type": "object", "properties": {"a": {"enum": [1]}}, "required": 5}),
        schema({"type": "object", "properties": {"a": {"enum": [1]}}, "required": [["a"]]}),
        schema([]),
        {"type": "json_schema"},
        {"type": "json_schema", "json_schema": 3},
        {"type": "json_object"},
        {"type": "xml"},
        {"type": 3},
    ],
)
def test_a_format_that_cannot_be_promised_is_refused(wanted: Any) -> None:
    # Given a language model and a format that it might break, when it is asked for, then it is refused
    with pytest.raises(InvalidInput) as refusal:
        read_format(wanted, info(speaks=True))
    assert refusal.value.detail["problems"][0]["field"] == "response_format"


def test_a_detector_gives_its_data_as_a_json_object() -> None:
    # Given a model that does not speak, when a JSON object is wanted, then what it saw is one
    answer_format = read_format({"type": "json_object"}, info(speaks=False))
    seen = output(predictions=[Prediction(label="cat", confidence=0.5, bbox=[1, 2, 3, 4])])
    content = chat_completion("1", 0, seen, USAGE, answer_format)["choices"][0]["message"]["content"]
    assert json.loads(content)["predictions"][0]["label"] == "cat"


def test_a_model_that_does_not_choose_is_found_out() -> None:
    # Given choices and an answer that is none of them, when the content is made, then it is refused, whole or in chunks
    choosing = AnswerFormat(choices=("true", "false"))
    assert choosing.content_of(output(" true\n")) == "true"
    with pytest.raises(InvalidInput):
        choosing.content_of(output("maybe"))
    chunks = Chunks("1", 0, "m", is_chat=True, wants_usage=False, answer_format=choosing)
    assert chunks.piece(Piece("may", 0)) == b""
    assert b"error" in chunks.end(output("maybe"), USAGE)


def events(data: bytes) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in data.decode().split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def test_chunks_tell_who_speaks_what_is_said_why_it_ended_and_what_it_cost() -> None:
    # Given a stream with its usage
    chunks = Chunks("1", 7, "m", is_chat=True, wants_usage=True)
    ended = output(finish_reason=FinishReason.LENGTH, predictions=[Prediction(label="cat", confidence=0.5)])
    told = events(chunks.begin() + chunks.piece(Piece("He\ud800", 0)) + chunks.end(ended, USAGE))

    # Then the chunks come in that order, and the end mark last
    first, said, last, usage, mark = told
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert said["choices"][0]["delta"] == {"content": "He?"}
    assert last["choices"][0]["finish_reason"] == "length"
    assert last["predictions"][0]["label"] == "cat"
    assert (usage["choices"], usage["usage"], mark) == ([], USAGE, "[DONE]")
    assert all(chunk["usage"] is None for chunk in (first, said, last))


def test_an_error_after_the_first_chunk_is_a_chunk() -> None:
    # Given a stream that breaks off, when it is told, then clients find an error in OpenAI's shape
    chunks = Chunks("1", 7, "m", is_chat=False, wants_usage=False, answer_format=FREE)
    error, mark = events(chunks.error(ModelError("it broke"), USAGE))
    assert error["error"] == {"message": "it broke", "type": "server_error", "param": None, "code": "model_failed"}
    assert mark == "[DONE]"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/v1/models",
            {"error": {"message": "no", "type": "authentication_error", "param": None, "code": "invalid_api_key"}},
        ),
        ("/v2", {"error": "no"}),
        ("/v2/models/x", {"error": "no"}),
        ("/v10/models", {"error": "no", "detail": {"code": "unauthenticated"}}),
        ("/infer", {"error": "no", "detail": {"code": "unauthenticated"}}),
    ],
)
def test_every_door_tells_errors_in_its_own_shape(path: str, body: dict[str, Any]) -> None:
    # Given one error, when it is told at a door, then it has that door's shape
    assert error_body(path, 401, "no", {"code": "unauthenticated"}) == body


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"functions": [{}]}, "functions"),
        ({"modalities": ["text", "audio"]}, "modalities"),
    ],
)
def test_what_would_change_the_form_of_an_answer_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    # Given a wish that cannot be met, when it is read, then the refusal names the field
    wish = ChatBody.model_validate({"model": "m", "messages": [{"role": "user", "content": "q"}], **body})
    with pytest.raises(InvalidInput) as refusal:
        wish.refuse_what_is_not_offered()
    assert refusal.value.detail["problems"][0]["field"] == param


def test_what_only_tunes_is_passed_over() -> None:
    # Given fields that are not known here, when they are read, then nothing happens, and the newer limit wins
    wish = ChatBody.model_validate(
        {"model": "m", "messages": [{"role": "user", "content": "q"}], "frequency_penalty": 1, "store": True}
        | {"max_tokens": 5, "max_completion_tokens": 7, "stop": "x", "tools": []}
    )
    wish.refuse_what_is_not_offered()
    assert wish.tuning() == {"max_tokens": 7, "stop": ["x"]}


@pytest.mark.parametrize("prompt", [[1, 2], ["a", "b"], [[1]], []])
def test_a_completion_is_of_one_text(prompt: Any) -> None:
    # Given several texts, or numbers of tokens, when they are read, then they are refused
    with pytest.raises(InvalidInput):
        CompletionBody.model_validate({"model": "m", "prompt": prompt}).text()
