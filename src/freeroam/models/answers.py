"""Turns whatever a model returned into plain values, in one place, or says what was expected."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from freeroam.vocabulary.errors import ModelError

_DEPTH = 12
_BOX_NUMBERS = 4
_INT64 = 2**63


def plain(value: Any, depth: int = 0) -> Any:
    """Return ``value`` as JSON knows it: numpy scalars and arrays become numbers and lists, NaN becomes None.

    Whatever else is no JSON becomes its ``str``.
    """
    if value is None:
        return None
    if isinstance(value, bool | int | str):
        return _base(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if depth >= _DEPTH:
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray | memoryview):
        return [plain(item, depth + 1) for item in value]
    if hasattr(value, "tolist"):  # numpy and torch
        return plain(value.tolist(), depth + 1)
    if hasattr(value, "item"):
        return plain(value.item(), depth + 1)
    return str(value)


def _base(value: bool | int | str) -> bool | int | float | str:
    """Return the plain form of a value: what the wire and JSON can carry of it."""
    if isinstance(value, bool):
        return bool(value)
    if isinstance(value, str):
        return str.__str__(value).encode("utf-8", "replace").decode()
    return int(value) if -_INT64 <= value < _INT64 else float(value)


def normalised(answer: Any) -> dict[str, Any]:
    """Return ``{predictions, text, confidence, extra}`` of plain values from what a model answered.

    Args:
        answer: A dictionary with ``predictions`` (a list of ``{label, confidence, bbox}``; bbox optional), and
            optionally ``confidence`` (a number or a list), ``text`` and ``metadata``; a bare string is taken as the
            text. Other keys are kept in ``extra``, as is what ``metadata`` holds.

    Raises:
        ModelError: It is something else; the message names what was expected and what came.
    """
    if isinstance(answer, str):
        answer = {"text": answer}
    if not isinstance(answer, Mapping):
        raise ModelError(
            f"the model returned {type(answer).__name__}; expected a dictionary with 'predictions' and optionally "
            "'text', 'confidence', 'metadata'"
        )
    given = answer.get("predictions")
    if given is None:
        given = []
    if isinstance(given, Mapping) or not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise ModelError(f"the model's 'predictions' is {type(given).__name__}; expected a list of dictionaries")
    predictions = [_prediction(item, index) for index, item in enumerate(given)]
    metadata = answer.get("metadata")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise ModelError(f"the model's 'metadata' is {type(metadata).__name__}; expected a dictionary")
    known = {"predictions", "text", "confidence", "metadata"}
    extra = {str(key): plain(item) for key, item in answer.items() if key not in known}
    extra.update(plain(metadata or {}))
    text = answer.get("text")
    return {
        "predictions": predictions,
        "text": None if text is None else str(text),
        "confidence": _confidence(answer.get("confidence"), predictions),
        "extra": extra,
    }


def _prediction(item: Any, index: int) -> dict[str, Any]:
    if isinstance(item, str):
        return {"label": item, "confidence": 1.0, "bbox": None}
    if not isinstance(item, Mapping):
        raise ModelError(
            f"prediction {index} is {type(item).__name__}; expected a dictionary {{label, confidence, bbox}}"
        )
    prediction: dict[str, Any] = plain(item)
    label = prediction.get("label", prediction.get("class"))
    if label is None:
        raise ModelError(f"prediction {index} has no 'label'; it has {sorted(prediction)}")
    prediction["label"] = str(label)
    name = "confidence" if "confidence" in item else "score"
    # What was no number is None by now, and must not pass for a confidence that was left out.
    is_left_out = item.get(name) is None
    prediction["confidence"] = 1.0 if is_left_out else _number(prediction.get(name), f"prediction {index}: confidence")
    box = prediction.get("bbox")
    if box is not None:
        if not isinstance(box, list) or len(box) != _BOX_NUMBERS:
            raise ModelError(f"prediction {index}: bbox is {box!r}; expected [x1, y1, x2, y2] in pixels")
        box = [_number(edge, f"prediction {index}: bbox") for edge in box]
    prediction["bbox"] = box
    return prediction


def _confidence(given: Any, predictions: list[dict[str, Any]]) -> list[float]:
    value = plain(given)
    if value is None:
        return [prediction["confidence"] for prediction in predictions]
    if not isinstance(value, list):
        value = [value]
    return [_number(item, "confidence") for item in value]


def _number(value: Any, what: str) -> float:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ModelError(f"{what} is {value!r:.80}; expected a number")
    return number
