"""Boxes read from what models of several families say, in pixels of the picture they were given."""

from __future__ import annotations

import pytest

from freeroam.models.vlm_boxes import View, asks_for_boxes, read_boxes

ASKED = "Detect every cat and give its bounding box"


def view(width: int = 640, height: int = 480, **more) -> View:
    """Return a view of a whole picture; inside the model it has half the size unless said otherwise."""
    given = {
        "left_px": 0.0,
        "top_px": 0.0,
        "across_px": float(width),
        "down_px": float(height),
        "seen_px": (width / 2, height / 2),
        "scale": "one",
        **more,
    }
    return View(width_px=width, height_px=height, **given)


def seen(text: str, where: View, prompt: str = ASKED) -> list[tuple[str, list[float]]]:
    return [(box["label"], box["bbox"]) for box in read_boxes(text, prompt, where)]


@pytest.mark.parametrize(
    ("text", "scale", "boxes"),
    [
        ('```json\n[{"bbox_2d": [10, 20, 110, 220], "label": "cat"}]\n```', "pixels", [("cat", [20, 40, 220, 440])]),
        ('[{"bbox_2d": [10, 20, 110, 220], "label": "cat"}, {"bbox_2d": [1, 2', "pixels",
         [("cat", [20, 40, 220, 440])]),
        ('{"objects": [{"bbox": [0, 0, 9, 9], "label": "a"}, {"bbox": [0, 0, 8, 8], "label": "b"}]}', "one",
         [("a", [0, 0, 9, 9]), ("b", [0, 0, 8, 8])]),
        ('{"cat": {"bbox": [0, 0, 9, 9]}, "n": 3}', "one", [("cat", [0, 0, 9, 9])]),
        ('{"cat": {"x1": 0, "y1": 0, "x2": 9, "y2": 9}}', "one", [("cat", [0, 0, 9, 9])]),
        ('{"bbox_2d": [100, 250, 500, 750], "label": "dog"}', "thousand", [("dog", [64, 120, 320, 360])]),
        ('{"box_2d": [250, 100, 750, 500], "label": "dog"}', "one", [("dog", [64, 120, 320, 360])]),
        ('{"bbox": [0.1, 0.25, 0.5, 0.75], "class": "dog"}', "one", [("dog", [64, 120, 320, 360])]),
        ('{"bbox": [64, 120, 320, 360], "name": "dog"}', "one", [("dog", [64, 120, 320, 360])]),
        ('{"bbox": [100, 250, 900, 750], "name": "dog"}', "one", [("dog", [64, 120, 576, 360])]),
        ('{"box": {"x1": 64, "y1": 120, "x2": 320, "y2": 360}, "label": "a"}', "one", [("a", [64, 120, 320, 360])]),
        ('{"xmin": 64, "ymin": 120, "xmax": 320, "ymax": 360, "label": "a"}', "one", [("a", [64, 120, 320, 360])]),
        ('{"bbox_2d": [[10, 20, 110, 220], [0, 0, 5, 5]], "label": "x"}', "pixels",
         [("x", [20, 40, 220, 440]), ("x", [0, 0, 10, 10])]),
        ('{"cat": [64, 120, 320, 360], "dogs": [[0, 0, 64, 48], [1, 1, 9, 9]]}', "one",
         [("cat", [64, 120, 320, 360]), ("dogs", [0, 0, 64, 48]), ("dogs", [1, 1, 9, 9])]),
        ("<loc0256><loc0128><loc0768><loc0512> cat ; <loc0000><loc0000><loc0512><loc0512> red dog", "one",
         [("cat", [80, 120, 320, 360]), ("red dog", [0, 0, 320, 240])]),
        ("<ref>a cat</ref><box>[[100, 250, 500, 750], [0, 0, 1000, 1000]]</box>", "pixels",
         [("a cat", [64, 120, 320, 360]), ("a cat", [0, 0, 640, 480])]),
        ("cat(100,250),(500,750)dog(0,0),(1000,500)", "thousand",
         [("cat", [64, 120, 320, 360]), ("dog", [0, 0, 640, 240])]),
        ("The black cat is at [0.1, 0.25, 0.5, 0.75], and the dog at [0.0, 0.0, 1.0, 0.5].", "one",
         [("black cat", [64, 120, 320, 360]), ("dog", [0, 0, 640, 240])]),
        ("[0.1, 0.25, 0.5, 0.75]", "one", [("object", [64, 120, 320, 360])]),
        ("person: [64, 120, 320, 360]\ncar: [0, 0, 10, 20]", "one",
         [("person", [64, 120, 320, 360]), ("car", [0, 0, 10, 20])]),
        ('{"bbox_2d": [110, 220, 10, 20], "label": "turned round"}', "pixels", [("turned round", [20, 40, 220, 440])]),
        ('{"bbox_2d": [-5, -5, 5000, 5000], "label": "too large"}', "pixels", [("too large", [0, 0, 640, 480])]),
    ],
)  # fmt: skip
def test_a_box_is_read_in_the_way_a_model_writes_it(text, scale, boxes):
    assert seen(text, view(scale=scale)) == boxes


@pytest.mark.parametrize(
    "text",
    [
        "",
        "There is no cat.",
        "[]",
        "```json\n[]\n```",
        "I count 1, 2, 3 cats",
        '{"label": "cat"}',
        '{"bbox_2d": [1, 2, 3], "label": "cat"}',
        '{"bbox_2d": "left", "label": "cat"}',
        '{"bbox_2d": [true, false, true, true], "label": "cat"}',
        '{"bbox_2d": [10, 10, 10, 10], "label": "of no size"}',
        '{"bbox_2d": [9000, 9000, 9100, 9100], "label": "outside"}',
        "<loc0001><loc0002><loc0003>",
        "{" * 5000,
        "[" * 5000 + "0.1, 0.2",
        '{"a":' * 5000,
    ],
)
def test_a_text_without_boxes_gives_none(text):
    assert seen(text, view(scale="pixels")) == []


def test_numbers_are_no_boxes_unless_boxes_were_asked_for():
    text = "The score went [1, 2, 3, 4] over the quarters"

    assert seen(text, view(), prompt="What is on the board?") == []
    assert len(seen(text, view(), prompt="Where are the bounding boxes?")) == 1


def test_what_can_only_be_a_box_is_one_whatever_was_asked():
    text = '{"bbox_2d": [10, 20, 110, 220], "label": "cat"}'

    assert len(seen(text, view(scale="pixels"), prompt="Find the cat")) == 1


def test_a_question_without_a_picture_has_no_boxes():
    assert read_boxes("[0.1, 0.2, 0.3, 0.4]", ASKED, None) == []


def test_a_model_that_repeats_itself_gives_a_bounded_number():
    assert len(seen("cat [0.1, 0.2, 0.3, 0.4]\n" * 1000, view())) == 256


def test_a_stated_confidence_is_kept_and_a_strange_one_is_not_believed():
    text = '[{"bbox": [0, 0, 9, 9], "label": "a", "score": 0.25}, {"bbox": [0, 0, 9, 9], "label": "b", "score": 25}]'

    assert [box["confidence"] for box in read_boxes(text, ASKED, view())] == [0.25, 1.0]


def test_a_box_of_a_picture_whose_middle_was_cut_out_lies_in_the_middle():
    cut = view(left_px=80.0, across_px=480.0)

    assert seen("cat [0.0, 0.0, 1.0, 1.0]", cut) == [("cat", [80, 0, 560, 480])]


def test_a_box_of_a_padded_picture_leaves_the_padding_out():
    padded = view(top_px=-80.0, down_px=640.0)

    assert seen("cat [0.0, 0.0, 1.0, 0.5]", padded) == [("cat", [0, 0, 640, 240])]


@pytest.mark.parametrize("prompt", ["Detect cars", "draw a BOX", "return bbox_2d as JSON", "localise it", "locate her"])
def test_a_prompt_that_asks_for_boxes_is_understood(prompt):
    assert asks_for_boxes(prompt)


@pytest.mark.parametrize("prompt", ["What is this?", "Is the mailbox open?", "boxer or poodle?"])
def test_a_prompt_that_does_not_ask_for_boxes_is_understood(prompt):
    assert not asks_for_boxes(prompt)
