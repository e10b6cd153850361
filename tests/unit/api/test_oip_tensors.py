"""Tensors as they come: what fits is read, what does not is refused with the reason, nothing absurd is ever made."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from freeroam.api.oip.tensors import Answered, read_listed, read_packed, read_shape
from freeroam.vocabulary.errors import InvalidInput


def packed(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def test_texts_come_as_bytes_after_their_lengths() -> None:
    # Given two texts in the binary layout, when they are read, then both are there
    tensor = read_packed("image", "BYTES", [2], packed(b"one", b""))
    assert tensor.data == [b"one", b""]


def test_texts_and_pixels_come_as_lists() -> None:
    # Given JSON lists, flat or nested as the shape says, when they are read, then the elements are there
    assert read_listed("prompt", "BYTES", [1], ["what é"]).data == ["what é".encode()]
    nested = [[[1, 2, 3], [4, 5, 6]]]
    assert bytes(read_listed("image", "UINT8", [1, 2, 3], nested).data) == bytes([1, 2, 3, 4, 5, 6])  # type: ignore[arg-type]
    assert read_listed("image", "UINT8", [1, 2, 3], [1, 2, 3, 4, 5, 6]).data == bytes([1, 2, 3, 4, 5, 6])


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "reason"),
    [
        ("FP32", [1], b"\0\0\0\0", "expected BYTES"),
        ("VECTOR", [1], b"", "no data type"),
        ("UINT8", [2, 2, 3], b"\0" * 11, "12 bytes; 11 came"),
        ("UINT8", [2**40, 2**40, 2**40], b"", "more than"),
        ("UINT8", [-1, 3], b"", "negative"),
        ("UINT8", [1] * 9, b"\0", "dimensions"),
        ("BYTES", [1], b"\1\0", "end within the length"),
        ("BYTES", [1], b"\xff\xff\xff\xffx", "end within element 0"),
        ("BYTES", [2], packed(b"one"), "hold 1"),
        ("BYTES", [1], packed(b"one", b"two"), "hold more"),
        ("BYTES", [100_000], b"", "at most"),
        ("BYTES", [0, 2**62], packed(b"x"), "more than"),
    ],
)
def test_bytes_that_do_not_fit_are_refused(datatype: str, shape: list[int], raw: bytes, reason: str) -> None:
    # Given a tensor whose parts disagree, when it is read, then the message says what is wrong
    with pytest.raises(InvalidInput, match=reason):
        read_packed("image", datatype, shape, raw)


@pytest.mark.parametrize(
    ("datatype", "shape", "values", "reason"),
    [
        ("BYTES", [1], "text", "must be a list"),
        ("BYTES", [1], [7], "every element is a text"),
        ("BYTES", [2], ["one"], "1 came"),
        ("BYTES", [1], ["\ud800"], "surrogate"),
        ("UINT8", [3], [0, 1, 256], "0 to 255"),
        ("UINT8", [3], [0, 1, 1.5], "whole number"),
        ("UINT8", [3], [0, 1, True], "whole number"),
        ("UINT8", [2, 2], [[1, 2], 3], "unevenly"),
        ("UINT8", [1001, 1001], [0] * 1_000_001, "binary data"),
    ],
)
def test_lists_that_do_not_fit_are_refused(datatype: str, shape: list[int], values: Any, reason: str) -> None:
    # Given a list that is not what its tensor says, when it is read, then the message says what is wrong
    with pytest.raises(InvalidInput, match=reason):
        read_listed("image", datatype, shape, values)


@pytest.mark.parametrize("shape", [None, 3, [1.0], [True], ["1"], [[1]], [2**70]])
def test_a_shape_is_a_list_of_whole_numbers(shape: Any) -> None:
    # Given something else, when it is read, then it is refused
    with pytest.raises(InvalidInput):
        read_shape("image", shape)


def test_answers_are_packed_as_numpy_reads_them() -> None:
    # Given numbers and texts, when they are packed, then numpy reads the same
    boxes = Answered("boxes", "FP32", (2, 4), [1.0, 2.0, 3.0, 4.5] * 2).packed()
    assert np.frombuffer(boxes, "<f4").reshape(2, 4).tolist() == [[1.0, 2.0, 3.0, 4.5]] * 2
    assert Answered("text", "BYTES", (1,), ["é"]).packed() == packed("é".encode())
    assert Answered("boxes", "FP32", (0, 4), []).packed() == b""


def test_half_a_surrogate_pair_in_an_answer_is_replaced() -> None:
    # Given a text that UTF-8 cannot say, when it is packed, then what remains is sayable
    assert Answered("text", "BYTES", (1,), ["a\ud800b"]).packed() == packed(b"a?b")
