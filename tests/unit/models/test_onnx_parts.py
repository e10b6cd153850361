"""The parts of an ONNX detector by themselves: options, places, sizes, outputs, the words of its classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from freeroam.models.boxes import resized, stretched
from freeroam.models.detector_forms import Form, OutputForm
from freeroam.models.detector_input import Numbers, Placement, filling, fitted, letterboxed, place_all
from freeroam.models.detector_names import find_names
from freeroam.models.detector_outputs import MAX_CANDIDATES, kept, read_picture
from freeroam.models.onnx_detector import OnnxDetector
from freeroam.models.prompt_classes import COCO, Vocabulary
from freeroam.vocabulary.errors import ConfigurationError

SIDES = (64, 96)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("size", -1), ("size", 10**6), ("threshold", 0.0), ("threshold", 1.0), ("overlap", 0.0), ("form", "yolov9000"),
        ("fit", "crop"), ("values", "255"), ("scores", "linear"), ("channels", "rgba"),
    ],
)  # fmt: skip
def test_impossible_options_are_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=f"{option} is {value}"):
        OnnxDetector(**{option: value})


# Values checked against ultralytics' LetterBox: shape -> size of the picture, what is above, what is before it.
@pytest.mark.parametrize(
    ("height", "width", "sides", "expected"),
    [
        (720, 1280, (640, 640), (360, 640, 140, 0)),
        (1280, 720, (640, 640), (640, 360, 0, 140)),
        (333, 500, (640, 640), (426, 640, 107, 0)),
        (427, 640, (640, 640), (427, 640, 106, 0)),
        (640, 640, (640, 640), (640, 640, 0, 0)),
        (100, 100, (640, 640), (640, 640, 0, 0)),
        (1, 5000, (640, 640), (1, 640, 319, 0)),
    ],
)
def test_a_letterboxed_picture_lies_in_the_middle(height: int, width: int, sides: Any, expected: Any) -> None:
    put = letterboxed(height, width, sides)

    assert (put.height_px, put.width_px, put.top_px, put.left_px) == expected


@given(st.integers(1, 3000), st.integers(1, 3000), st.sampled_from(["letterbox", "open", "fill"]))
def test_a_box_taken_to_the_input_and_back_is_itself(height: int, width: int, how: str) -> None:
    put = {
        "letterbox": lambda: letterboxed(height, width, (320, 640)),
        "open": lambda: fitted(height, width, 640, 32),
        "fill": lambda: filling((320, 640)),
    }[how]()
    box = np.array([[width * 0.25, height * 0.1, width * 0.75, height * 0.9]], np.float32)
    inside = box.copy()
    inside[:, 0::2] = inside[:, 0::2] * put.width_px / width + put.left_px
    inside[:, 1::2] = inside[:, 1::2] * put.height_px / height + put.top_px

    back = put.to_picture(inside, (height, width, 3))

    assert 0 <= put.top_px <= put.sides[0] - put.height_px
    assert 0 <= put.left_px <= put.sides[1] - put.width_px
    assert np.allclose(back, box, atol=max(height, width) * 1e-4)


def test_boxes_beyond_the_picture_are_clipped_to_it() -> None:
    put = Placement(40, 60, 10, 20, (60, 100))

    boxes = put.to_picture(np.array([[-50.0, -50.0, 500.0, 500.0], [0.0, 0.0, 10.0, 5.0]], np.float32), (80, 120))

    assert boxes.tolist() == [[0, 0, 120, 80], [0, 0, 0, 0]]


def test_pictures_are_written_in_their_numbers_and_the_rest_is_grey() -> None:
    picture = np.full((2, 3, 3), (255, 0, 51), np.uint8)
    put = Placement(2, 3, 1, 0, (4, 3))

    unit = place_all([picture], [put], 2, Numbers(), is_bgr=False)
    turned = place_all([picture], [put], 1, None, is_bgr=True)
    normal = place_all([picture], [put], 1, Numbers(mean=(0.5, 0.5, 0.2), std=(0.5, 0.25, 1.0)), is_bgr=False)

    assert unit.shape == (2, 3, 4, 3)
    assert unit[0, :, 1, 0].tolist() == pytest.approx([1.0, 0.0, 0.2])
    assert unit[0, 0, [0, 3], 0].tolist() == pytest.approx([114 / 255] * 2)
    assert unit[1].min() == unit[1].max() == pytest.approx(114 / 255)
    assert turned.dtype == np.uint8
    assert turned[0, :, 1, 0].tolist() == [51, 0, 255]
    assert normal[0, :, 1, 0].tolist() == pytest.approx([1.0, -2.0, 0.0], abs=1e-6)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 90), st.integers(1, 90))
def test_a_stretched_picture_keeps_its_values_and_its_average(h: int, w: int, high: int, wide: int) -> None:
    even = np.full((h, w, 3), 77, np.uint8)
    slope = np.linspace(0, 255, w).astype(np.uint8)[None, :, None].repeat(h, 0).repeat(3, 2)

    assert stretched(even, high, wide).tolist() == np.full((high, wide, 3), 77).tolist()
    grown = stretched(slope, high, max(wide, w))
    assert np.all(np.diff(grown[0, :, 0].astype(int)) >= 0)
    assert (
        stretched(slope, min(h, high), min(w, wide)).tolist()
        == (slope if (min(h, high), min(w, wide)) == (h, w) else resized(slope, min(h, high), min(w, wide))).tolist()
    )


def seen(form: Form, *outputs: Any, classes: int | None = 2, softmax: bool = False, floor: float = 0.3) -> list[Any]:
    arrays = [np.array(output, np.float32) for output in outputs]
    scores, kinds, boxes = read_picture(
        arrays, 0, OutputForm(form, (), classes), SIDES, floor, is_softmax=softmax
    )  # fmt: skip
    return [(round(float(s), 3), int(k), b) for s, k, b in zip(scores, kinds, boxes.tolist(), strict=True)]


def test_each_form_gives_scores_classes_and_corners_in_input_pixels() -> None:
    box = [20, 16, 44, 32]
    yolo = [[32, 0], [24, 0], [24, 0], [16, 0], [0.1, 0.2], [0.8, 0.1]]
    shares = [32 / 96, 24 / 64, 24 / 96, 16 / 64]
    logits = [[-20.0, 2.0], [-20.0, -20.0]]
    approx = pytest.approx

    assert seen(Form.YOLO, [yolo]) == [(0.8, 1, approx(box))]
    assert seen(Form.YOLOV5, [[[32, 24, 24, 16, 0.5, 0.1, 0.8]]]) == [(0.4, 1, approx(box))]
    assert seen(Form.END2END, [[[*box, 0.7, 1], [0, 0, 0, 0, 0, 0]]]) == [(0.7, 1, approx(box))]
    assert seen(Form.END2END_FLAT, [[0, *box, 1, 0.7], [1, *box, 0, 0.9]]) == [(0.7, 1, approx(box))]
    assert seen(Form.DETR_JOINED, [[[*shares, 0.1, 0.6]]]) == [(0.6, 1, approx(box))]
    assert seen(Form.DETR_PICKED, [[[*shares, 0.6, 1], [*shares, 0.1, 0]]]) == [(0.6, 1, approx(box))]
    assert seen(Form.DETR, [logits], [[shares, shares]]) == [(0.881, 1, approx(box))]
    assert seen(Form.DETR, [[[0.0, 2.0, 0.0]]], [[shares]], softmax=True) == [(0.787, 1, approx(box))]
    assert seen(Form.DETR, [[[0.0, 2.0, 9.0]]], [[shares]], softmax=True) == []
    assert seen(Form.SCORED, [[1, 0]], [[box, box]], [[0.9, 0.1]]) == [(0.9, 1, approx(box))]


def test_a_query_of_a_detr_may_speak_of_two_classes() -> None:
    found = seen(Form.DETR, [[[3.0, 1.0]]], [[[0.5, 0.5, 0.5, 0.5]]])

    assert [(score, kind) for score, kind, _ in found] == [(0.953, 0), (0.731, 1)]


def test_empty_and_broken_numbers_give_nothing() -> None:
    nothing = np.zeros((1, 0, 6), np.float32)
    broken = np.full((1, 6, 50), np.nan, np.float32)

    for form, output in ((Form.END2END, nothing), (Form.YOLO, np.zeros((1, 6, 0))), (Form.YOLO, broken)):
        assert seen(form, output) == []


@pytest.mark.filterwarnings("error")
def test_boxes_without_an_area_are_dropped_before_they_are_compared() -> None:
    boxes = np.array([[5, 5, 5, 9], [9, 9, 5, 5], [0, 0, np.inf, 9], [0, 0, np.nan, 9], [1, 1, 2, 2]], np.float32)

    _, kinds, best = kept((np.full(5, 0.9, np.float32), np.arange(5), boxes), 0.7, 300)

    assert (kinds.tolist(), best.tolist()) == ([4], [[1, 1, 2, 2]])


def test_a_flood_of_boxes_is_cut_before_they_are_compared() -> None:
    count = 20 * MAX_CANDIDATES
    random = np.random.default_rng(2)
    corners = random.random((count, 2), np.float32) * 600
    boxes = np.concatenate([corners, corners + 20], axis=1)
    scores = random.random(count, np.float32)

    best, _, _ = kept((scores, np.zeros(count, np.intp), boxes), 0.7, 300)

    assert len(best) == 300
    assert best[0] == scores.max()
    assert np.all(np.diff(best) <= 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{0: 'person', 1: 'hard hat'}", ["person", "hard hat"]),
        ("['a', 'b']", ["a", "b"]),
        ("{1: 'b'}", ["class 0", "b"]),
        ("{0: 'it\\'s'}", ["it's"]),
    ],
)
def test_names_are_read_from_a_literal(text: str, expected: list[str]) -> None:
    assert find_names(None, {"names": text}, Path("none.onnx")) == expected


@pytest.mark.parametrize(
    "text",
    ["", "names", "{", "open('/etc/passwd')", "{'x': 'y'}", "{-1: 'a'}", "{99999: 'a'}", "[]", "(" * 5000, "'ab'"],
)
def test_names_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="names"):
        find_names(None, {"names": text}, Path("none.onnx"))


OWN = Vocabulary(
    ["Hardhat", "NO-Hardhat", "Safety Vest", "person", "man", "sofa", "vehicle", "car", "glass", "glasses", "Ampel"]
)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hard hats", {"Hardhat"}),
        ("hardhat", {"Hardhat"}),
        ("who wears no hardhat?", {"NO-Hardhat"}),
        ("people without hardhats", {"person"}),
        ("SAFETY_VEST", {"Safety Vest"}),
        ("safety vests and cars", {"Safety Vest", "car"}),
        ("women", {"person"}),
        ("men", {"man"}),
        ("couches", {"sofa"}),
        ("furniture", {"sofa"}),
        ("vehicles", {"vehicle"}),
        ("taxis", {"car"}),
        ("a glass", {"glass"}),
        ("glasses", {"glasses"}),
        ("Ampel", {"Ampel"}),
        ("cars at the bus stop", {"car"}),
        ("everything except cars and men", set(OWN.names) - {"car", "man"}),
    ],
)
def test_a_prompt_speaks_of_the_detectors_own_classes(prompt: str, expected: set[str]) -> None:
    wanted = OWN.read(prompt)

    assert {OWN.names[number] for number in wanted.classes} == expected
    assert wanted.is_known


@pytest.mark.parametrize("prompt", ["trucks", "dogs", "no dogs", "", "settee"])
def test_what_the_detector_does_not_know_asks_for_everything(prompt: str) -> None:
    wanted = OWN.read(prompt)

    assert len(wanted.classes) == len(OWN.names)
    assert not wanted.is_known


def test_one_name_twice_means_both_classes() -> None:
    twice = Vocabulary(["cat", "dog", "cat", "", "+"])

    assert twice.read("cats").classes == {0, 2}
    assert twice.sentence(["dog", "cat", "cat"], twice.read("cats")) == "2 cats, 1 dog"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("car", {"car"}), ("a car", {"car"}), ("The Cars", {"car"}), ("hot dog", {"hot dog"}), ("no car", set()),
        ("red car", set()), ("yes", set()), ("", set()), ("a", set()), ("bus stop", set()),
    ],
)  # fmt: skip
def test_a_choice_names_a_class_by_itself_or_none(text: str, expected: set[str]) -> None:
    assert {COCO.names[number] for number in COCO.classes_named(text)} == expected
