"""Answers as tensors: what was said, and what was seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from freeroam.api.oip.tensors import Answered
from freeroam.vocabulary.inference import Output, Piece

OUTPUTS: dict[str, tuple[str, tuple[int, ...]]] = {
    "text": ("BYTES", (1,)),
    "labels": ("BYTES", (-1,)),
    "confidence": ("FP32", (-1,)),
    "boxes": ("FP32", (-1, 4)),
    "predictions_json": ("BYTES", (1,)),
}
"""Name, data type and shape of each output; -1 is the number of things seen."""

OUTPUT_NAMES = tuple(OUTPUTS)
FINAL = "triton_final_response"
"""The parameter that marks the last response to a request of a stream."""


def answer_tensors(
    output: Output, wanted: Sequence[str] = OUTPUT_NAMES, *, is_text_given: bool = False
) -> list[Answered]:
    """Return the outputs that are wanted, in order; the text is empty if all of it was given piece by piece.

    ``boxes`` are ``[x1, y1, x2, y2]`` in pixels of the picture that was sent; a thing seen without a place has the
    empty box of four zeros.
    """
    count = len(output.predictions)
    values: dict[str, Sequence[Any]] = {
        "text": ["" if is_text_given else output.text or ""],
        "labels": [seen.label for seen in output.predictions],
        "confidence": [seen.confidence for seen in output.predictions],
        "boxes": [number for seen in output.predictions for number in _box(seen.bbox)],
        "predictions_json": [orjson.dumps([seen.model_dump() for seen in output.predictions], default=str).decode()],
    }
    answered = []
    for name in wanted:
        datatype, shape = OUTPUTS[name]
        lengths = tuple(count if length < 0 else length for length in shape)
        answered.append(Answered(name, datatype, lengths, values[name]))
    return answered


def piece_tensors(piece: Piece) -> list[Answered]:
    """Return a piece of a spoken answer."""
    return [Answered("text", "BYTES", (1,), [piece.text])]


def parameters_of(output: Output) -> dict[str, Any]:
    """Return what is told beside the tensors of a whole answer."""
    return {
        "finish_reason": output.finish_reason.value,
        "prompt_tokens": output.prompt_tokens,
        "completion_tokens": output.completion_tokens,
    }


def _box(bbox: list[float] | None) -> list[float]:
    return bbox if bbox is not None and len(bbox) == 4 else [0.0, 0.0, 0.0, 0.0]
