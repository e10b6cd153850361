"""MODEL_TYPE names a model, or the error names MODEL_TYPE."""

from __future__ import annotations

from typing import Any

import pytest

from freeroam.models.base import BaseVLM
from freeroam.models.detector import Detector
from freeroam.models.fake import FakeModel
from freeroam.models.loading import check_model_type, load_model
from freeroam.vocabulary.errors import ConfigurationError


class Unfinished(BaseVLM):
    async def initialize(self, model_path: str, device: str = "auto") -> None: ...


class Failing(Unfinished):
    def __init__(self) -> None:
        raise OSError("no disk")

    async def predict(self, frames: Any, prompt: str) -> dict[str, Any]:
        return {}

    def get_model_info(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("detector", Detector),
        ("fake", FakeModel),
        ("freeroam.models.fake:FakeModel", FakeModel),
    ],
)
def test_a_model_is_found(model_type: str, expected: type) -> None:
    check_model_type(model_type)

    assert type(load_model(model_type, {"threads": 1})) is expected


@pytest.mark.parametrize("model_type", ["", "yolo", "no colon", "a.b:", ":C", "a b:C", "../x:C", "__main__:Model"])
def test_what_names_nothing_is_refused_before_anything_is_imported(model_type: str) -> None:
    with pytest.raises(ConfigurationError, match="MODEL_TYPE="):
        check_model_type(model_type)


@pytest.mark.parametrize(
    ("model_type", "named"),
    [
        ("no_such_module_at_all:Model", "no module 'no_such_module_at_all'"),
        ("freeroam.models.fake:Missing", "has no 'Missing'"),
        ("freeroam.models.fake:os", "no subclass"),
        (f"{__name__}:Unfinished", "lacks get_model_info, predict"),
        (f"{__name__}:Failing", "OSError: no disk"),
    ],
)
def test_what_is_no_model_is_named(model_type: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as caught:
        load_model(model_type)

    assert "MODEL_TYPE=" in caught.value.message


def test_an_unknown_option_is_named_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match=r"unknown option sise; it takes size, threshold, threads"):
        load_model("detector", {"sise": 320})
