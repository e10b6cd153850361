"""An answer put together from chunks: its text, its stops, its end, its choice."""

from __future__ import annotations

from typing import Any

import pytest

from freeroam.models.openai_answer import Reply, chosen
from freeroam.models.openai_failures import UpstreamError
from freeroam.vocabulary.errors import ModelError
from freeroam.vocabulary.inference import InferenceParams


def chunk(text: str | None = None, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text} if text is not None else {}, "finish_reason": finish}], **more}


def told(*chunks: dict[str, Any], **params: Any) -> tuple[list[str], dict[str, Any], Reply]:
    reply = Reply(InferenceParams(**params), "http://there")
    texts = []
    for one in chunks:
        texts.append(reply.take(one))
        if reply.is_over:
            break
    last, answer = reply.end()
    return [text for text in [*texts, last] if text], answer, reply


def test_text_usage_and_the_reason_of_the_end_are_taken() -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}

    texts, answer, reply = told(
        {"choices": [{"delta": {"role": "assistant"}}]}, chunk("Hel"), chunk("lo"), chunk(finish="length"),
        {"choices": [], "usage": usage},
    )  # fmt: skip

    assert texts == ["Hel", "lo"]
    assert answer == {"text": "Hello", "finish_reason": "length", "prompt_tokens": 7, "completion_tokens": 2}
    assert reply.has_ended


@pytest.mark.parametrize(
    ("reason", "expected"), [("stop", {}), ("content_filter", {"upstream_finish_reason": "content_filter"})]
)
def test_an_end_of_another_kind_is_told_in_the_metadata(reason: str, expected: dict[str, str]) -> None:
    _, answer, _ = told(chunk("x", reason))

    assert answer["finish_reason"] == "stop"
    assert answer.get("metadata", {}) == expected


def test_a_whole_completion_counts_as_one_chunk() -> None:
    texts, answer, _ = told({"choices": [{"message": {"content": "all of it"}, "finish_reason": "stop"}]})

    assert texts == ["all of it"]
    assert answer["text"] == "all of it"


def test_an_answer_without_an_end_is_known() -> None:
    reply = Reply(InferenceParams(), "http://there")
    reply.take(chunk("half an"))

    assert not reply.has_ended


@pytest.mark.parametrize(
    ("pieces", "stop", "expected"),
    [
        (["one END two"], ["END"], "one "),
        (["one E", "N", "D two"], ["END"], "one "),
        (["one E", "N", "X two"], ["END"], "one ENX two"),
        (["a", "b", "c"], ["abc"], ""),
        (["aab"], ["ab"], "a"),
        (["a", "a", "b"], ["ab"], "a"),
        (["x\n", "\ny"], ["\n\n"], "x"),
        (["one E"], ["END"], "one E"),
        (["first STOP", " END"], ["END", "STOP"], "first "),
        (["nothing"], [""], "nothing"),
    ],
)
def test_a_stop_text_ends_the_answer_and_is_never_given_out(pieces: list[str], stop: list[str], expected: str) -> None:
    texts, answer, _ = told(*map(chunk, pieces), stop=stop)

    assert "".join(texts) == expected
    assert answer["text"] == expected
    assert not any(one and one in text for text in texts for one in stop)


@pytest.mark.parametrize(
    ("text", "choices", "expected"),
    [
        ('{"choice": "yes"}', ["yes", "no"], "yes"),
        ('```json\n{ "choice" : "no" }\n```', ["yes", "no"], "no"),
        ('{"answer": "no"}', ["yes", "no"], "no"),
        ('"yes"', ["yes", "no"], "yes"),
        ("yes", ["yes", "no"], "yes"),
        ("  **Yes.** ", ["yes", "no"], "yes"),
        ("Yes, there is no car.", ["yes", "no"], "yes"),
        ("The answer is no.", ["yes", "no"], "no"),
        ("There is no entry sign", ["no", "no entry"], "no entry"),
        ("a", ["A", "a"], "a"),
        ("It may be yes or no", ["yes", "no"], None),
        ("I cannot tell", ["yes", "no"], None),
        ("notable", ["no", "not"], None),
        ("", ["yes", "no"], None),
        ('{"choice": "maybe"}', ["yes", "no"], None),
        ("C++", ["C", "C++"], "C++"),
        ("红色的车", ["红色的车", "车"], "红色的车"),
    ],
)
def test_the_choice_is_found_in_the_text_or_nothing_is(text: str, choices: list[str], expected: str | None) -> None:
    assert chosen(text, choices) == expected


def test_nothing_of_an_answer_with_choices_is_given_out_before_it_is_one() -> None:
    texts, answer, _ = told(chunk('{"cho'), chunk('ice": "no"}'), chunk(finish="stop"), choices=["yes", "no"])

    assert texts == ["no"]
    assert answer["text"] == "no"


def test_an_answer_that_is_none_of_the_choices_is_an_error_that_shows_it() -> None:
    with pytest.raises(ModelError, match='answered "perhaps", which is none of the choices yes, no') as caught:
        told(chunk("perhaps", "stop"), choices=["yes", "no"])

    assert caught.value.code == "no_choice"


@pytest.mark.parametrize(
    "wrong",
    [{"choices": {}}, {"choices": ["x"]}, {"choices": [{"delta": "x"}]}, {"choices": [{"delta": {"content": [1]}}]}],
)
def test_chunks_of_another_shape_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UpstreamError, match="OpenAI API"):
        told(wrong)


@pytest.mark.parametrize("harmless", [{}, {"choices": []}, {"choices": [{}]}, {"usage": None}, {"choices": None}])
def test_chunks_that_say_nothing_are_passed_over(harmless: dict[str, Any]) -> None:
    texts, answer, _ = told(chunk("a"), harmless, chunk("b", "stop"))

    assert texts == ["a", "b"]
    assert answer["text"] == "ab"
