"""What a client of the Open Inference Protocol asks: inputs, parameters and outputs by their names."""

from __future__ import annotations

from typing import Any

import pytest

from freeroam.api.oip.answers import OUTPUT_NAMES, answer_tensors
from freeroam.api.oip.questions import read_question, read_timeout_s, read_triton_priority, read_wish
from freeroam.api.oip.requests import decompressed, read_infer
from freeroam.api.oip.tensors import Tensor
from freeroam.api.parts import ApiConfig
from freeroam.api.pictures import Pixels
from freeroam.vocabulary.errors import InvalidInput, TooLarge, UnsupportedMedia
from freeroam.vocabulary.inference import Output, Prediction, Priority

PROMPT = Tensor("prompt", "BYTES", (1,), [b"what"])


def ask(*tensors: Tensor, outputs: tuple[str, ...] = (), **parameters: Any) -> Any:
    return read_question("fake", tensors, parameters, outputs, ApiConfig(max_pixels=1000))


def test_a_prompt_alone_is_a_question() -> None:
    # Given a prompt under either of its names, when it is read, then it is asked, and all outputs are wanted
    for name in ("prompt", "text_input"):
        question = ask(Tensor(name, "BYTES", (1, 1), [b"what"]))
        assert question.wish.prompt == "what"
        assert question.images == ()
        assert question.outputs == OUTPUT_NAMES


def test_pixels_are_one_picture_or_a_window_of_them() -> None:
    # Given pixels of one picture and of two, when they are read, then each picture has its own
    one = ask(PROMPT, Tensor("image", "UINT8", (2, 3, 3), bytes(range(18)))).images
    two = ask(PROMPT, Tensor("image", "UINT8", (2, 1, 2, 3), bytes(range(12)))).images
    assert [(p.width_px, p.height_px, bytes(p.data)) for p in one] == [(3, 2, bytes(range(18)))]
    assert [bytes(p.data) for p in two] == [bytes(range(6)), bytes(range(6, 12))]
    assert all(isinstance(picture, Pixels) for picture in (*one, *two))


def test_more_pictures_than_a_question_may_bring_are_refused_before_one_is_made() -> None:
    # Given pixels of more pictures than are allowed, though together they are small, when they are read
    count = ApiConfig().max_images + 1

    # Then the setting is named, and that many are taken
    with pytest.raises(InvalidInput, match="MAX_IMAGES"):
        ask(PROMPT, Tensor("image", "UINT8", (count, 1, 1, 3), bytes(3 * count)))
    assert len(ask(PROMPT, Tensor("image", "UINT8", (count - 1, 1, 1, 3), bytes(3 * count - 3))).images) == count - 1


def test_parameters_tune_whatever_type_carries_them() -> None:
    # Given numbers as texts and lists as JSON, as clients without fractions and lists send them
    question = ask(
        PROMPT, max_tokens="5", temperature="0.5", stop='["a", "b"]', choices=["x", "y"], seed=3, priority=1, colour=1
    )

    # Then they are what they mean, and what is not known is passed over
    params = question.wish.params
    assert (params.max_tokens, params.temperature, params.stop, params.choices) == (5, 0.5, ["a", "b"], ["x", "y"])
    assert question.wish.priority is Priority.HIGH


def test_one_stop_text_needs_no_list() -> None:
    # Given a text that is no list, when it is read, then it is the only one
    assert read_wish("fake", "q", {"stop": "[END"}).params.stop == ["[END"]


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (None, None),
        (0, None),
        ("0", None),
        (1, Priority.HIGH),
        (2, Priority.NORMAL),
        (3, Priority.LOW),
        (2**63, Priority.LOW),
        ("low", Priority.LOW),
        ("1", Priority.HIGH),
    ],
)
def test_triton_counts_priorities_from_the_highest(value: Any, meant: Priority | None) -> None:
    # Given one of Triton's numbers or one of our names, when it is read, then it is the level that it means
    assert read_triton_priority(value) is meant


@pytest.mark.parametrize("value", [-1, "urgent", [], float("nan"), float("inf")])
def test_a_priority_that_is_none_is_refused(value: Any) -> None:
    # Given nonsense, when it is read, then it is refused
    with pytest.raises(InvalidInput):
        read_triton_priority(value)


def test_a_timeout_is_in_microseconds() -> None:
    # Given one, when it is read, then it is seconds; nonsense is refused
    assert read_timeout_s({"timeout": 1_500_000}) == 1.5
    assert read_timeout_s({"timeout": 0}) is None
    for wrong in (-1, 1.5, "soon", True, 10**30):
        with pytest.raises(InvalidInput):
            read_timeout_s({"timeout": wrong})


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ((), "required"),
        ((PROMPT, PROMPT), "twice"),
        ((PROMPT, Tensor("colour", "BYTES", (1,), [b"red"])), "no input"),
        ((Tensor("prompt", "BYTES", (2,), [b"a", b"b"]),), "one element"),
        ((Tensor("prompt", "UINT8", (1,), b"a"),), "must be BYTES"),
        ((Tensor("prompt", "BYTES", (1,), [b"\xff"]),), "UTF-8"),
        ((PROMPT, Tensor("image", "UINT8", (4, 4), bytes(16))), "h, w, 3"),
        ((PROMPT, Tensor("image", "UINT8", (4, 4, 4), bytes(64))), "h, w, 3"),
        ((PROMPT, Tensor("image", "UINT8", (0, 4, 3), b"")), "h, w, 3"),
    ],
)
def test_inputs_that_are_no_question_are_refused(tensors: tuple[Tensor, ...], reason: str) -> None:
    # Given inputs that do not fit, when they are read, then the message says why
    with pytest.raises(InvalidInput, match=reason):
        ask(*tensors)


def test_a_picture_of_too_many_pixels_is_too_large() -> None:
    # Given 40 by 40 pixels where 1000 are allowed, when they are read, then they are refused before anything is done
    with pytest.raises(TooLarge, match="MAX_PIXELS"):
        ask(PROMPT, Tensor("image", "UINT8", (40, 40, 3), bytes(4800)))


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": "warm"},
        {"max_tokens": 0},
        {"top_p": float("nan")},
        {"stop": [1]},
        {"choices": []},
        {"sequence_id": 4},
        {"shared_memory_region": "a"},
        {"client_id": 3},
    ],
)
def test_parameters_that_cannot_be_are_refused(parameters: dict[str, Any]) -> None:
    # Given a wrong value, or a wish for what is not offered, when it is read, then it is refused
    with pytest.raises(InvalidInput):
        ask(PROMPT, **parameters)


def test_outputs_are_told_in_the_order_they_were_asked_for() -> None:
    # Given an answer and two wishes, when tensors are made, then those two are there; others can not be asked for
    cat = Prediction(label="cat", confidence=0.5, bbox=[1, 2, 3, 4])
    rain = Prediction(label="rain", confidence=0.25)
    output = Output(
        predictions=[cat, rain],
        text="a cat",
        confidence=[],
        extra={},
        model="fake",
        version="1",
        model_type="fake",
        device="cpu",
    )
    boxes, labels = answer_tensors(output, ask(PROMPT, outputs=("boxes", "labels")).outputs)
    assert (boxes.shape, boxes.values) == ((2, 4), [1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0])
    assert labels.values == ["cat", "rain"]
    for wrong in (("colour",), ("text", "text")):
        with pytest.raises(InvalidInput):
            ask(PROMPT, outputs=wrong)


@pytest.mark.parametrize(
    ("body", "header_length"),
    [
        (b"", None),
        (b"[]", None),
        (b"{}", None),
        (b'{"inputs": {}}', None),
        (b'{"inputs": [3]}', None),
        (b'{"inputs": [{"name": "prompt"}]}', None),
        (b'{"inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1]}]}', None),
        (b'{"inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1], "data": [NaN]}]}', None),
        (b'{"inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["a"]}], "id": 3}', None),
        (b'{"inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["a"]}], "outputs": 3}', None),
        (b'{"inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["a"]}], "parameters": 3}', None),
        (
            b'{"inputs": [{"name": "p", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 9}}]}',
            "78",
        ),
        (
            b'{"inputs": [{"name": "p", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": -1}}]}',
            None,
        ),
        (b'{"inputs": [{"name": "p", "datatype": "BYTES", "shape": [1], "data": ["a"]}]}trailing', "71"),
        (b"{}", "3"),
        (b"{}", "-1"),
        (b"{}", "99999999999999999999"),
        (b"{}", "\u0663"),
    ],
)
def test_a_request_that_does_not_hold_together_is_refused(body: bytes, header_length: str | None) -> None:
    # Given a broken request, when it is read, then it is invalid input and nothing else
    with pytest.raises(InvalidInput):
        read_infer(body, header_length)


def test_a_folded_body_unfolds_up_to_the_limit_only() -> None:
    # Given bodies in gzip, when they unfold, then one within the limit is itself, and a bomb is refused
    import gzip

    assert decompressed(gzip.compress(b"x" * 100), "gzip", 100) == b"x" * 100
    with pytest.raises(TooLarge):
        decompressed(gzip.compress(b"x" * 101), "gzip", 100)
    with pytest.raises(InvalidInput):
        decompressed(b"no gzip", "gzip", 100)
    with pytest.raises(InvalidInput):
        decompressed(gzip.compress(b"x" * 100)[:-12], "gzip", 1000)
    with pytest.raises(UnsupportedMedia):
        decompressed(b"", "br", 100)
