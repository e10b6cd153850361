"""ONNX files of every form that really look: each finds the red, the green and the blue box in a picture.

The network is a few reductions, so what it gives out is known to the pixel, and every step before and after it counts:
the place of the picture in the input, its numbers, its channels, its axes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

COLOURS = ("red", "green", "blue")
KINDS = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}
SPARE_BOXES = 12
"""Empty boxes behind the real ones, as grids have them."""


class _Graph:
    """Nodes in the order they are made."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def __call__(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **attributes))
        return name

    def call(self, name: str, value: str) -> None:
        self.nodes.append(helper.make_node("Identity", [value], [name]))


def save_detector(
    path: Path,
    form: str,
    *,
    dtype: str = "float32",
    batch: int | str = "batch",
    sides: tuple[int | str, int | str] = ("height", "width"),
    is_channels_last: bool = False,
    bright: float = 0.8,
    metadata: dict[str, str] | None = None,
    softmax: bool = False,
    has_mask: bool = False,
    is_rf: bool = False,
) -> Path:
    """Write a file; ``bright`` is the value of the input above which a channel counts as lit."""
    graph = _Graph()
    shape = [batch, *sides, 3] if is_channels_last else [batch, 3, *sides]
    inputs = [helper.make_tensor_value_info("images", KINDS[dtype], shape)]
    images = graph("Cast", "images", to=TensorProto.FLOAT)
    if is_channels_last:
        images = graph("Transpose", images, perm=[0, 3, 1, 2])
    if has_mask:
        inputs.append(helper.make_tensor_value_info("pixel_mask", TensorProto.INT64, [batch, *sides]))
        mask = graph("Cast", "pixel_mask", to=TensorProto.FLOAT)
        images = graph("Mul", images, graph("Unsqueeze", mask, graph.const([1], np.int64)))
    lit = graph("Cast", graph("Greater", images, graph.const(bright)), to=TensorProto.FLOAT)
    corners, seen = _boxes(graph, lit)
    size = graph("Slice", graph("Shape", images), *(graph.const([at], np.int64) for at in (2, 4)))
    size = graph("Cast", graph("Gather", size, graph.const([1, 0, 1, 0], np.int64)), to=TensorProto.FLOAT)
    outputs = _outputs(graph, form, corners, seen, size, dtype, softmax=softmax, is_rf=is_rf)
    if form == "scored":
        inputs.append(helper.make_tensor_value_info("orig_target_sizes", TensorProto.INT64, [batch, 2]))
    model = helper.make_model(
        helper.make_graph(graph.nodes, "finder", inputs, outputs, graph.constants),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
    )
    helper.set_model_props(model, metadata or {})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def _boxes(graph: _Graph, lit: str) -> tuple[str, str]:
    """Corners ``[n, 3, 4]`` and whether there is one ``[n, 3, 1]``, colour by colour."""
    columns = graph("ReduceMax", lit, axes=[2], keepdims=0)
    rows = graph("ReduceMax", lit, axes=[3], keepdims=0)
    edges = []
    for is_last in (0, 1):
        for line in (columns, rows):
            edge = graph("ArgMax", line, axis=2, keepdims=1, select_last_index=is_last)
            edge = graph("Cast", edge, to=TensorProto.FLOAT)
            edges.append(graph("Add", edge, graph.const(1.0)) if is_last else edge)
    corners = graph("Concat", *edges, axis=2)
    seen = graph("ReduceMax", columns, axes=[2], keepdims=1)
    return graph("Mul", corners, seen), seen


def _outputs(
    graph: _Graph, form: str, corners: str, seen: str, size: str, dtype: str, *, softmax: bool, is_rf: bool
) -> list[Any]:
    given: list[Any] = []

    def give(name: str, value: str, rank: int, kind: int = TensorProto.FLOAT) -> None:
        if kind == TensorProto.FLOAT and dtype == "float16":
            kind = TensorProto.FLOAT16
            value = graph("Cast", value, to=kind)
        graph.call(name, value)
        given.append(helper.make_tensor_value_info(name, kind, [None] * rank))

    def part(value: str, begin: int, end: int) -> str:
        return graph("Slice", value, *(graph.const([at], np.int64) for at in (begin, end, 2)))

    low, high = part(corners, 0, 2), part(corners, 2, 4)
    middle = graph("Mul", graph("Add", low, high), graph.const(0.5))
    centres = graph("Concat", middle, graph("Sub", high, low), axis=2)
    shares = graph("Div", centres, size)
    scores = graph("Mul", graph("Mul", seen, graph.const(0.9)), graph.const(np.eye(3)))
    score = graph("Mul", seen, graph.const(0.9))
    numbers = graph("Mul", graph("Add", graph("Mul", seen, graph.const(0.0)), graph.const(1.0)),
                    graph.const([[0.0], [1.0], [2.0]]))  # fmt: skip

    def doubled(rows: str, columns: int) -> str:
        """The boxes, the same again a little less sure, and empty ones."""
        weaker = np.ones(columns, np.float32)
        weaker[4:] = 0.8
        both = graph("Concat", rows, graph("Mul", rows, graph.const(weaker)), axis=1)
        return graph("Pad", both, graph.const([0, 0, 0, 0, SPARE_BOXES, 0], np.int64))

    if form == "yolo":
        rows = doubled(graph("Concat", centres, scores, axis=2), 7)
        give("output0", graph("Transpose", rows, perm=[0, 2, 1]), 3)
    elif form == "yolov5":
        sure = graph("Div", scores, graph.const(0.9))
        give("output", doubled(graph("Concat", centres, score, sure, axis=2), 8), 3)
    elif form == "end2end":
        rows = graph("Concat", corners, score, numbers, axis=2)
        give("output0", graph("Pad", rows, graph.const([0, 0, 0, 0, SPARE_BOXES, 0], np.int64)), 3)
    elif form == "end2end_flat":
        zero = graph("Mul", seen, graph.const(0.0))
        rows = graph("Concat", zero, corners, numbers, score, axis=2)
        give("output", graph("Reshape", rows, graph.const([-1, 7], np.int64)), 2)
    elif form == "detr":
        logits = graph("Sub", graph("Mul", scores, graph.const(20.0)), graph.const(10.0))
        if softmax or is_rf:
            # "Nothing" lies between what is seen (8) and what is not (-10); standing alone it is never sure.
            none = graph("Sub", graph("Mul", seen, graph.const(0.0)), graph.const(5.0))
            logits = graph("Concat", logits, none, axis=2)
        give("labels" if is_rf else "logits", logits, 3)
        give("dets" if is_rf else "pred_boxes", shares, 3)
    elif form == "detr_joined":
        give("output0", graph("Concat", shares, scores, axis=2), 3)
    elif form == "detr_picked":
        # A query that sees nothing has a box nevertheless, and says so by its score.
        unseen = graph("Mul", graph("Sub", graph.const(1.0), seen), graph.const(0.5))
        give("output0", graph("Concat", graph("Add", shares, unseen), score, numbers, axis=2), 3)
    elif form == "scored":
        sizes = graph("Gather", graph("Cast", "orig_target_sizes", to=TensorProto.FLOAT),
                      graph.const([0, 1, 0, 1], np.int64), axis=1)  # fmt: skip
        boxes = graph("Mul", graph("Div", corners, size), graph("Unsqueeze", sizes, graph.const([1], np.int64)))
        labels = graph("Cast", graph("Squeeze", numbers, graph.const([2], np.int64)), to=TensorProto.INT64)
        give("labels", labels, 2, TensorProto.INT64)
        give("boxes", boxes, 3)
        give("scores", graph("Squeeze", score, graph.const([2], np.int64)), 2)
    return given


def coloured(height_px: int, width_px: int, **boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Return a black picture with a box (x1, y1, x2, y2) of each colour named."""
    picture = np.zeros((height_px, width_px, 3), np.uint8)
    for colour, (left, top, right, bottom) in boxes.items():
        picture[top:bottom, left:right, COLOURS.index(colour)] = 255
    return picture
