"""Questions in the API's words, and what is learned from refusals of them."""

from __future__ import annotations

import base64
import io
import time
from typing import Any

import numpy as np
import pytest
from PIL import Image

from freeroam.models.base import Question
from freeroam.models.openai_failures import UpstreamCode, UpstreamError, of_status
from freeroam.models.openai_question import ChoiceForm, Dialect, Wording, body_of, data_urls, is_length_refused
from freeroam.vocabulary.errors import InvalidInput
from freeroam.vocabulary.inference import InferenceParams

WORDING = Wording()


def asked(prompt: str = "What?", pictures: tuple[str, ...] = (), wording: Wording = WORDING, **params: Any) -> Any:
    most_tokens = params.get("max_tokens")
    return body_of("m", Question((), prompt, InferenceParams(**params)), pictures, wording, "", most_tokens)


def refused(said: str, code: UpstreamCode = UpstreamCode.REJECTED) -> UpstreamError:
    return UpstreamError(code, "no", said=said)


def test_only_what_was_tuned_is_sent() -> None:
    assert asked() == {
        "model": "m",
        "messages": [{"role": "user", "content": "What?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    tuned = asked(max_tokens=5, temperature=0.0, top_p=0.5, seed=-1, stop=list("abcdef"))
    assert {name: tuned[name] for name in ("max_tokens", "temperature", "top_p", "seed", "stop")} == {
        "max_tokens": 5,
        "temperature": 0.0,
        "top_p": 0.5,
        "seed": -1,
        "stop": list("abcd"),
    }


def test_pictures_stand_before_the_last_question_of_a_conversation() -> None:
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "And here?"},
    ]

    messages = asked("unused", ("data:1", "data:2"), messages=turns)["messages"]

    assert messages[:3] == turns[:3]
    assert messages[3]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:1"}},
        {"type": "image_url", "image_url": {"url": "data:2"}},
        {"type": "text", "text": "And here?"},
    ]


@pytest.mark.parametrize("params", [{}, {"choices": ["a", "b"]}])
def test_pictures_and_choices_need_a_message_of_the_user(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="none of the user"):
        asked("", ("data:1",), messages=[{"role": "system", "content": "x"}], **params)


def test_frames_become_jpeg_data_urls_of_the_same_picture() -> None:
    frame = np.zeros((31, 47, 3), np.uint8)
    frame[:, 20:] = (250, 10, 10)
    frame.flags.writeable = False

    (url,) = data_urls([frame])

    head, _, packed = url.partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(packed))) as opened:
        assert opened.format == "JPEG"
        assert np.abs(np.asarray(opened, int) - frame.astype(int))[:, :16].max() < 30
        assert opened.size == (47, 31)


@pytest.mark.parametrize("form", ChoiceForm)
def test_choices_are_asked_for_in_the_text_whatever_the_form(form: ChoiceForm) -> None:
    body = asked("Which?", wording=Wording(choice_form=form), choices=["yes", "no"])

    assert "- yes\n- no" in body["messages"][0]["content"]
    assert ("response_format" in body) is (form in {ChoiceForm.JSON_SCHEMA, ChoiceForm.JSON_OBJECT})
    assert body.get("guided_choice") == (["yes", "no"] if form is ChoiceForm.GUIDED_CHOICE else None)


@pytest.mark.parametrize(
    ("said", "params", "changed"),
    [
        ("Unexpected fields: {'stream_options'}", {}, {"asks_usage": False}),
        ("Unsupported parameter: use 'max_completion_tokens' instead", {"max_tokens": 3},
         {"length_field": "max_completion_tokens"}),
        ("response_format.type: Input should be 'json_object'", {"choices": ["a"]},
         {"choice_form": ChoiceForm.JSON_OBJECT}),
        ("stream_options and response_format are not supported", {"choices": ["a"]},
         {"asks_usage": False, "choice_form": ChoiceForm.JSON_OBJECT}),
    ],
)  # fmt: skip
def test_a_refused_word_is_given_up_and_the_next_question_does_without(
    said: str, params: dict[str, Any], changed: dict[str, Any]
) -> None:
    dialect = Dialect(Wording())

    assert dialect.learn(refused(said), WORDING, asked(**params))
    assert dialect.wording == Wording(**changed)


@pytest.mark.parametrize(
    ("said", "code", "params"),
    [
        ("the prompt is too long", UpstreamCode.REJECTED, {"choices": ["a"], "max_tokens": 3}),
        ("response_format is odd", UpstreamCode.REJECTED, {}),
        ("stream_options", UpstreamCode.AUTH, {}),
        ("", UpstreamCode.REJECTED, {"choices": ["a"]}),
    ],
)
def test_other_refusals_teach_nothing(said: str, code: UpstreamCode, params: dict[str, Any]) -> None:
    dialect = Dialect(Wording())

    assert not dialect.learn(refused(said, code), WORDING, asked(**params))
    assert dialect.wording == WORDING


def test_a_server_that_refuses_every_form_is_asked_in_text_at_last() -> None:
    dialect = Dialect(Wording())
    tried = []
    while True:
        sent = dialect.wording
        tried.append(sent.choice_form)
        body = asked(wording=sent, choices=["a"])
        if not dialect.learn(refused("bad response_format or guided_choice"), sent, body):
            break

    assert tried == list(ChoiceForm)


def test_two_questions_refused_alike_at_once_give_up_one_word() -> None:
    dialect = Dialect(Wording())
    body = asked(choices=["a"])

    assert dialect.learn(refused("response_format"), WORDING, body)
    assert dialect.learn(refused("response_format"), WORDING, body)
    assert dialect.wording.choice_form is ChoiceForm.JSON_OBJECT


def test_a_form_that_the_operator_fixed_stays() -> None:
    wording = Wording(choice_form=ChoiceForm.JSON_OBJECT)
    dialect = Dialect(wording, is_choice_form_fixed=True)

    assert not dialect.learn(refused("response_format"), wording, asked(wording=wording, choices=["a"]))


@pytest.mark.parametrize(
    ("status", "code", "passes"),
    [
        (301, UpstreamCode.REJECTED, False), (400, UpstreamCode.REJECTED, False), (401, UpstreamCode.AUTH, False),
        (403, UpstreamCode.AUTH, False), (404, UpstreamCode.REJECTED, False), (422, UpstreamCode.REJECTED, False),
        (429, UpstreamCode.RATE_LIMITED, True), (500, UpstreamCode.FAILED, False),
        (502, UpstreamCode.UNAVAILABLE, True), (503, UpstreamCode.UNAVAILABLE, True),
        (504, UpstreamCode.UNAVAILABLE, True),
    ],
)  # fmt: skip
def test_each_status_has_a_code_and_a_remedy_and_hides_the_key(status: int, code: UpstreamCode, passes: bool) -> None:
    key = "topsecretkey"
    body = b'{"error": {"message": "Incorrect API key provided: topsecretkey, or sk-abc***wxyz. No."}}'
    headers = {"location": "http://user:hidden@elsewhere/"}

    failure = of_status(status, body, headers, "http://there", key)

    assert (failure.code, failure.passes) == (code, passes)
    assert failure.status == status
    assert "; " in failure.message
    for secret in (key, "hidden", "sk-abc"):
        assert secret not in failure.message + failure.said


@pytest.mark.parametrize(
    ("text", "expected"), [("3", 3.0), ("0.5", 0.5), ("", None), ("soon", None), ("-1", None), ("date", 30.0)]
)
def test_retry_after_is_read_as_seconds_or_a_date(text: str, expected: float | None) -> None:
    if text == "date":
        text = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))

    seconds = of_status(429, b"", {"retry-after": text}, "http://there", "").retry_after_s

    assert seconds == (None if expected is None else pytest.approx(expected, abs=2.0))


@pytest.mark.parametrize(
    "said",
    [
        "max_tokens is too large: 4096. This model supports at most 2048 completion tokens",
        "'max_completion_tokens' is too large: 4096. This model's maximum context length is 2048 tokens",
        "This model's maximum Context Length is 1024 tokens. However, you requested 4110 tokens",
    ],
)
def test_a_refusal_of_the_length_is_told_from_others(said: str) -> None:
    assert is_length_refused(refused(said))
    assert not is_length_refused(refused(said, UpstreamCode.FAILED))
    assert not is_length_refused(refused("response_format is not supported"))
