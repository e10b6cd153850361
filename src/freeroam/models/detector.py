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

from freeroam.models.base import BaseVLM, Question
from freeroam.models.prompt_classes import CLASSES, read_prompt, sentence
from freeroam.vocabulary.errors import ConfigurationError
from freeroam.vocabulary.inference import InferenceParams
from freeroam.vocabulary.model import ModelWishes

if TYPE_CHECKING:
    import onnxruntime

Picture = NDArray[np.uint8]

MODEL_TYPE = "centernet-mobilenetv3-coco80"
WEIGHTS = Path(__file__).parent / "data" / "coco80-centernet" / "model.onnx"
SIZE_PX = 512
STRIDE_PX = 4
MULTIPLE_PX = 32
GREY = 114
THRESHOLD = 0.3
OVERLAP = 0.5
MAX_DETECTIONS = 100
MAX_BATCH = 16
MAX_BATCH_CPU = 4
_LEAST_THRESHOLD = 0.01


@dataclass(frozen=True, slots=True)
class _Fit:
    """How a frame lies in its padded input: in the top left corner, scaled by ``scale``."""

    height_px: int
    width_px: int
    padded: tuple[int, int]
    scale: float


class Detector(BaseVLM):
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
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigurationError("the detector needs onnxruntime; run: pip install onnxruntime") from error
        path = Path(model_path) if model_path else WEIGHTS
        path = path / "model.onnx" if path.is_dir() else path
        if not path.is_file():
            raise ConfigurationError(f"MODEL_PATH={model_path}: there is no file {path.name} to load")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin while they wait take the cores that decode video.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers, self._device = _providers(device, onnxruntime.get_available_providers())
        self._session = onnxruntime.InferenceSession(str(path), options, providers=providers)
        if self._session.get_providers()[0] == "CPUExecutionProvider":
            if self._device != "cpu" and device != "auto":
                raise ConfigurationError(f"DEVICE={device}: onnxruntime could not open that device")
            self._device = "cpu"
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

    async def predict(self, frames: list[Picture], prompt: str) -> dict[str, Any]:
        """Answer one question about the newest of ``frames``."""
        answer = (await self.predict_batch([Question(tuple(frames), prompt, InferenceParams())]))[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def predict_batch(self, questions: Sequence[Question]) -> list[dict[str, Any] | Exception]:
        """Answer several questions; on a card frames of one shape go through the network together.

        Of a window of several frames the newest is looked at; ``metadata.looked_at`` is its place in the window.
        """
        asked = [question for question in questions if question.frames]
        thresholds = [question.params.threshold for question in asked if question.params.threshold is not None]
        floor = max(_LEAST_THRESHOLD, min([self._threshold, *thresholds]))
        found = iter(self._detect([question.frames[-1] for question in asked], floor))
        return [self._answer(question, next(found) if question.frames else None) for question in questions]

    def _answer(self, question: Question, found: tuple[NDArray[np.float32], ...] | None) -> dict[str, Any]:
        wanted = read_prompt(question.prompt)
        if found is None:
            return {"predictions": [], "text": "No picture was given.", "metadata": {"looked_at": None}}
        scores, classes, boxes = found
        threshold = self._threshold if question.params.threshold is None else question.params.threshold
        predictions = [
            {"label": CLASSES[int(kind)], "confidence": round(float(score), 4), "bbox": box}
            for score, kind, box in zip(scores, classes, boxes.astype(np.float64).round(1).tolist(), strict=True)
            if score >= threshold and int(kind) in wanted.classes
        ]
        return {
            "predictions": predictions,
            "text": sentence([str(prediction["label"]) for prediction in predictions], wanted),
            "metadata": {"looked_at": len(question.frames) - 1},
        }

    def _detect(self, pictures: list[Picture], floor: float = THRESHOLD) -> list[tuple[NDArray[np.float32], ...]]:
        """Return ``(scores, classes, boxes)`` of each picture, best first; boxes in its own pixels."""
        found: list[tuple[NDArray[np.float32], ...]] = [()] * len(pictures)
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


def _providers(device: str, available: Sequence[str]) -> tuple[list[Any], str]:
    has_cuda = "CUDAExecutionProvider" in available
    if device == "cpu" or (device == "auto" and not has_cuda):
        return ["CPUExecutionProvider"], "cpu"
    if device == "auto" or device == "cuda" or device.startswith("cuda:"):
        if not has_cuda:
            raise ConfigurationError(
                f"DEVICE={device}: this onnxruntime has no CUDA; install onnxruntime-gpu, or set DEVICE=cpu"
            )
        number = device.partition(":")[2] or "0"
        if not number.isdecimal():
            raise ConfigurationError(f"DEVICE={device}: expected cuda or cuda:<number>")
        chosen = ("CUDAExecutionProvider", {"device_id": int(number)})
        return [chosen, "CPUExecutionProvider"], "cuda" if device == "auto" else device
    raise ConfigurationError(f"DEVICE={device}: expected auto, cpu, cuda or cuda:<number>")
