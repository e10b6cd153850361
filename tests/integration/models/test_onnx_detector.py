"""Detectors of every form that people export, as files that really look; boxes are checked to the pixel."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freeroam.engines.specs import ModelSpec
from freeroam.models.base import Question
from freeroam.models.onnx_detector import OnnxDetector
from freeroam.vocabulary.errors import ConfigurationError, FreeroamError, InvalidInput
from freeroam.vocabulary.inference import InferenceParams, Output
from tests.engines import frame_of, question, running
from tests.integration.models.onnx_files import COLOURS, coloured, save_detector

NAMES = {"names": str(dict(enumerate(COLOURS))), "stride": "32", "task": "detect"}
FORMS: dict[str, dict[str, Any]] = {
    "yolo": {"form": "yolo"},
    "yolov5": {"form": "yolov5"},
    "end2end": {"form": "end2end"},
    "end2end_flat": {"form": "end2end_flat", "batch": 1},
    "rt-detr": {"form": "detr"},
    "detr": {"form": "detr", "softmax": True, "bright": 1.5, "has_mask": True},
    "rf-detr": {"form": "detr", "is_rf": True, "bright": 1.5},
    "rt-detr of ultralytics": {"form": "detr_picked"},
    "rt-detr of ultralytics before 8.4": {"form": "detr_joined"},
    "rt-detr with sizes": {"form": "scored"},
}
SIDES = {"fixed": (96, 160), "square": (128, 128), "open": ("height", "width")}
RED, GREEN = (20, 10, 61, 43), (70, 5, 90, 71)


async def loaded(path: Path, **options: Any) -> OnnxDetector:
    detector = OnnxDetector(threads=1, **options)
    await detector.initialize(str(path), "cpu")
    await detector.warm_up()
    return detector


async def found(detector: OnnxDetector, *pictures: np.ndarray, prompt: str = "everything", **params: Any) -> list[Any]:
    questions = [Question((picture,), prompt, InferenceParams(**params)) for picture in pictures]
    return await detector.predict_batch(questions)


def boxes_of(answer: Any) -> dict[str, list[float]]:
    assert isinstance(answer, dict), answer
    return {prediction["label"]: prediction["bbox"] for prediction in answer["predictions"]}


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("form", FORMS)
async def test_boxes_are_found_to_the_pixel_whatever_the_form(tmp_path: Path, form: str, sides: str) -> None:
    path = save_detector(tmp_path / "d.onnx", sides=SIDES[sides], metadata=NAMES, **FORMS[form])
    detector = await loaded(path, size=160)
    high, wide = detector._sides
    # The long side fits without scaling, the other leaves an odd rest; a stretched input is filled wholly.
    is_stretched = detector.get_model_info()["fit"] == "stretch"
    assert detector.get_model_info()["form"] == FORMS[form]["form"]
    picture = coloured(high if is_stretched else 75, wide if is_stretched else min(wide, 160), red=RED, green=GREEN)

    (answer,) = await found(detector, picture)

    assert boxes_of(answer) == {"red": list(RED), "green": list(GREEN)}
    assert [prediction["confidence"] for prediction in answer["predictions"]] == pytest.approx([0.9, 0.9], abs=0.1)
    assert answer["text"] == "1 red, 1 green"


@pytest.mark.parametrize(
    ("height", "width"), [(75, 161), (333, 77), (31, 33), (97, 511), (1, 300), (720, 1280), (240, 320)]
)
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
async def test_a_picture_of_any_size_is_placed_and_its_boxes_taken_back(
    tmp_path: Path, sides: str, height: int, width: int, fit: str
) -> None:
    detector = await loaded(
        save_detector(tmp_path / "d.onnx", "yolo", sides=SIDES[sides], metadata=NAMES), size=160, fit=fit
    )
    box = (width // 4, height // 4, max(width // 4 + 1, width * 3 // 4), max(height // 4 + 1, height * 3 // 4))
    placed = detector._place(coloured(height, width))

    (answer,) = await found(detector, coloured(height, width, red=box))

    # One pixel of the input; in an enlarged picture the edge lies somewhere between two pixels.
    tolerance = [max(0.5, width / placed.width_px), max(0.5, height / placed.height_px)] * 2
    assert list(boxes_of(answer)) == ["red"]
    for edge, expected, allowed in zip(boxes_of(answer)["red"], box, tolerance, strict=True):
        assert abs(edge - expected) <= allowed + 0.05


@pytest.mark.parametrize("is_channels_last", [False, True])
@pytest.mark.parametrize(("dtype", "bright"), [("float32", 0.8), ("float16", 0.8), ("uint8", 200.0)])
async def test_inputs_of_every_kind_are_filled(
    tmp_path: Path, dtype: str, bright: float, is_channels_last: bool
) -> None:
    path = save_detector(
        tmp_path / "d.onnx", "yolo", dtype=dtype, bright=bright, is_channels_last=is_channels_last,
        sides=(96, 160), metadata=NAMES,
    )  # fmt: skip

    (answer,) = await found(await loaded(path), coloured(75, 160, red=RED, blue=GREEN))

    assert boxes_of(answer) == {"red": list(RED), "blue": list(GREEN)}


@pytest.mark.parametrize("batch", [1, 2, 4, "batch"])
@pytest.mark.parametrize("images_per_run", [1, 16])
async def test_a_batch_gives_each_picture_its_own_boxes(tmp_path: Path, batch: Any, images_per_run: int) -> None:
    detector = await loaded(save_detector(tmp_path / "d.onnx", "yolo", batch=batch, metadata=NAMES), size=160)
    if batch == "batch":
        detector._images_per_run = images_per_run  # as on a card
    shapes = [(75, 160), (160, 75), (75, 160), (90, 160), (160, 160), (75, 160), (75, 160)]
    boxes = [(n, n + 1, 30 + 2 * n, 40 + n) for n in range(len(shapes))]
    pictures = [coloured(*shape, blue=box) for shape, box in zip(shapes, boxes, strict=True)]

    answers = await found(detector, *pictures)

    assert [boxes_of(answer) for answer in answers] == [{"blue": list(box)} for box in boxes]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("everything", {"red", "green", "blue"}),
        ("only reds", {"red"}),
        ("red and blue", {"red", "blue"}),
        ("everything but green", {"red", "blue"}),
        ("unicorns", {"red", "green", "blue"}),
    ],
)
async def test_the_prompt_chooses_among_the_files_own_classes(tmp_path: Path, prompt: str, expected: set[str]) -> None:
    detector = await loaded(save_detector(tmp_path / "d.onnx", "yolo", metadata=NAMES), size=160)

    (answer,) = await found(detector, coloured(80, 160, red=RED, green=GREEN, blue=(100, 9, 120, 30)), prompt=prompt)

    assert set(boxes_of(answer)) == expected


async def test_the_threshold_of_a_question_counts_for_it_alone(tmp_path: Path) -> None:
    detector = await loaded(save_detector(tmp_path / "d.onnx", "yolo", metadata=NAMES), size=160)
    picture = coloured(80, 160, red=RED)
    asked = [Question((picture,), "", InferenceParams(threshold=limit)) for limit in (0.95, 0.5, None)]

    answers: list[Any] = await detector.predict_batch([*asked, Question((), "", InferenceParams())])

    assert [len(answer["predictions"]) for answer in answers] == [0, 1, 1, 0]
    assert answers[-1]["text"] == "No picture was given."


@pytest.mark.parametrize(
    ("choices", "boxes", "expected"),
    [
        (["green", "a red"], {"red": RED}, "a red"),
        (["reds", "greens"], {"green": GREEN, "red": RED}, "reds"),
        (["blue", "nothing"], {"red": RED}, "nothing"),
        (["yes", "no"], {"red": RED}, "cannot answer 'yes'"),
        (["red", "a red house"], {"red": RED}, "cannot answer 'a red house'"),
        (["blue", "green"], {"red": RED}, "saw none of the choices"),
    ],
)
async def test_the_answer_is_one_of_the_choices_or_says_why_it_cannot_be(
    tmp_path: Path, choices: list[str], boxes: dict[str, Any], expected: str
) -> None:
    detector = await loaded(save_detector(tmp_path / "d.onnx", "yolo", metadata=NAMES), size=160)

    (answer,) = await found(detector, coloured(80, 160, **boxes), prompt="blue", choices=choices)

    if isinstance(answer, FreeroamError):
        assert expected in answer.message
        assert answer.code in {"invalid_input", "no_choice"}
    else:
        assert answer["text"] == expected


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("metadata", "red"), ("option", "crimson"), ("mapping", "crimson"), ("option file", "scarlet"),
        ("file beside", "scarlet"), ("config", "ruby"), ("none", "class 0"),
    ],
)  # fmt: skip
async def test_names_come_from_the_option_the_metadata_or_a_file(tmp_path: Path, how: str, expected: str) -> None:
    path = save_detector(tmp_path / "mine.onnx", "yolo", sides=(96, 160), metadata=NAMES if how == "metadata" else None)
    options: dict[str, Any] = {}
    if how in {"option", "mapping"}:
        options["names"] = ["crimson", "lime", "navy"] if how == "option" else {0: "crimson", "2": "navy"}
    elif how.endswith("file"):
        (tmp_path / "list").write_text("scarlet\nlime\nnavy\n\n")
        options["names"] = str(tmp_path / "list")
    elif how == "file beside":
        (tmp_path / "mine.names").write_text("scarlet\r\nlime\r\nnavy")
    elif how == "config":
        (tmp_path / "config.json").write_text('{"id2label": {"0": "ruby", "1": "lime", "2": "navy"}}')

    (answer,) = await found(await loaded(path, **options), coloured(75, 160, red=RED))

    assert list(boxes_of(answer)) == [expected]


@pytest.mark.parametrize(
    ("form", "options", "metadata", "said"),
    [
        ("yolo", {"names": ["a", "b"]}, {}, r"found output0 float \[1, 7, 18\] and 2 class names"),
        ("yolo", {"form": "detr"}, NAMES, "the option form says detr"),
        ("end2end", {}, {}, "set the option names"),
        ("yolo", {}, {**NAMES, "task": "obb"}, "the task 'obb'"),
        ("yolo", {}, {"names": "__import__('os').system('true')"}, "is no list of names"),
        ("yolo", {}, {"names": "{'a': 'b'}"}, "must be a list of names"),
        ("yolo", {"names": "/no/such/file"}, {}, "cannot be read as class names"),
        ("detr", {"names": list("abcdef")}, {}, "6 class names for 3 classes"),
    ],
)
async def test_a_file_of_another_shape_is_refused_with_what_was_expected_and_found(
    tmp_path: Path, form: str, options: dict[str, Any], metadata: dict[str, str], said: str
) -> None:
    path = save_detector(tmp_path / "d.onnx", form, sides=(96, 160), metadata=metadata)

    with pytest.raises(ConfigurationError, match=said):
        await loaded(path, **options)


async def test_a_replica_runs_the_file_and_fails_one_question_alone(tmp_path: Path) -> None:
    path = save_detector(tmp_path / "mine.onnx", "yolo", sides=(96, 160), metadata=NAMES)
    frame = frame_of(coloured(75, 160, red=RED, green=GREEN))
    spec = ModelSpec("mine", model_type="onnx_detector", model_path=str(path), device="cpu")

    async with running(spec) as engine:
        asked = [
            question("greens", frames=(frame,)),
            question("", frames=(frame,), params=InferenceParams(choices=["yes", "no"])),
            question("", frames=(frame,), params=InferenceParams(choices=["red", "green"])),
        ]
        green, refused, chosen = await asyncio.gather(*map(engine.ask, asked), return_exceptions=True)
        described = engine.describe()

    assert isinstance(green, Output)
    assert isinstance(chosen, Output)
    assert [(one.label, one.bbox) for one in green.predictions] == [("green", list(GREEN))]
    assert isinstance(refused, InvalidInput)
    assert chosen.text in {"red", "green"}
    assert (described.wishes.width_px, described.wishes.height_px, described.wishes.window) == (160, 96, 1)
    assert described.info["classes"] == list(COLOURS)


async def test_what_is_no_onnx_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"\x00not a model")

    with pytest.raises(ConfigurationError, match="onnxruntime cannot load it"):
        await loaded(tmp_path / "broken.onnx")
    with pytest.raises(ConfigurationError, match="there is no file"):
        await loaded(tmp_path / "none.onnx")
    (tmp_path / "second.onnx").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"found broken\.onnx, second\.onnx"):
        await loaded(tmp_path)
