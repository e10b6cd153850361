"""Whatever a model returns becomes plain values, or an error that names what was expected."""

from __future__ import annotations

import json
import math
from enum import StrEnum
from typing import Any

import numpy as np
import pytest

from freeroam.models.answers import normalised, plain
from freeroam.vocabulary.errors import ModelError


class Color(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.str_("a"), "a"),
        (Color.RED, "red"),
        (float("nan"), None),
        (np.float64("inf"), None),
        ({1: (np.float32(1.0), {"x"})}, {"1": [1.0, ["x"]]}),
        (b"ab", "b'ab'"),
        (2**70, float(2**70)),
        ("half a pair \ud800", "half a pair ?"),
        (None, None),
        (True, True),
    ],
)
def test_values_become_json(value: Any, expected: Any) -> None:
    answer = plain(value)

    assert answer == expected
    assert json.loads(json.dumps(answer)) == answer
    assert type(answer) is type(expected)


def test_a_value_that_holds_itself_ends() -> None:
    loop: list[Any] = []
    loop.append(loop)

    assert json.dumps(plain(loop))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"predictions": []}, {"predictions": [], "text": None, "confidence": [], "extra": {}}),
        ("a cat", {"predictions": [], "text": "a cat", "confidence": [], "extra": {}}),
        ({}, {"predictions": [], "text": None, "confidence": [], "extra": {}}),
        (
            {"predictions": [{"label": "cat", "confidence": np.float32(0.5)}]},
            {
                "predictions": [{"label": "cat", "confidence": 0.5, "bbox": None}],
                "text": None,
                "confidence": [0.5],
                "extra": {},
            },
        ),
        (
            {
                "predictions": [{"class": 7, "score": "0.25", "bbox": np.arange(4), "track": np.int32(9)}],
                "confidence": 0.9,
                "metadata": {"n": np.int8(1)},
                "more": 2,
            },
            {
                "predictions": [
                    {
                        "class": 7,
                        "score": "0.25",
                        "bbox": [0.0, 1.0, 2.0, 3.0],
                        "track": 9,
                        "label": "7",
                        "confidence": 0.25,
                    }
                ],
                "text": None,
                "confidence": [0.9],
                "extra": {"more": 2, "n": 1},
            },
        ),
        (
            {"predictions": ["car"], "text": 5},
            {
                "predictions": [{"label": "car", "confidence": 1.0, "bbox": None}],
                "text": "5",
                "confidence": [1.0],
                "extra": {},
            },
        ),
        (
            {"predictions": (), "confidence": [[0.5], np.float32(0.25)]},
            {"predictions": [], "text": None, "confidence": [0.5, 0.25], "extra": {}},
        ),
    ],
)
def test_what_can_be_understood_is(answer: Any, expected: dict[str, Any]) -> None:
    assert normalised(answer) == expected


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (None, "NoneType; expected a dictionary"),
        ([1], "list; expected a dictionary"),
        ({"predictions": {"label": "x"}}, "'predictions' is dict; expected a list"),
        ({"predictions": "car"}, "'predictions' is str"),
        ({"predictions": [3]}, "prediction 0 is int"),
        ({"predictions": [{"confidence": 0.5}]}, "prediction 0 has no 'label'"),
        ({"predictions": [{"label": "a", "bbox": [1, 2, 3]}]}, "expected \\[x1, y1, x2, y2\\]"),
        ({"predictions": [{"label": "a", "bbox": [1, 2, 3, "wide"]}]}, "expected a number"),
        ({"predictions": [{"label": "a", "bbox": [1, 2, 3, math.nan]}]}, "expected a number"),
        ({"predictions": [{"label": "a", "confidence": "high"}]}, "confidence is 'high'; expected a number"),
        ({"predictions": [{"label": "a", "confidence": math.nan}]}, "expected a number"),
        ({"predictions": [{"label": "a", "confidence": "nan"}]}, "expected a number"),
        ({"predictions": [{"label": "a", "score": math.inf}]}, "expected a number"),
        ({"confidence": "inf"}, "expected a number"),
        ({"metadata": 5}, "'metadata' is int"),
        ({"confidence": {"a": 1}}, "confidence is"),
    ],
)
def test_a_malformed_answer_names_what_was_expected(answer: Any, named: str) -> None:
    with pytest.raises(ModelError, match=named):
        normalised(answer)
