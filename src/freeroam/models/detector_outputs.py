"""What an ONNX detector gives out, as scores, classes and corners in input pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freeroam.models.boxes import suppressed
from freeroam.models.detector_forms import Form, OutputForm

Floats = NDArray[np.float32]
Seen = tuple[Floats, NDArray[np.intp], Floats]
"""``(scores [n], classes [n], boxes [n, 4])``; boxes are corners in input pixels."""

MAX_CANDIDATES = 1000
"""Boxes that suppression looks at, best first; it compares each with each."""


def read_picture(
    outputs: Sequence[NDArray[Any]],
    row: int,
    form: OutputForm,
    sides: tuple[int, int],
    floor: float,
    *,
    is_softmax: bool,
) -> Seen:
    """Return what one picture of a batch shows, before suppression.

    Args:
        outputs: In the order of ``form.names``.
        row: The picture's place in the batch.
        form: What they mean.
        sides: Height and width of the input, pixels.
        floor: Scores below are never looked at.
        is_softmax: Whether logits of a ``detr`` compete, with "nothing" as the last of them; else each stands alone.
    """
    kind = form.form
    if kind is Form.END2END_FLAT:
        rows = outputs[0].astype(np.float32)
        rows = rows[rows[:, 0].astype(np.intp) == row]
        return _over(floor, rows[:, 6], rows[:, 5].astype(np.intp), rows[:, 1:5])
    picked = [np.asarray(output[row]) for output in outputs]
    first = picked[0].astype(np.float32)
    if kind is Form.END2END:
        return _over(floor, first[:, 4], first[:, 5].astype(np.intp), first[:, :4])
    if kind is Form.DETR_PICKED:
        return _over(floor, first[:, 4], first[:, 5].astype(np.intp), _corners(first[:, :4] * _scale(sides)))
    if kind is Form.SCORED:
        return _over(floor, picked[2].astype(np.float32), picked[0].astype(np.intp), picked[1].astype(np.float32))
    if kind is Form.DETR:
        return _of_logits(first, picked[1].astype(np.float32), sides, floor, is_softmax=is_softmax)
    classes = form.classes or 0
    if kind is Form.YOLO:
        return _of_grid(first[:4].T, first[4 : 4 + classes].T, floor)
    if kind is Form.YOLOV5:
        first = first[first[:, 4] >= floor]
        return _of_grid(first[:, :4], first[:, 5 : 5 + classes] * first[:, 4:5], floor)
    return _of_grid(first[:, :4] * _scale(sides), first[:, 4 : 4 + classes], floor)


def kept(seen: Seen, overlap: float | None, count: int) -> Seen:
    """Return the best ``count``, best first, with doubles of a class taken out if ``overlap`` is not None.

    Boxes without an area are dropped first: they cover nothing, and no share of them can be told.
    """
    scores, kinds, boxes = seen
    is_real = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    scores, kinds, boxes = scores[is_real], kinds[is_real], boxes[is_real]
    order = np.argsort(-scores, kind="stable")[: count if overlap is None else MAX_CANDIDATES]
    scores, kinds, boxes = scores[order], kinds[order], boxes[order]
    if overlap is not None:
        best = suppressed(kinds, boxes, overlap)[:count]
        scores, kinds, boxes = scores[best], kinds[best], boxes[best]
    return scores, kinds, boxes


def _over(floor: float, scores: Floats, kinds: NDArray[np.intp], boxes: Floats) -> Seen:
    is_seen = scores >= floor
    return scores[is_seen], kinds[is_seen], boxes[is_seen]


def _of_grid(centres: Floats, scores: Floats, floor: float) -> Seen:
    """Each box counts as its likeliest class."""
    best = scores.max(axis=1, initial=0.0)
    places = np.flatnonzero(best >= floor)
    kinds = scores[places].argmax(axis=1) if scores.shape[1] else np.zeros(0, np.intp)
    return best[places], kinds, _corners(centres[places])


def _of_logits(logits: Floats, centres: Floats, sides: tuple[int, int], floor: float, *, is_softmax: bool) -> Seen:
    if is_softmax:
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        scores = (powers / powers.sum(axis=1, keepdims=True))[:, :-1]
        return _of_grid(centres * _scale(sides), scores, floor)
    scores = 1.0 / (1.0 + np.exp(-logits.clip(-60.0, 60.0)))
    # One query may speak of several classes, as RT-DETR's own post-processing has it.
    queries, kinds = np.nonzero(scores >= floor)
    return scores[queries, kinds], kinds, _corners(centres[queries] * _scale(sides))


def _scale(sides: tuple[int, int]) -> Floats:
    return np.array([sides[1], sides[0], sides[1], sides[0]], np.float32)


def _corners(centres: Floats) -> Floats:
    """Return corners from centre, width and height."""
    half = centres[:, 2:] / 2.0
    return np.concatenate([centres[:, :2] - half, centres[:, :2] + half], axis=1)
