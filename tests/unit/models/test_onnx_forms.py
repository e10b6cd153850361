"""Which detector a file is, told by shapes, names and metadata alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from freeroam.models.detector_forms import Form, Tensor, read_inputs, read_outputs
from freeroam.vocabulary.errors import ConfigurationError

FLOAT, HALF, BYTE, LONG = "tensor(float)", "tensor(float16)", "tensor(uint8)", "tensor(int64)"
NMS = {"args": "{'batch': 1, 'nms': True}"}


def tensors(*shapes: tuple[Any, ...], names: str = "", kinds: tuple[str, ...] = ()) -> list[Tensor]:
    called = names.split() or [f"output{number}" for number in range(len(shapes))]
    typed = kinds or (FLOAT,) * len(shapes)
    return [Tensor(name, kind, shape) for name, kind, shape in zip(called, typed, shapes, strict=True)]


@pytest.mark.parametrize(
    ("outputs", "classes", "metadata", "form", "counted"),
    [
        (tensors((1, 84, 8400)), 80, {}, Form.YOLO, 80),  # yolov8n, yolo11n
        (tensors((1, 84, 8400)), None, {}, Form.YOLO, 80),
        (tensors((4, 5, 2100)), 1, {}, Form.YOLO, 1),
        (tensors((1, 6, 8400)), 2, {}, Form.YOLO, 2),
        (tensors((1, 84, 21)), 80, {}, Form.YOLO, 80),  # an input of 32 pixels
        (tensors((1, 116, 8400), (1, 32, 160, 160)), 80, {"task": "segment"}, Form.YOLO, 80),
        (tensors((1, 56, 8400)), 1, {"task": "pose"}, Form.YOLO, 1),
        (tensors((1, 25200, 85)), 80, {}, Form.YOLOV5, 80),
        (tensors((1, 25200, 85)), None, {}, Form.YOLOV5, 80),
        (tensors((1, 25200, 6)), 1, {}, Form.YOLOV5, 1),
        (tensors((1, 25200, 6)), None, {}, Form.YOLOV5, 1),
        (tensors((1, 25200, 85), (1, 3, 80, 80, 85), (1, 3, 40, 40, 85)), 80, {}, Form.YOLOV5, 80),
        (tensors((1, 300, 6)), 80, {}, Form.END2END, None),  # yolov10n
        (tensors((1, 300, 6)), 1, {}, Form.END2END, None),
        (tensors((1, 300, 6)), None, {}, Form.END2END, None),
        (tensors((1, 300, 38), (1, 32, 160, 160)), 80, {"task": "segment", **NMS}, Form.END2END, None),
        (tensors((1, 300, 57)), 80, {"task": "pose", "end2end": "True"}, Form.END2END, None),  # yolo26n-pose
        (tensors((100, 7)), 80, {}, Form.END2END_FLAT, None),
        (tensors((0, 7)), 80, {}, Form.END2END_FLAT, None),
        (tensors((1, 300, 84)), 80, {}, Form.DETR_JOINED, 80),  # rtdetr-l of ultralytics
        (tensors((1, 100, 92), (1, 100, 4), names="logits pred_boxes"), None, {}, Form.DETR, 92),
        (tensors((1, 300, 4), (1, 300, 91), names="dets labels"), None, {}, Form.DETR, 91),
        (tensors((1, 300, 4), (1, 300, 4), names="logits pred_boxes"), 4, {}, Form.DETR, 4),
        (tensors((1, 300), (1, 300, 4), (1, 300), names="labels boxes scores", kinds=(LONG, FLOAT, FLOAT)),
         80, {}, Form.SCORED, None),
        (tensors((1, 1), (1, 100, 4), (1, 100), (1, 100), names="num_dets det_boxes det_scores det_classes",
                 kinds=("tensor(int32)", FLOAT, FLOAT, "tensor(int32)")), 80, {}, Form.SCORED, None),
    ],
)  # fmt: skip
def test_a_form_is_told(outputs: list[Tensor], classes: int | None, metadata: Any, form: Form, counted: Any) -> None:
    found = read_outputs(outputs, classes, metadata)

    assert (found.form, found.classes) == (form, counted)


IN_PIXELS = [[20, 16, 44, 32, 0.1, 1], [0, 0, 1, 1, 0.02, 0]]
IN_PARTS = [[0.5, 0.4, 0.2, 0.1, 0.1, 1], [0.975, 1.0, 0.05, 0.02, 0.03, 79]]
TWO_CLASSES = [[0.5, 0.4, 0.2, 0.1, 0.1, 0.02], [0.975, 1.0, 0.05, 0.02, 0.03, 0.0]]


@pytest.mark.parametrize(
    ("rows", "classes", "metadata", "form"),
    [
        (IN_PIXELS, 80, {}, Form.END2END),
        (IN_PIXELS, 2, {}, Form.END2END),
        (IN_PIXELS, 1, {}, Form.END2END),
        (IN_PARTS, 80, {}, Form.DETR_PICKED),
        (IN_PARTS, None, {}, Form.DETR_PICKED),
        (IN_PARTS, 2, {}, Form.DETR_PICKED),
        (TWO_CLASSES, 2, {}, Form.DETR_JOINED),
        ([[0.0] * 6] * 3, 80, {}, Form.END2END),  # the suppression left nothing of a grey picture
        ([[0.0] * 6] * 3, 2, {}, Form.END2END),
        ([[0, 0, 0.9, 0.8, 0.3, 0], [0.0] * 6], 80, NMS, Form.END2END),
        (np.zeros((0, 6)), 80, {}, Form.END2END),
    ],
)
def test_forms_of_one_shape_are_told_by_the_numbers_of_a_first_run(
    rows: Any, classes: int | None, metadata: Any, form: Form
) -> None:
    value = np.array([rows], np.float32)

    found = read_outputs([Tensor("output0", FLOAT, value.shape, value)], classes, metadata)

    assert found.form is form


def test_labels_boxes_and_scores_are_told_apart_in_any_order() -> None:
    mixed = tensors((1, 9), (1, 9), (1, 9, 4), names="scores labels boxes", kinds=(FLOAT, LONG, FLOAT))
    floats = tensors((1, 9), (1, 9, 4), (1, 9), names="classes b s")

    assert read_outputs(mixed, 3, {}).names == ("labels", "boxes", "scores")
    assert read_outputs(floats, 3, {}).names == ("classes", "b", "s")


def test_the_operator_decides_between_forms_of_one_shape() -> None:
    outputs = tensors((1, 300, 6))

    assert read_outputs(outputs, 1, {}, Form.YOLOV5).form is Form.YOLOV5
    assert read_outputs(outputs, 1, {}, Form.DETR_PICKED).form is Form.DETR_PICKED
    assert read_outputs(outputs, 1, {}).form is Form.END2END
    assert read_outputs(outputs, 1, {"end2end": "True"}, None).form is Form.END2END


@pytest.mark.parametrize(
    ("outputs", "classes", "metadata", "wanted"),
    [
        (tensors((1, 1000)), 1000, {}, None),
        (tensors((1, 84, 8400)), 3, {}, None),
        (tensors((1, 21, 64, 64)), None, {}, None),
        (tensors((1, 3, 80, 80, 85)), None, {}, None),
        (tensors((1, 80, 128, 128), (1, 4, 128, 128)), 80, {}, None),
        (tensors((1, 7, 7)), None, {}, None),
        (tensors((1, 300, 6)), 80, {}, Form.YOLO),
        ([], None, {}, None),
    ],
)
def test_other_outputs_are_refused_with_what_was_found(
    outputs: list[Tensor], classes: int | None, metadata: Any, wanted: Form | None
) -> None:
    with pytest.raises(ConfigurationError, match=r"expected \[n, 4 \+ classes, boxes\]") as caught:
        read_outputs(outputs, classes, metadata, wanted)

    assert all(str(tensor) in caught.value.message for tensor in outputs)


@pytest.mark.parametrize("task", ["classify", "obb", "semantic"])
def test_a_file_for_another_task_is_refused_by_its_name(task: str) -> None:
    with pytest.raises(ConfigurationError, match=task):
        read_outputs(tensors((1, 84, 8400)), 80, {"task": task})


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (tensors((1, 3, 640, 640)), ("float32", False, 1, 640, 640, None, None)),
        (tensors((None, 3, None, None), kinds=(HALF,)), ("float16", False, None, None, None, None, None)),
        (tensors((None, None, None, None)), ("float32", False, None, None, None, None, None)),
        (tensors((8, 320, 640, 3), kinds=(BYTE,)), ("uint8", True, 8, 320, 640, None, None)),
        (tensors((1, 3, 640, 640), (1, 2), kinds=(FLOAT, LONG)), ("float32", False, 1, 640, 640, LONG, None)),
        (tensors((1, 3, 800, None), (1, 800, None), names="pixel_values pixel_mask", kinds=(FLOAT, LONG)),
         ("float32", False, 1, 800, None, None, LONG)),
    ],
)  # fmt: skip
def test_inputs_are_read(inputs: list[Tensor], expected: tuple[Any, ...]) -> None:
    form = read_inputs(inputs)

    told = (form.dtype, form.is_channels_last, form.batch, form.height_px, form.width_px)
    assert (*told, form.sizes and form.sizes[1], form.mask and form.mask[1]) == expected


@pytest.mark.parametrize(
    "inputs",
    [
        tensors((1, 1, 640, 640)),
        tensors((1, 3, 640)),
        tensors((1, 16), kinds=(LONG,)),
        tensors((1, 3, 640, 640), kinds=(LONG,)),
        tensors((1, 3, 8, 8), (1, 3, 8, 8)),
        tensors((1, 3, 8, 8), (1, 77), kinds=(FLOAT, LONG)),
        tensors((1, 3, 8, 8), (1, 2), (1, 2)),
        [],
    ],
)
def test_other_inputs_are_refused_with_what_was_found(inputs: list[Tensor]) -> None:
    with pytest.raises(ConfigurationError, match="something else than pictures") as caught:
        read_inputs(inputs)

    assert all(str(tensor) in caught.value.message for tensor in inputs)
