"""Which kind of detector an ONNX file is, told by its inputs, by what a first run gives out, and by its metadata.

Known forms (n pictures, q boxes, nc classes):

================  ==================================================================================================
``yolo``          ``[n, 4 + nc, q]`` centre and size in input pixels, a score a class (YOLOv8, YOLO11, ...)
``yolov5``        ``[n, q, 5 + nc]`` the same with an objectness before the scores (YOLOv5, YOLOv7, decoded YOLOX)
``end2end``       ``[n, q, 6]`` corners in input pixels, score, class; suppressed already (YOLOv10, ``nms=True``)
``end2end_flat``  ``[q, 7]`` picture, corners, class, score; suppressed already (YOLOv7 ``--end2end``)
``detr``          ``[n, q, nc or nc + 1]`` logits, ``[n, q, 4]`` centre and size 0 to 1 (DETR, RT-DETR, RF-DETR)
``detr_joined``   ``[n, q, 4 + nc]`` centre and size 0 to 1, and scores (RT-DETR as ultralytics exported it)
``detr_picked``   ``[n, q, 6]`` centre and size 0 to 1, score, class (RT-DETR as ultralytics exports it since 8.4)
``scored``        ``[n, q, 4]`` corners, ``[n, q]`` scores, ``[n, q]`` classes (RT-DETR with ``orig_target_sizes``)
================  ==================================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from freeroam.vocabulary.errors import ConfigurationError

_CHANNELS = 3
_BOX = 4
_END2END = 6
_FLAT = 7
_MOST_SET_BOXES = 1000
"""Files with the suppression inside, and those that need none, give out some hundred boxes; grids give thousands."""
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}
_REFUSED_TASKS = ("classify", "obb", "semantic")


class Form(StrEnum):
    """What the outputs mean; see the module."""

    YOLO = "yolo"
    YOLOV5 = "yolov5"
    END2END = "end2end"
    END2END_FLAT = "end2end_flat"
    DETR = "detr"
    DETR_JOINED = "detr_joined"
    DETR_PICKED = "detr_picked"
    SCORED = "scored"


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output.

    Attributes:
        name: Its name.
        kind: Its type as onnxruntime writes it, such as ``tensor(float)``.
        shape: Its sides; None where the file leaves one open.
        value: What a first run on a grey picture gave, of that shape; None if there was none.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...]
    value: NDArray[Any] | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        sides = ", ".join("?" if side is None else str(side) for side in self.shape)
        return f"{self.name} {self.kind.removeprefix('tensor(').removesuffix(')')} [{sides}]"


@dataclass(frozen=True, slots=True)
class InputForm:
    """What the file is given.

    Attributes:
        name: The pictures.
        dtype: ``float32``, ``float16`` or ``uint8``.
        is_channels_last: ``[n, h, w, 3]`` instead of ``[n, 3, h, w]``.
        batch: Pictures in a run; None takes any number.
        height_px: None takes any.
        width_px: None takes any.
        sizes: Name and type of the input ``[n, 2]`` that is told width and height, if there is one.
        mask: Name and type of the input ``[n, h, w]`` that is 1 where the picture is, if there is one.
    """

    name: str
    dtype: str
    is_channels_last: bool
    batch: int | None
    height_px: int | None
    width_px: int | None
    sizes: tuple[str, str] | None = None
    mask: tuple[str, str] | None = None


@dataclass(frozen=True, slots=True)
class OutputForm:
    """What the file gives out.

    Attributes:
        form: What it means.
        names: The outputs that are needed, in the order of the form's table.
        classes: How many classes there are; None if the shape does not say.
    """

    form: Form
    names: tuple[str, ...]
    classes: int | None


def read_inputs(inputs: Sequence[Tensor]) -> InputForm:
    """Return what the file is given.

    Raises:
        ConfigurationError: It is nothing that a detector of pictures is given; says what was expected and found.
    """
    pictures = [tensor for tensor in inputs if len(tensor.shape) == 4 and tensor.kind in _DTYPES]
    rest = [tensor for tensor in inputs if tensor not in pictures]
    sizes = [tensor for tensor in rest if len(tensor.shape) == 2 and tensor.shape[1] in {2, None}]
    masks = [tensor for tensor in rest if len(tensor.shape) == 3 and "mask" in tensor.name]
    if len(pictures) != 1 or len(sizes) > 1 or len(masks) > 1 or len(sizes) + len(masks) != len(rest):
        raise _unknown_input(inputs)
    picture = pictures[0]
    is_last = picture.shape[3] == _CHANNELS and picture.shape[1] != _CHANNELS
    if not is_last and picture.shape[1] not in {_CHANNELS, None}:
        raise _unknown_input(inputs)
    height_px, width_px = picture.shape[1:3] if is_last else picture.shape[2:4]
    return InputForm(
        picture.name,
        _DTYPES[picture.kind],
        is_last,
        picture.shape[0],
        height_px,
        width_px,
        (sizes[0].name, sizes[0].kind) if sizes else None,
        (masks[0].name, masks[0].kind) if masks else None,
    )


def read_outputs(
    outputs: Sequence[Tensor], classes: int | None, metadata: Mapping[str, str], wanted: Form | None = None
) -> OutputForm:
    """Return what the file gives out.

    Args:
        outputs: With the sides and values that a first run gave them.
        classes: How many class names are known; None if none are.
        metadata: The file's own, as ultralytics writes it: ``task``, ``end2end``, ``args``.
        wanted: What the operator says it is; None lets the shapes decide.

    Raises:
        ConfigurationError: It is no detector of a known form; says what was expected and found.
    """
    task = metadata.get("task", "detect")
    if task in _REFUSED_TASKS:
        raise ConfigurationError(
            f"the ONNX file is made for the task {task!r}, and a detector of upright boxes is expected "
            "(detect, segment or pose)"
        )
    cubes = [tensor for tensor in outputs if len(tensor.shape) == 3]
    found = _read_pair(outputs, cubes) or _read_flat(outputs) or _read_single(cubes, classes, metadata, wanted)
    if found is None or (wanted is not None and found.form is not wanted):
        raise _unknown_output(outputs, classes, wanted)
    return found


def _read_pair(outputs: Sequence[Tensor], cubes: Sequence[Tensor]) -> OutputForm | None:
    """Boxes and what they hold come in outputs of their own."""
    boxes = [tensor for tensor in cubes if tensor.shape[2] == _BOX]
    if len(boxes) > 1:
        boxes = [tensor for tensor in boxes if any(word in tensor.name.lower() for word in ("box", "dets"))]
    if len(boxes) != 1:
        return None
    count = boxes[0].shape[1]
    logits = [tensor for tensor in cubes if tensor is not boxes[0] and tensor.shape[1] == count]
    flats = [tensor for tensor in outputs if len(tensor.shape) == 2 and tensor.shape[1] == count]
    if len(logits) == 1:
        return OutputForm(Form.DETR, (logits[0].name, boxes[0].name), logits[0].shape[2])
    if len(flats) == 2:
        labels, scores = sorted(flats, key=_is_scores)
        return OutputForm(Form.SCORED, (labels.name, boxes[0].name, scores.name), None)
    return None


def _is_scores(tensor: Tensor) -> tuple[bool, bool]:
    is_label = any(word in tensor.name.lower() for word in ("label", "class"))
    return "int" not in tensor.kind, not is_label


def _read_flat(outputs: Sequence[Tensor]) -> OutputForm | None:
    if len(outputs) == 1 and len(outputs[0].shape) == 2 and outputs[0].shape[1] == _FLAT:
        return OutputForm(Form.END2END_FLAT, (outputs[0].name,), None)
    return None


def _read_single(
    cubes: Sequence[Tensor], classes: int | None, metadata: Mapping[str, str], wanted: Form | None
) -> OutputForm | None:
    """Boxes and scores come in one output; further ones (masks, raw grids) are not needed."""
    if not cubes:
        return None
    first = cubes[0]
    rows, columns = first.shape[1] or 0, first.shape[2] or 0
    more = metadata.get("task") in {"segment", "pose"}
    fits = {
        Form.DETR_PICKED: columns == _END2END and rows <= _MOST_SET_BOXES,
        Form.END2END: columns == _END2END or (more and columns > _END2END and _has_suppression(metadata)),
        Form.YOLO: _holds(rows, _BOX, classes, more) and (classes is not None or rows < columns),
        Form.YOLOV5: _holds(columns, _BOX + 1, classes, more) and (classes is not None or columns < rows),
        Form.DETR_JOINED: classes is not None and columns == _BOX + classes and rows <= _MOST_SET_BOXES,
    }
    possible = [wanted] if wanted is not None and fits.get(wanted) else [form for form, fit in fits.items() if fit]
    if len(possible) > 1:
        possible = [_likelier(possible, first, metadata)]
    if not possible:
        return None
    form = possible[0]
    counts = {Form.YOLO: rows - _BOX, Form.YOLOV5: columns - _BOX - 1, Form.DETR_JOINED: columns - _BOX}
    count = counts.get(form)
    return OutputForm(form, (first.name,), classes if more and classes is not None and count is not None else count)


def _holds(side: int, before: int, classes: int | None, more: bool) -> bool:
    """Return whether a side holds ``before`` numbers and the scores, and where there are masks or points, more."""
    if classes is None:
        return side > before
    return side == before + classes or (more and side > before + classes)


def _likelier(possible: Sequence[Form], tensor: Tensor, metadata: Mapping[str, str]) -> Form:
    """Return which of several forms of one shape it is: few boxes are a set, thousands are a grid."""
    if _has_suppression(metadata):
        return Form.END2END
    if (tensor.shape[1] or 0) > _MOST_SET_BOXES:
        ordered = [Form.YOLOV5, Form.YOLO, Form.DETR_JOINED, Form.END2END]
    elif _has_boxes_in_parts(tensor.value):
        is_numbered = not np.mod(tensor.value[..., _END2END - 1], 1.0).any()
        ordered = [Form.DETR_PICKED, Form.DETR_JOINED] if is_numbered else [Form.DETR_JOINED, Form.DETR_PICKED]
    else:
        ordered = [Form.END2END, Form.DETR_JOINED, Form.YOLO, Form.YOLOV5]
    return next(form for form in [*ordered, *possible] if form in possible)


def _has_boxes_in_parts(value: NDArray[Any] | None) -> TypeGuard[NDArray[Any]]:
    """Whether boxes are parts of one: a set has hundreds, also of a grey picture, and in pixels some lie further out.

    Where all are empty, as behind a suppression that has left none, nothing is known.
    """
    if value is None:
        return False
    boxes = value[..., :_BOX]
    return bool(boxes.size and boxes.min() >= 0.0 and 0.0 < boxes.max() <= 1.0)


def _has_suppression(metadata: Mapping[str, str]) -> bool:
    """Whether ultralytics says that the suppression is in the file."""
    return metadata.get("end2end", "").lower() == "true" or "'nms': True" in metadata.get("args", "")


def _unknown_input(inputs: Sequence[Tensor]) -> ConfigurationError:
    return ConfigurationError(
        "the ONNX file is given something else than pictures: expected one input [n, 3, h, w] or [n, h, w, 3] of "
        "float32, float16 or uint8, beside it at most one [n, 2] for sizes and one mask [n, h, w]; found "
        + ("; ".join(map(str, inputs)) or "none")
    )


def _unknown_output(outputs: Sequence[Tensor], classes: int | None, wanted: Form | None) -> ConfigurationError:
    known = "no class names" if classes is None else f"{classes} class names"
    asked = f" (the option form says {wanted})" if wanted else ""
    return ConfigurationError(
        f"the ONNX file is no detector of a known form{asked}: expected [n, 4 + classes, boxes] or [n, boxes, 5 + "
        "classes] (YOLO), [n, boxes, 6] or [boxes, 7] (with the suppression inside), [n, boxes, classes] logits with "
        "[n, boxes, 4] boxes (DETR), or labels, boxes and scores; found "
        f"{'; '.join(map(str, outputs)) or 'none'} and {known}"
    )
