"""Writes the body of a result: what was answered, about which frames, asked how, by whom, in what time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import orjson

from freeroam.vocabulary.errors import FreeroamError
from freeroam.vocabulary.frame import Clip
from freeroam.vocabulary.inference import Output, Prediction
from freeroam.vocabulary.prompt import Prompt

_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY


@dataclass(frozen=True, slots=True)
class Asked:
    """A question as it was put.

    Attributes:
        clip: Its frames.
        prompt: Its prompt.
        model: Whom it was put to: ``name`` or ``name@version``.
    """

    clip: Clip
    prompt: Prompt
    model: str


def answer_body(asked: Asked, output: Output, timings_ms: dict[str, float], timestamp: float) -> bytes:
    """Return the compact JSON of an answered question, without its number.

    Args:
        asked: The question.
        output: The answer.
        timings_ms: ``decode``, ``wait``, ``model``, ``total``.
        timestamp: Epoch seconds when the answer was complete.

    Raises:
        TypeError: The model put something into its answer that JSON cannot say.
    """
    body = {
        "predictions": [_prediction(prediction) for prediction in output.predictions],
        "confidence": [_finite(value) for value in output.confidence],
        "text": output.text,
        "error": None,
        "metadata": output.extra
        | _metadata(asked, timings_ms, timestamp)
        | {
            "model": output.model,
            "model_version": output.version,
            "model_type": output.model_type,
            "device": output.device,
        },
    }
    return orjson.dumps(body, option=_OPTIONS)


def failure_body(asked: Asked, error: FreeroamError, timings_ms: dict[str, float], timestamp: float) -> bytes:
    """Return the compact JSON of a question that failed for good, without its number."""
    name, _, version = asked.model.partition("@")
    body: dict[str, Any] = {
        "predictions": [],
        "confidence": [],
        "text": None,
        "error": {"code": error.code, "message": error.message},
        "metadata": _metadata(asked, timings_ms, timestamp)
        | {"model": name, "model_version": version, "model_type": "", "device": ""},
    }
    return orjson.dumps(body, option=_OPTIONS)


def _metadata(asked: Asked, timings_ms: dict[str, float], timestamp: float) -> dict[str, Any]:
    last = asked.clip.frames[-1]
    return {
        "num_frames": len(asked.clip.frames),
        "frame_shape": [last.height_px, last.width_px, 3],
        "prompt": asked.prompt.prompt,
        "prompt_version": asked.prompt.version,
        "timestamp": timestamp,
        "frame_ids": asked.clip.frame_ids,
        "stream_time": last.stream_time_s,
        "source_size": [last.source_height_px, last.source_width_px],
        "timings_ms": timings_ms,
    }


def _prediction(prediction: Prediction) -> dict[str, Any]:
    body = prediction.model_dump()
    body["confidence"] = _finite(prediction.confidence)
    if prediction.bbox is not None:
        body["bbox"] = [_finite(value) for value in prediction.bbox]
    return body


def _finite(value: float) -> float:
    """Return ``value``, or 0 where a model gave no number: JSON has neither NaN nor infinity."""
    return value if math.isfinite(value) else 0.0
