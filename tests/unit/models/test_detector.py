"""Fitting, decoding and suppression, without the network."""

from __future__ import annotations

import numpy as np
import pytest

from freeroam.models.base import Question
from freeroam.models.detector import GREY, Detector, decode, fit, peaks, place, resized, suppressed
from freeroam.models.detector_answers import answer_of
from freeroam.models.prompt_classes import COCO
from freeroam.vocabulary.errors import ConfigurationError, FreeroamError
from freeroam.vocabulary.inference import InferenceParams


@pytest.mark.parametrize(
    ("height", "width", "padded", "scaled"),
    [
        (288, 512, (288, 512), (288, 512)),
        (1080, 1920, (288, 512), (288, 512)),
        (360, 640, (288, 512), (288, 512)),
        (512, 512, (512, 512), (512, 512)),
        (300, 451, (320, 480), (300, 451)),
        (2000, 100, (512, 32), (512, 26)),
        (1, 1, (32, 32), (1, 1)),
        (1, 5000, (32, 512), (1, 512)),
    ],
)
def test_a_frame_is_padded_only_as_far_as_needed(height: int, width: int, padded: tuple, scaled: tuple) -> None:
    fitted = fit(height, width, 512)

    assert fitted.padded == padded
    assert (fitted.height_px, fitted.width_px) == scaled


def test_the_padding_is_grey_even_in_a_buffer_used_before() -> None:
    image = np.full((3, 32, 64), 7.0, np.float32)
    picture = np.arange(20 * 40 * 3, dtype=np.uint8).reshape(20, 40, 3)

    place(picture, fit(20, 40, 64), image)

    assert np.array_equal(image[:, :20, :40], picture.transpose(2, 0, 1))
    assert (image[:, 20:, :] == GREY).all()
    assert (image[:, :, 40:] == GREY).all()


def test_a_picture_is_made_smaller_by_its_averages() -> None:
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[:, 3:] = 200

    assert resized(picture, 2, 2)[:, :, 0].tolist() == [[0, 200], [0, 200]]
    assert resized(np.full((7, 5, 3), 90, np.uint8), 3, 2).tolist() == np.full((3, 2, 3), 90).tolist()


def outputs(peak: tuple[int, int, int] = (2, 5, 7)) -> tuple[np.ndarray, np.ndarray]:
    heat = np.zeros((80, 24, 32), np.float32)
    wh = np.zeros((4, 24, 32), np.float32)
    heat[peak] = 0.9
    wh[:, peak[1], peak[2]] = (8, 12, 16, 20)
    return heat, wh


def test_a_peak_becomes_a_box_in_the_pixels_of_the_picture() -> None:
    heat, wh = outputs()
    heat[2, 5, 8] = 0.8  # a neighbour is no peak of its own

    scores, kinds, boxes = decode(heat, wh, fit(192, 256, 128), (192, 256))

    assert scores.tolist() == pytest.approx([0.9])
    assert kinds.tolist() == [2]
    assert boxes.tolist() == [[40, 16, 88, 80]]  # twice what the network saw


def test_boxes_are_clipped_to_the_picture_and_empty_ones_dropped() -> None:
    heat, wh = outputs((0, 0, 0))
    wh[:, 0, 0] = (50, 50, 5000, 5000)
    heat[1, 20, 30] = 0.5  # lies in the padding

    scores, _, boxes = decode(heat, wh, fit(70, 100, 128), (70, 100))

    assert boxes.tolist() == [[0, 0, 100, 70]]
    assert len(scores) == 1


def test_an_empty_heat_map_gives_nothing() -> None:
    scores, kinds, boxes = decode(np.zeros((80, 8, 8), np.float32), np.zeros((4, 8, 8), np.float32), fit(32, 32, 32),
                                  (32, 32))  # fmt: skip

    assert len(scores) == len(kinds) == 0
    assert boxes.shape == (0, 4)


def test_peaks_are_the_greatest_of_their_neighbourhood() -> None:
    random = np.random.default_rng(5)
    heat = random.random((3, 9, 11)).astype(np.float32)
    padded = np.pad(heat, ((0, 0), (1, 1), (1, 1)), constant_values=-1)
    expected = {
        (k, r, c)
        for k in range(3)
        for r in range(9)
        for c in range(11)
        if heat[k, r, c] > 0.3 and heat[k, r, c] == padded[k, r : r + 3, c : c + 3].max()
    }

    found = peaks(heat, 0.3)

    assert set(zip(*(axis.tolist() for axis in found), strict=True)) == expected


def test_doubles_of_one_class_are_suppressed_and_other_classes_are_not() -> None:
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [50, 50, 60, 60]], np.float32)

    assert suppressed(np.array([0, 0, 1, 0]), boxes) == [0, 2, 3]


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        (["people", "a car"], "a car"),
        (["animals", "nothing"], "nothing"),
        (["dog", "people"], "people"),
        (["yes", "no"], "cannot answer 'yes'"),
        (["dog", "cat"], "saw none of the choices"),
    ],
)
def test_choices_are_limited_to_what_the_detector_knows(choices: list[str], expected: str) -> None:
    boxes = np.array([[0, 0, 9, 9]] * 3, np.float32)
    found = (np.array([0.9, 0.8, 0.1], np.float32), np.array([2, 0, 16], np.float32), boxes)  # car, person, dog
    question = Question((np.zeros((9, 9, 3), np.uint8),), "buses", InferenceParams(choices=choices))

    answer = answer_of(question, found, COCO, 0.3)

    said = answer.message if isinstance(answer, FreeroamError) else answer["text"]  # type: ignore[index]
    assert expected in said


@pytest.mark.parametrize(("option", "value"), [("size", 500), ("size", 0), ("threshold", 0.0), ("threshold", 1.5)])
def test_impossible_options_are_refused(option: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=option):
        Detector(**{option: value})


@pytest.mark.parametrize("device", ["tpu", "cuda:x", "gpu"])
async def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(ConfigurationError, match="DEVICE"):
        await Detector().initialize("", device)


async def test_a_missing_file_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match="MODEL_PATH"):
        await Detector().initialize(str(tmp_path / "none.onnx"))
