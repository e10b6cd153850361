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


@dataclass(frozen=True, slots=True)
class Look:
    """How the film is shot.

    Attributes:
        width_px: Of a frame.
        height_px: Of a frame.
        fps: Frames a second.
        shake_px: How far a hand that holds the camera moves it, in pixels of the frame; it turns it a little as well.
        grain: Standard deviation of the noise of the sensor, in grey levels.
    """

    width_px: int
    height_px: int
    fps: int
    shake_px: float = 0.0
    grain: float = 0.0


def frames(canvas: Picture, views: Sequence[View], look: Look) -> Iterator[Picture]:
    """Yield the film of a camera that moves smoothly from view to view.

    Args:
        canvas: What is filmed.
        views: Where the camera is at which time; the last one's time is the film's length.
        look: How it is shot.
    """
    noise = np.random.default_rng(7)
    size = (look.width_px, look.height_px)
    for number in range(round(views[-1].time_s * look.fps)):
        time_s = number / look.fps
        view = _between(views, time_s)
        matrix = _camera(view, size, look.shake_px, time_s)
        picture = cv2.warpAffine(canvas, matrix, size, flags=cv2.INTER_AREA, borderMode=cv2.BORDER_REFLECT)
        if look.grain:
            grain = noise.normal(0.0, look.grain, (*size[::-1], 1)).astype(np.int16)
            picture = np.clip(picture.astype(np.int16) + grain, 0, 255).astype(np.uint8)
        yield np.ascontiguousarray(picture)


def _camera(view: View, size: tuple[int, int], shake_px: float, time_s: float) -> NDArray[np.float64]:
    """Return the affine map from the collage to the frame."""
    scale = size[0] / view.width_px
    wave = [math.sin(2 * math.pi * hertz * time_s + phase) for hertz, phase in ((1.3, 0), (3.1, 1), (0.9, 2), (2.3, 3))]
    angle = math.radians(0.05 * shake_px) * math.sin(2 * math.pi * 0.7 * time_s)
    cosine, sine = scale * math.cos(angle), scale * math.sin(angle)
    x = size[0] / 2 + shake_px * (0.7 * wave[0] + 0.3 * wave[1])
    y = size[1] / 2 + shake_px * (0.7 * wave[2] + 0.3 * wave[3])
    return np.array(
        [
            [cosine, -sine, x - cosine * view.x_px + sine * view.y_px],
            [sine, cosine, y - sine * view.x_px - cosine * view.y_px],
        ]
    )


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
