"""What a caller may wish of a job: nothing that cannot be stored, sent to a model, or counted."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from freeroam.vocabulary.job import LEAST_FPS, JobPatch, StartRequest

HALF = "\ud800"


@pytest.mark.parametrize(
    "wish",
    [
        {"fps": 0},
        {"fps": float("nan")},
        {"fps": 1e-320},
        {"fps": LEAST_FPS / 2},
        {"max_frames": 2**70},
        {"params": {"seed": 2**63}},
        {"params": {"seed": -(2**63) - 1}},
        {"params": {"choices": [HALF]}},
        {"params": {"choices": ["a" * 5000]}},
        {"params": {"stop": [HALF]}},
        {"tags": {"camera": HALF}},
        {"tags": {HALF: "door"}},
        {"tags": {"camera": "a" * 2000}},
        {"source": {"start": HALF}},
        {"source": {"headers": {"X-Camera": HALF}}},
        {"source": {"headers": {"X-Camera": "a" * 10_000}}},
    ],
)
def test_a_wish_that_cannot_be_kept_or_sent_is_refused(wish: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        StartRequest.model_validate({"stream_ref": "demo:", **wish})


@pytest.mark.parametrize("patch", [{"fps": 1e-320}, {"params": {"seed": 2**70}}, {"params": {"choices": [HALF]}}])
def test_a_change_is_held_to_the_same_limits(patch: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        JobPatch.model_validate(patch)


def test_one_sample_a_day_is_a_wish_like_any_other() -> None:
    wish = StartRequest(stream_ref="demo:", fps=1 / 86_400, tags={"camera": "door"})

    assert wish.fps == pytest.approx(1.157e-5, rel=1e-3)
