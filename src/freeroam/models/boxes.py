"""Pictures resized and boxes suppressed: what every detector does before and after its network."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

GREY = 114
"""What a picture is padded with, as the networks were trained."""
OVERLAP = 0.5


def resized(picture: Picture, height_px: int, width_px: int) -> Picture:
    """Return a smaller picture by averaging areas; frames of our own sources arrive in the right size and skip this."""
    rows = np.linspace(0, picture.shape[0], height_px + 1)[:-1].astype(np.intp)
    columns = np.linspace(0, picture.shape[1], width_px + 1)[:-1].astype(np.intp)
    sums = np.add.reduceat(picture.astype(np.float32), rows, axis=0)
    sums = np.add.reduceat(sums, columns, axis=1)
    high = np.diff(np.append(rows, picture.shape[0]))
    wide = np.diff(np.append(columns, picture.shape[1]))
    averages: Picture = (sums / (high[:, None, None] * wide[None, :, None])).astype(np.uint8)
    return averages


def stretched(picture: Picture, height_px: int, width_px: int) -> Picture:
    """Return a picture in any other size: averages along a side that shrinks, straight lines along one that grows.

    A pixel's value stands at its middle, so that nothing moves.
    """
    height, width = picture.shape[:2]
    if (height, width) == (height_px, width_px):
        return picture
    if height_px < height or width_px < width:
        picture = resized(picture, min(height, height_px), min(width, width_px))
    for axis, wanted in enumerate((height_px, width_px)):
        if picture.shape[axis] < wanted:
            picture = _grown(picture, wanted, axis)
    return picture


def _grown(picture: Picture, wanted: int, axis: int) -> Picture:
    """Return a picture made larger along one axis."""
    have = picture.shape[axis]
    at = ((np.arange(wanted) + 0.5) * (have / wanted) - 0.5).clip(0, have - 1)
    before = np.floor(at).astype(np.intp)
    after = np.minimum(before + 1, have - 1)
    share = (at - before).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
    low, high = (picture.take(place, axis=axis).astype(np.float32) for place in (before, after))
    grown: Picture = (low + (high - low) * share + 0.5).astype(np.uint8)
    return grown


def suppressed(kinds: NDArray[np.intp], boxes: NDArray[np.float32], overlap: float = OVERLAP) -> list[int]:
    """Return the places of the boxes (best first) that no better one of their class covers by more than ``overlap``."""
    if not len(boxes):
        return []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    corner = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
    far = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = (far - corner).clip(0).prod(axis=2)
    covers = (common / (areas[:, None] + areas[None, :] - common) > overlap) & (kinds[:, None] == kinds[None, :])
    kept: list[int] = []
    for index in range(len(boxes)):
        if not covers[index, kept].any():
            kept.append(index)
    return kept
