"""A user's own detector in an ONNX file: the usual YOLO exports, and those of DETR and its kin."""

from __future__ import annotations

import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from freeroam.models.base import Question
from freeroam.models.batch_first import BatchFirst
from freeroam.models.boxes import GREY, Picture
from freeroam.models.detector_answers import Found, answers_of
from freeroam.models.detector_forms import Form, InputForm, OutputForm, Tensor, read_inputs, read_outputs
from freeroam.models.detector_input import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Numbers,
    Placement,
    filling,
    fitted,
    letterboxed,
    place_all,
)
from freeroam.models.detector_names import find_names
from freeroam.models.detector_outputs import kept, read_picture
from freeroam.models.detector_session import open_session
from freeroam.models.prompt_classes import Vocabulary
from freeroam.vocabulary.errors import ConfigurationError
from freeroam.vocabulary.model import ModelWishes

if TYPE_CHECKING:
    import onnxruntime

MODEL_TYPE = "onnx_detector"
SIZE_PX = 640
MULTIPLE_PX = 32
THRESHOLD = 0.25
OVERLAP = 0.7
"""Threshold and overlap are those of ``yolo predict``."""
MAX_DETECTIONS = 300
MAX_BATCH = 16
MAX_BATCH_CPU = 4
_MAX_SIZE_PX = 8192
_GRIDS = frozenset({Form.YOLO, Form.YOLOV5})
_ULTRALYTICS_DETRS = frozenset({Form.DETR_JOINED, Form.DETR_PICKED})
"""Trained on pictures stretched to a square, also where the file leaves the sides open."""
_COMPETING_COCO = 92
"""Columns of DETR's own logits: the 91 numbers of COCO and "nothing"."""


class OnnxDetector(BatchFirst):
    """Finds what its file was trained for; the prompt chooses which classes are reported.

    Args:
        size: Long side of the network's input where the file leaves it open, pixels; 0 takes the file's ``imgsz``, else
            640.
        threshold: Smallest score that is reported unless the question says its own.
        overlap: Boxes of a class that cover each other by more than this are one; used where the file leaves it to us.
        names: Class names: a list, a mapping from number to name, a file with one a line, or ``coco``; empty takes the
            file's metadata, or a file beside it.
        form: One of ``detector_forms.Form``; empty tells it by the shapes.
        fit: ``letterbox`` keeps a picture's aspect, ``stretch`` does not; empty is as the form was trained.
        values: What becomes of 0 to 255 in a float input: ``unit`` (0 to 1), ``imagenet`` (normalised too), ``raw``;
            empty takes a ``preprocessor_config.json`` beside the file, else what the form was trained with.
        scores: Of logits: ``sigmoid`` or ``softmax`` (with "nothing" as the last); empty tells it by their number.
        channels: ``rgb`` or ``bgr``.
        threads: Threads of onnxruntime for one call; 0 lets it decide.
    """

    def __init__(  # noqa: PLR0913 - every one is a setting of its own
        self,
        *,
        size: int = 0,
        threshold: float = THRESHOLD,
        overlap: float = OVERLAP,
        names: Any = None,
        form: str = "",
        fit: str = "",
        values: str = "",
        scores: str = "",
        channels: str = "rgb",
        threads: int = 0,
    ) -> None:
        if not 0 <= size <= _MAX_SIZE_PX:
            raise ConfigurationError(f"size is {size}: expected 0 to {_MAX_SIZE_PX} pixels")
        if not 0.0 < threshold < 1.0:
            raise ConfigurationError(f"threshold is {threshold}: expected a number between 0 and 1")
        if not 0.0 < overlap <= 1.0:
            raise ConfigurationError(f"overlap is {overlap}: expected a number over 0 and up to 1")
        _check("form", form, ("", *Form))
        _check("fit", fit, ("", "letterbox", "stretch"))
        _check("values", values, ("", "unit", "imagenet", "raw"))
        _check("scores", scores, ("", "sigmoid", "softmax"))
        _check("channels", channels, ("rgb", "bgr"))
        self._size_px = size
        self._threshold = threshold
        self._overlap = overlap
        self._names = names
        self._wanted_form = Form(form) if form else None
        self._fit = fit
        self._values = values
        self._scores = scores
        self._is_bgr = channels == "bgr"
        self._threads = threads
        self._multiple_px = MULTIPLE_PX
        self._device = "cpu"
        self._file = ""
        self._is_softmax = False
        self._images_per_run = 1
        self._numbers: Numbers | None = None
        self._session: onnxruntime.InferenceSession | None = None
        self._input: InputForm
        self._output: OutputForm
        self._vocabulary: Vocabulary

    async def initialize(self, model_path: str, device: str = "auto") -> None:
        """Load the file and find out what it is, by a first run on a grey picture.

        Args:
            model_path: An ONNX file, or a folder with one.
            device: ``auto`` takes CUDA if this onnxruntime has it, else the processor.

        Raises:
            ConfigurationError: No such file, no detector of a known form, no class names where they are needed, or a
                CUDA device that is not there.
        """
        path = _file_at(model_path)
        self._session, self._device = open_session(path, device, self._threads)
        self._file = path.name
        metadata = dict(self._session.get_modelmeta().custom_metadata_map)
        self._input = read_inputs([_tensor(given) for given in self._session.get_inputs()])
        self._size_px = self._size_px or _greatest(metadata.get("imgsz", "")) or SIZE_PX
        self._multiple_px = _greatest(metadata.get("stride", "")) or MULTIPLE_PX
        self._numbers = None if self._input.dtype == "uint8" else Numbers()
        names = find_names(self._names, metadata, path)
        self._output = read_outputs(self._try_out(), len(names) if names else None, metadata, self._wanted_form)
        self._settle(path, names)
        # On the processor several images together take longer than one by one: they fall out of the caches.
        self._images_per_run = self._input.batch or (1 if self._device == "cpu" else MAX_BATCH)

    async def warm_up(self) -> None:
        """Run one frame of the likeliest shape, so that the first question pays for no set-up."""
        self._detect([np.full((self._sides[0] * 9 // 16 or 1, self._sides[1], 3), GREY, np.uint8)], self._threshold)

    def get_wishes(self) -> ModelWishes:
        """Ask for single frames that fit the input without further scaling."""
        max_batch = max(self._input.batch or 1, MAX_BATCH_CPU if self._device == "cpu" else MAX_BATCH)
        return ModelWishes(width_px=self._sides[1], height_px=self._sides[0], window=1, max_batch=max_batch)

    def get_model_info(self) -> dict[str, Any]:
        """Return what it is and can find."""
        return {
            "model_type": MODEL_TYPE,
            "device": self._device,
            "file": self._file,
            "form": self._output.form.value,
            "input": list(self._sides),
            "fit": self._fit,
            "values": self._values,
            "threshold": self._threshold,
            "classes": list(self._vocabulary.names),
        }

    async def predict_batch(self, questions: Sequence[Question]) -> list[dict[str, Any] | Exception]:
        """Answer several questions; frames that make inputs of one size go through the network together.

        Of a window of several frames the newest is looked at; ``metadata.looked_at`` is its place in the window.
        """
        return answers_of(questions, self._detect, self._vocabulary, self._threshold)

    def _settle(self, path: Path, names: list[str] | None) -> None:
        """Decide what the shapes do not say, each unless the operator has said it."""
        columns, form = self._output.classes, self._output.form
        is_detr = form in {Form.DETR, Form.SCORED, *_ULTRALYTICS_DETRS}
        is_rf_detr = form is Form.DETR and set(self._output.names) == {"dets", "labels"}
        if form is Form.DETR:
            competing = _COMPETING_COCO if names is None else len(names) + 1
            self._is_softmax = self._scores == "softmax" or (
                not self._scores and not is_rf_detr and columns == competing
            )
            if columns is not None and self._is_softmax:
                columns -= 1
        if names is None and columns is None:
            raise ConfigurationError(
                f"MODEL_PATH={path}: the file names no classes and its outputs do not say how many there are; set the "
                f"option names, or put them beside it into {path.with_suffix('.names').name}, one a line"
            )
        names = list(names or ())
        if columns is not None and len(names) > columns:
            raise ConfigurationError(
                f"MODEL_PATH={path}: {len(names)} class names for {columns} classes; correct the option names, or the "
                "file of names beside it"
            )
        names += [f"class {number}" for number in range(len(names), columns or 0)]
        self._vocabulary = Vocabulary(names)
        is_stretched = form in _ULTRALYTICS_DETRS or (is_detr and self._is_fixed)
        self._fit = self._fit or ("stretch" if is_stretched else "letterbox")
        if self._input.dtype == "uint8":
            self._values = "raw"
        elif not self._values and is_detr and (told := _told_numbers(path.parent / "preprocessor_config.json")):
            self._values, self._numbers = "as preprocessor_config.json says", told
            return
        self._values = self._values or ("imagenet" if self._is_softmax or is_rf_detr else "unit")
        self._numbers = {
            "raw": None if self._input.dtype == "uint8" else Numbers(scale=1.0),
            "unit": Numbers(),
            "imagenet": Numbers(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        }[self._values]

    @property
    def _is_fixed(self) -> bool:
        """Whether the file fixes a side of its input."""
        return self._input.height_px is not None or self._input.width_px is not None

    @property
    def _sides(self) -> tuple[int, int]:
        """Height and width of the input; where they are open, of the box that it fits in."""
        return self._input.height_px or self._size_px, self._input.width_px or self._size_px

    def _place(self, picture: Picture) -> Placement:
        if self._fit == "stretch":
            return filling(self._sides)
        if self._is_fixed:
            return letterboxed(picture.shape[0], picture.shape[1], self._sides)
        return fitted(picture.shape[0], picture.shape[1], self._size_px, self._multiple_px)

    def _try_out(self) -> list[Tensor]:
        """Return the outputs with the sides and values that a run on a grey picture gives them."""
        assert self._session is not None
        declared = [_tensor(output) for output in self._session.get_outputs()]
        picture = np.full((*self._sides, 3), GREY, np.uint8)
        try:
            given = self._run([picture], [filling(self._sides)], None)
        except Exception as error:  # onnxruntime has an exception of its own for each way to fail
            raise ConfigurationError(
                f"the ONNX file cannot be run on a picture of {self._sides[1]}x{self._sides[0]} pixels: {error}; if it "
                "wants another size, set the option size"
            ) from error
        return [
            Tensor(tensor.name, tensor.kind, tuple(np.shape(value)), value)
            for tensor, value in zip(declared, given, strict=True)
        ]

    def _detect(self, pictures: list[Picture], floor: float) -> list[Found]:
        """Return ``(scores, classes, boxes)`` of each picture, best first; boxes in its own pixels."""
        found: list[Found] = [()] * len(pictures)
        places = [self._place(picture) for picture in pictures]
        groups: dict[tuple[int, int], list[int]] = {}
        for index, put in enumerate(places):
            groups.setdefault(put.sides, []).append(index)
        for members in groups.values():
            for first in range(0, len(members), self._images_per_run):
                together = members[first : first + self._images_per_run]
                outputs = self._run(
                    [pictures[index] for index in together], [places[index] for index in together], self._output.names
                )
                for row, index in enumerate(together):
                    found[index] = self._seen(outputs, row, places[index], pictures[index].shape, floor)
        return found

    def _seen(self, outputs: list[NDArray[Any]], row: int, put: Placement, shape: Sequence[int], floor: float) -> Found:
        seen = read_picture(outputs, row, self._output, put.sides, floor, is_softmax=self._is_softmax)
        overlap = self._overlap if self._output.form in _GRIDS else None
        scores, kinds, boxes = kept(seen, overlap, MAX_DETECTIONS)
        boxes = put.to_picture(boxes, shape)
        is_real = (boxes[:, 2] - boxes[:, 0] >= 1) & (boxes[:, 3] - boxes[:, 1] >= 1)
        is_real &= (kinds >= 0) & (kinds < len(self._vocabulary.names))
        return scores[is_real], kinds[is_real].astype(np.float32), boxes[is_real]

    def _run(self, pictures: list[Picture], places: list[Placement], names: Sequence[str] | None) -> list[NDArray[Any]]:
        """Put pictures through the network; a batch that the file fixes is filled up with grey."""
        assert self._session is not None, "initialize() comes first"
        form, count = self._input, self._input.batch or len(pictures)
        images: NDArray[Any] = place_all(pictures, places, count, self._numbers, is_bgr=self._is_bgr)
        if form.is_channels_last:
            images = np.ascontiguousarray(images.transpose(0, 2, 3, 1))
        feeds: dict[str, NDArray[Any]] = {form.name: images.astype(form.dtype, copy=False)}
        height_px, width_px = places[0].sides
        if form.sizes is not None:
            # Given the input's own size, boxes come in input pixels whatever the picture's size was.
            feeds[form.sizes[0]] = np.array([[width_px, height_px]] * count, _dtype_of(form.sizes[1]))
        if form.mask is not None:
            mask = np.zeros((count, height_px, width_px), _dtype_of(form.mask[1]))
            for row, put in enumerate(places):
                mask[row, put.top_px : put.top_px + put.height_px, put.left_px : put.left_px + put.width_px] = 1
            feeds[form.mask[0]] = mask
        outputs: list[NDArray[Any]] = self._session.run(list(names) if names else None, feeds)
        return outputs


def _check(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{name} is {value}: expected one of {', '.join(filter(None, allowed))}")


def _file_at(model_path: str) -> Path:
    if not model_path:
        raise ConfigurationError("onnx_detector: MODEL_PATH is not set; expected an ONNX file, or a folder with one")
    path = Path(model_path)
    if path.is_dir():
        inside = sorted(path.glob("*.onnx"))
        named = [file for file in inside if file.name == "model.onnx"]
        if len(named or inside) != 1:
            found = ", ".join(file.name for file in inside) or "none"
            raise ConfigurationError(
                f"MODEL_PATH={model_path}: expected one ONNX file in this folder, found {found}; name the file"
            )
        path = (named or inside)[0]
    if not path.is_file():
        raise ConfigurationError(f"MODEL_PATH={model_path}: there is no file {path.name} to load")
    return path


def _tensor(node: Any) -> Tensor:
    """Return an input or output as onnxruntime describes it; an open side is a name, or nothing at all, there."""
    sides = tuple(side if isinstance(side, int) and side > 0 else None for side in node.shape or ())
    return Tensor(node.name, node.type, sides)


def _dtype_of(kind: str) -> str:
    return {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(bool)": "bool"}.get(
        kind, kind.removeprefix("tensor(").removesuffix(")")
    )


def _greatest(text: str) -> int:
    """Return the greatest whole number in a literal such as ``[640, 640]`` or ``32``; 0 if there is none."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return 0
    sides = value if isinstance(value, list | tuple) else [value]
    return max((side for side in sides if isinstance(side, int) and 0 < side <= _MAX_SIZE_PX), default=0)


def _told_numbers(path: Path) -> Numbers | None:
    """Return what a ``preprocessor_config.json`` beside the file says, None if there is none."""
    try:
        told = json.loads(path.read_bytes())
        scale = float(told.get("rescale_factor", 1.0 / 255.0)) if told.get("do_rescale", True) else 1.0
        if not told.get("do_normalize"):
            return Numbers(scale)
        mean, std = (tuple(float(value) for value in told[name]) for name in ("image_mean", "image_std"))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    is_usable = len(mean) == 3 and len(std) == 3 and all(value > 0 for value in std)
    return Numbers(scale, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])) if is_usable else None
