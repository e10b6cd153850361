"""What a model sees of a picture, from the configuration of its image processor."""

from __future__ import annotations

from types import SimpleNamespace as Fields

import pytest

from freeroam.models.vlm_pictures import ANY_SIZE_PIXELS, eye_of
from freeroam.vocabulary.errors import ConfigurationError

LLAVA = Fields(size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}, do_center_crop=True, do_pad=False)
LLAVA_PADDED = Fields(size={"height": 336, "width": 336}, do_center_crop=False, do_pad=True)
PALIGEMMA = Fields(size={"height": 224, "width": 224})
SMOLVLM = Fields(size={"longest_edge": 2048}, max_image_size={"longest_edge": 512}, do_image_splitting=True)
QWEN = Fields(size={"shortest_edge": 3136, "longest_edge": 12845056}, merge_size=2, patch_size=14)
ONEVISION = Fields(
    size={"height": 384, "width": 384},
    image_grid_pinpoints=[[384 * row, 384 * column] for row in range(1, 7) for column in range(1, 7)],
)


def config(model_type: str, **more) -> Fields:
    return Fields(model_type=model_type, **more)


@pytest.mark.parametrize(
    ("model", "processor", "kind", "side_px", "window"),
    [
        (config("llava"), LLAVA, "square", 598, 1),
        (config("llava"), LLAVA_PADDED, "square", 336, 1),
        (config("paligemma"), PALIGEMMA, "square", 399, 1),
        (config("idefics3"), SMOLVLM, "tiles", 2048, 1),
        (config("smolvlm"), SMOLVLM, "tiles", 512, 4),
        (config("qwen2_5_vl", video_token_id=7), QWEN, "any_size", 1336, 4),
        (config("llava_onevision", video_token_id=7, vision_aspect_ratio="anyres_max_9"), ONEVISION, "grid", 1152, 4),
        (config("llava_next"), ONEVISION, "grid", 2304, 1),
        (config("other"), Fields(size={"longest_edge": 980}), "unknown", 980, 1),
        (config("other"), Fields(), "unknown", None, 1),
    ],
)
def test_a_model_asks_for_frames_as_large_as_it_sees_them(model, processor, kind, side_px, window):
    eye = eye_of(model, processor, None, None)

    assert (eye.kind, eye.side_px, eye.window) == (kind, side_px, window)


def test_an_operator_bounds_pictures_of_any_size():
    eye = eye_of(config("qwen2_5_vl"), QWEN, 2, 448)

    assert eye.window == 2
    assert eye.single == eye.several == {"size": {"shortest_edge": 3136, "longest_edge": 448 * 448}}


def test_pictures_of_any_size_are_bounded_by_default():
    assert eye_of(config("qwen2_vl"), QWEN, None, None).single["size"]["longest_edge"] == ANY_SIZE_PIXELS


@pytest.mark.parametrize(("asked_px", "long_px", "splits"), [(4000, 2048, True), (1100, 1024, True), (300, 512, False)])
def test_an_operator_bounds_the_tiles_of_a_picture(asked_px, long_px, splits):
    eye = eye_of(config("idefics3"), SMOLVLM, None, asked_px)

    assert eye.single == {"do_image_splitting": splits, "size": {"longest_edge": long_px}}
    assert eye.side_px == long_px


def test_several_frames_are_not_cut_into_tiles():
    eye = eye_of(config("idefics3"), SMOLVLM, 6, None)

    assert eye.several == {"do_image_splitting": False, "size": {"longest_edge": 512}}
    assert eye.side_px == 512


def test_a_size_for_a_model_with_one_size_is_refused():
    with pytest.raises(ConfigurationError, match="picture_px=640"):
        eye_of(config("llava"), LLAVA, None, 640)


def test_a_cut_picture_is_seen_in_its_middle():
    view = eye_of(config("llava"), LLAVA, None, None).view(360, 640, None)

    assert view.box([0.0, 0.0, 1.0, 1.0]) == [140.0, 0.0, 500.0, 360.0]


def test_a_padded_picture_is_seen_with_its_padding():
    view = eye_of(config("llava"), LLAVA_PADDED, None, None).view(320, 640, None)

    assert view.box([0.0, 0.25, 1.0, 0.75]) == [0.0, 0.0, 640.0, 320.0]


@pytest.mark.parametrize(
    ("model_type", "numbers"), [("qwen2_5_vl", [140, 84, 280, 168]), ("qwen3_vl", [500, 500, 1000, 1000])]
)
def test_numbers_of_a_box_mean_what_the_model_was_taught(model_type, numbers):
    view = eye_of(config(model_type), QWEN, None, None).view(360, 640, (168, 280))

    assert view.box(numbers) == [320.0, 180.0, 640.0, 360.0]
