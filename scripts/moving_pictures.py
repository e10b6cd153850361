"""Natural pictures in motion: a camera that pans and zooms over a collage of scikit-image's free photographs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class View:
    """Where the camera looks: the middle of the view and its width, in collage pixels, at a time in seconds."""

    time_s: float
    x_px: float
    y_px: float
    width_px: float


def load_picture(name: str) -> Picture:
    """Return a picture that the scikit-image wheel carries, uint8 RGB ``[h, w, 3]``; nothing is downloaded."""
    import skimage

    path = Path(skimage.__file__).parent / "data" / name
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise FileNotFoundError(f"this scikit-image carries no picture {name}")
    return np.ascontiguousarray(picture[:, :, ::-1])


def tile(picture: Picture, width_px: int, height_px: int) -> Picture:
    """Return the picture cut and scaled to fill exactly the given size."""
    height, width = picture.shape[:2]
    scale = max(width_px / width, height_px / height)
    size = (max(width_px, round(width * scale)), max(height_px, round(height * scale)))
    grown = cv2.resize(picture, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (grown.shape[0] - height_px) // 2, (grown.shape[1] - width_px) // 2
    return grown[top : top + height_px, left : left + width_px]


def collage(rows: Sequence[Sequence[Picture]]) -> Picture:
    """Return tiles of one size set side by side."""
    return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)


def frames(
    canvas: Picture, views: Sequence[View], width_px: int, height_px: int, *, fps: int, grain: float = 0.0
) -> Iterator[Picture]:
    """Yield the film of a camera that moves smoothly from view to view.

    Args:
        canvas: What is filmed.
        views: Where the camera is at which time; the last one's time is the film's length.
        width_px: Of a frame.
        height_px: Of a frame.
        fps: Frames a second.
        grain: Standard deviation of the noise of a sensor, in grey levels.
    """
    noise = np.random.default_rng(7)
    grains = noise.normal(0.0, grain, (8, height_px, width_px, 1)).astype(np.int16) if grain else None
    for number in range(round(views[-1].time_s * fps)):
        view = _between(views, number / fps)
        scale = width_px / view.width_px
        matrix = np.array([[scale, 0, width_px / 2 - view.x_px * scale], [0, scale, height_px / 2 - view.y_px * scale]])
        picture = cv2.warpAffine(
            canvas, matrix, (width_px, height_px), flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT
        )
        if grains is not None:
            picture = np.clip(picture.astype(np.int16) + grains[number % len(grains)], 0, 255).astype(np.uint8)
        yield np.ascontiguousarray(picture)


def _between(views: Sequence[View], time_s: float) -> View:
    after = next((index for index, view in enumerate(views) if view.time_s > time_s), len(views) - 1)
    first, second = views[max(0, after - 1)], views[after]
    span_s = second.time_s - first.time_s
    part = 0.0 if span_s <= 0 else min(1.0, (time_s - first.time_s) / span_s)
    eased = 0.5 - 0.5 * math.cos(math.pi * part)

    def mix(one: float, two: float) -> float:
        return one + (two - one) * eased

    return View(
        time_s, mix(first.x_px, second.x_px), mix(first.y_px, second.y_px), mix(first.width_px, second.width_px)
    )
