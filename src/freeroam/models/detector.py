"""The built-in detector: CenterNet for the 80 COCO classes on onnxruntime, on the processor or a CUDA card.

Facts of the network (``data/coco80-centernet/README.md``): input ``images`` float32 ``[N, 3, H, W]``, RGB 0 to 255, H
and W multiples of 32, trained at 512; output ``heat`` ``[N, 80, H/4, W/4]`` scores after the sigmoid, and ``wh``
``[N, 4, H/4, W/4]`` distances in input pixels from a cell's corner ``(4c, 4r)`` to left, top, right and bottom. A frame
is fitted into the box with its aspect kept and padded with grey 114, as the network was tried; stretching costs
accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from freeroam.models.base import Question
from freeroam.models.batch_first import BatchFirst
from freeroam.models.boxes import GREY, Picture, resized, suppressed
from freeroam.models.detector_answers import Found, answers_of
from freeroam.models.detector_session import open_session
from freeroam.models.prompt_classes import CLASSES, COCO
from freeroam.vocabulary.errors import ConfigurationError
from freeroam.vocabulary.model import ModelWishes

if TYPE_CHECKING:
    import onnxruntime

MODEL_TYPE = "centernet-mobilenetv3-coco80"
WEIGHTS = Path(__file__).parent / "data" / "coco80-centernet" / "model.onnx"
SIZE_PX = 512
STRIDE_PX = 4
MULTIPLE_PX = 32
THRESHOLD = 0.3
MAX_DETECTIONS = 100
MAX_BATCH = 16
MAX_BATCH_CPU = 4


@dataclass(frozen=True, slots=True)
class _Fit:
    """How a frame lies in its padded input: in the top left corner, scaled by ``scale``."""

    height_px: int
    width_px: int
    padded: tuple[int, int]
    scale: float


class Detector(BatchFirst):
    """Finds things of 80 kinds; the prompt chooses which are reported.

    Args:
        size: Long side of the network's input, a multiple of 32, pixels; 320 is about 2.5 times as fast as 512.
        threshold: Smallest score that is reported unless the question says its own.
        threads: Threads of onnxruntime for one call; 0 lets it decide.
    """

    def __init__(self, *, size: int = SIZE_PX, threshold: float = THRESHOLD, threads: int = 0) -> None:
        if size < MULTIPLE_PX or size % MULTIPLE_PX:
            raise ConfigurationError(f"size is {size}: expected a multiple of {MULTIPLE_PX}")
        if not 0.0 < threshold < 1.0:
            raise ConfigurationError(f"threshold is {threshold}: expected a number between 0 and 1")
        self._size_px = size
        self._threshold = threshold
        self._threads = threads
        self._device = "cpu"
        self._session: onnxruntime.InferenceSession | None = None
        self._images_per_run = 1
        self._inputs: dict[tuple[int, int, int], NDArray[np.float32]] = {}

    async def initialize(self, model_path: str, device: str = "auto") -> None:
        """Load the weights.

        Args:
            model_path: An ONNX file with these inputs and outputs, or a folder with ``model.onnx``; empty takes the one
                that ships with the package.
            device: ``auto`` takes CUDA if this onnxruntime has it, else the processor.

        Raises:
            ConfigurationError: No such file, no onnxruntime, or a CUDA device was asked for and is not there.
        """
        path = Path(model_path) if model_path else WEIGHTS
        path = path / "model.onnx" if path.is_dir() else path
        if not path.is_file():
            raise ConfigurationError(f"MODEL_PATH={model_path}: there is no file {path.name} to load")
        self._session, self._device = open_session(path, device, self._threads)
        # On the processor eight images together take 15 % longer than one by one: they fall out of the caches.
        self._images_per_run = 1 if self._device == "cpu" else MAX_BATCH

    async def warm_up(self) -> None:
        """Run one frame of the likeliest shape, so that the first question pays for no set-up."""
        self._detect([np.full((self._size_px * 9 // 16, self._size_px, 3), GREY, np.uint8)])

    def get_wishes(self) -> ModelWishes:
        """Ask for single frames that fit the input without further scaling.

        Where a larger batch is no quicker a smaller one is asked for, so that nobody waits for its end in vain.
        """
        max_batch = MAX_BATCH_CPU if self._device == "cpu" else MAX_BATCH
        return ModelWishes(width_px=self._size_px, height_px=self._size_px, window=1, max_batch=max_batch)

    def get_model_info(self) -> dict[str, Any]:
        """Return what it is and can find."""
        return {
            "model_type": MODEL_TYPE,
            "device": self._device,
            "size_px": self._size_px,
            "threshold": self._threshold,
            "classes": list(CLASSES),
        }

    async def predict_batch(self, questions: Sequence[Question]) -> list[dict[str, Any] | Exception]:
        """Answer several questions; on a card frames of one shape go through the network together.

        Of a window of several frames the newest is looked at; ``metadata.looked_at`` is its place in the window.
        """
        return answers_of(questions, self._detect, COCO, self._threshold)

    def _detect(self, pictures: list[Picture], floor: float = THRESHOLD) -> list[Found]:
        """Return ``(scores, classes, boxes)`` of each picture, best first; boxes in its own pixels."""
        found: list[Found] = [()] * len(pictures)
        groups: dict[tuple[int, int], list[int]] = {}
        fits = [fit(picture.shape[0], picture.shape[1], self._size_px) for picture in pictures]
        for index, placed in enumerate(fits):
            groups.setdefault(placed.padded, []).append(index)
        for padded, members in groups.items():
            for first in range(0, len(members), self._images_per_run):
                together = members[first : first + self._images_per_run]
                images = self._input(len(together), padded)
                for row, index in enumerate(together):
                    place(pictures[index], fits[index], images[row])
                heat, wh = self._run(images)
                for row, index in enumerate(together):
                    found[index] = decode(heat[row], wh[row], fits[index], pictures[index].shape[:2], floor)
        return found

    def _input(self, count: int, padded: tuple[int, int]) -> NDArray[np.float32]:
        """Return a buffer for ``count`` inputs that is used again for the next batch of this shape."""
        key = (count, *padded)
        if key not in self._inputs:
            if len(self._inputs) > MAX_BATCH:
                self._inputs.clear()
            self._inputs[key] = np.empty((count, 3, *padded), np.float32)
        return self._inputs[key]

    def _run(self, images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        assert self._session is not None, "initialize() comes first"
        outputs: list[NDArray[np.float32]] = self._session.run(["heat", "wh"], {"images": images})
        return outputs


def fit(height_px: int, width_px: int, size_px: int) -> _Fit:
    """Return how a frame is fitted: long side at most ``size_px``, never enlarged, padded to multiples of 32."""
    scale = min(1.0, size_px / max(height_px, width_px))
    scaled = (max(1, round(height_px * scale)), max(1, round(width_px * scale)))
    padded = (-(-scaled[0] // MULTIPLE_PX) * MULTIPLE_PX, -(-scaled[1] // MULTIPLE_PX) * MULTIPLE_PX)
    return _Fit(scaled[0], scaled[1], padded, scale)


def place(picture: Picture, fitted: _Fit, image: NDArray[np.float32]) -> None:
    """Write a picture ``[h, w, 3]`` into an input ``[3, H, W]``, padding included."""
    if picture.shape[:2] != (fitted.height_px, fitted.width_px):
        picture = resized(picture, fitted.height_px, fitted.width_px)
    image[:, fitted.height_px :, :] = GREY
    image[:, : fitted.height_px, fitted.width_px :] = GREY
    image[:, : fitted.height_px, : fitted.width_px] = picture.transpose(2, 0, 1)


def decode(
    heat: NDArray[np.float32], wh: NDArray[np.float32], fitted: _Fit, shape: tuple[int, ...], floor: float = THRESHOLD
) -> tuple[NDArray[np.float32], ...]:
    """Return ``(scores, classes, boxes)`` from one picture's outputs, best first.

    A cell counts if no neighbour of its 3x3 has a higher score; a light suppression a class takes out the doubles that
    neighbouring peaks leave.

    Args:
        heat: ``[80, h, w]``.
        wh: ``[4, h, w]``.
        fitted: How the picture lay in the input.
        shape: ``(height, width, ...)`` of the picture; boxes are clipped to it.
        floor: Scores below are never looked at.
    """
    kinds, rows, columns = peaks(heat, floor)
    scores = heat[kinds, rows, columns]
    order = np.argsort(-scores)[: MAX_DETECTIONS * 2]
    kinds, rows, columns, scores = kinds[order], rows[order], columns[order], scores[order]
    left, top, right, bottom = wh[:, rows, columns]
    x, y = columns * STRIDE_PX, rows * STRIDE_PX
    boxes = np.stack([x - left, y - top, x + right, y + bottom], axis=1)
    boxes[:, 0::2] = (boxes[:, 0::2] * (shape[1] / fitted.width_px)).clip(0, shape[1])
    boxes[:, 1::2] = (boxes[:, 1::2] * (shape[0] / fitted.height_px)).clip(0, shape[0])
    is_real = (boxes[:, 2] - boxes[:, 0] >= 1) & (boxes[:, 3] - boxes[:, 1] >= 1)
    scores, kinds, boxes = scores[is_real], kinds[is_real], boxes[is_real]
    kept = suppressed(kinds, boxes)[:MAX_DETECTIONS]
    return scores[kept], kinds[kept].astype(np.float32), boxes[kept].astype(np.float32)


def peaks(heat: NDArray[np.float32], floor: float) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return class, row and column of the cells over ``floor`` that are the greatest of their 3x3 neighbourhood."""
    kinds, rows, columns = np.nonzero(heat > floor)
    if not len(kinds):
        return kinds, rows, columns
    height, width = heat.shape[1:]
    scores = heat[kinds, rows, columns]
    is_peak = np.ones(len(scores), bool)
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            if down or across:
                near_rows = (rows + down).clip(0, height - 1)
                near_columns = (columns + across).clip(0, width - 1)
                is_peak &= heat[kinds, near_rows, near_columns] <= scores
    return kinds[is_peak], rows[is_peak], columns[is_peak]
