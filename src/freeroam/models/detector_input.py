"""Pictures as an ONNX file wants them: in its size, its order of channels, its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from freeroam.models.boxes import GREY, Picture, stretched

Pair = tuple[float, float, float]

IMAGENET_MEAN: Pair = (0.485, 0.456, 0.406)
IMAGENET_STD: Pair = (0.229, 0.224, 0.225)
"""Of the pictures of ImageNet, red, green and blue, on a scale from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """What becomes of a value from 0 to 255: ``(value * scale - mean) / std``, channel by channel."""

    scale: float = 1.0 / 255.0
    mean: Pair = (0.0, 0.0, 0.0)
    std: Pair = (1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a picture lies in its input, pixels.

    Attributes:
        height_px: Of the picture, scaled.
        width_px: Of the picture, scaled.
        top_px: Above it.
        left_px: Before it.
        sides: Height and width of the input.
    """

    height_px: int
    width_px: int
    top_px: int
    left_px: int
    sides: tuple[int, int]

    def to_picture(self, boxes: NDArray[np.float32], shape: Sequence[int]) -> NDArray[np.float32]:
        """Return boxes ``[n, 4]`` (corners, input pixels) in pixels of the picture, clipped to it.

        Args:
            boxes: Corners.
            shape: Height and width of the picture before it was scaled.
        """
        moved = boxes.astype(np.float64)
        moved[:, 0::2] = ((moved[:, 0::2] - self.left_px) * (shape[1] / self.width_px)).clip(0, shape[1])
        moved[:, 1::2] = ((moved[:, 1::2] - self.top_px) * (shape[0] / self.height_px)).clip(0, shape[0])
        return moved.astype(np.float32)


def letterboxed(height_px: int, width_px: int, sides: tuple[int, int]) -> Placement:
    """Return a picture's place in the middle of an input of fixed sides, aspect kept.

    What cannot be halved goes below and to the right, as ultralytics' ``LetterBox`` does.
    """
    scale = min(sides[0] / height_px, sides[1] / width_px)
    high, wide = max(1, round(height_px * scale)), max(1, round(width_px * scale))
    top, left = round((sides[0] - high) / 2 - 0.1), round((sides[1] - wide) / 2 - 0.1)
    return Placement(high, wide, max(0, top), max(0, left), sides)


def fitted(height_px: int, width_px: int, size_px: int, multiple_px: int) -> Placement:
    """Return a picture's place in an input of open sides: long side ``size_px``, padded to multiples."""
    scale = size_px / max(height_px, width_px)
    high, wide = max(1, round(height_px * scale)), max(1, round(width_px * scale))
    sides = (-(-high // multiple_px) * multiple_px, -(-wide // multiple_px) * multiple_px)
    top, left = round((sides[0] - high) / 2 - 0.1), round((sides[1] - wide) / 2 - 0.1)
    return Placement(high, wide, max(0, top), max(0, left), sides)


def filling(sides: tuple[int, int]) -> Placement:
    """Return the place of a picture that is stretched over the whole input."""
    return Placement(sides[0], sides[1], 0, 0, sides)


def place_all(
    pictures: Sequence[Picture], places: Sequence[Placement], count: int, numbers: Numbers | None, *, is_bgr: bool
) -> NDArray[np.float32] | NDArray[np.uint8]:
    """Return ``[count, 3, h, w]``: the pictures in their places on grey, what is left over grey altogether.

    Args:
        pictures: uint8 ``[h, w, 3]``, RGB.
        places: One a picture, all of the same sides.
        count: Pictures in the batch, at least as many as given.
        numbers: What becomes of the values (float32); None leaves them as they are (uint8).
        is_bgr: Whether blue comes first.
    """
    images = np.full((count, 3, *places[0].sides), GREY, np.uint8 if numbers is None else np.float32)
    for image, picture, put in zip(images, pictures, places, strict=False):
        scaled = stretched(picture, put.height_px, put.width_px)
        if is_bgr:
            scaled = scaled[:, :, ::-1]
        rows = slice(put.top_px, put.top_px + put.height_px)
        columns = slice(put.left_px, put.left_px + put.width_px)
        image[:, rows, columns] = scaled.transpose(2, 0, 1)
    if numbers is not None:
        factor = np.array([numbers.scale / std for std in numbers.std], np.float32)
        offset = np.array([mean / std for mean, std in zip(numbers.mean, numbers.std, strict=True)], np.float32)
        images *= factor[:, None, None]
        if offset.any():
            images -= offset[:, None, None]
    return images
