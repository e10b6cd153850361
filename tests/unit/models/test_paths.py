"""Where models lie: their type by what is there, and that none is loaded from outside the roots."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from freeroam.models.paths import find_below, guess_model_type
from freeroam.vocabulary.errors import InvalidInput


@pytest.mark.parametrize(
    ("files", "path", "expected"),
    [
        ({"a.onnx": ""}, "a.onnx", "onnx_detector"),
        ({"A.ONNX": ""}, "A.ONNX", "onnx_detector"),
        ({"a.gguf": ""}, "a.gguf", "transformers_text"),
        ({"m/config.json": {"model_type": "llama"}}, "m", "transformers_text"),
        ({"m/config.json": {"model_type": "idefics3", "vision_config": {}}}, "m", "transformers_vlm"),
        ({"m/config.json": {"model_type": "llava", "image_token_index": 32000}}, "m", "transformers_vlm"),
        ({"m/config.json": "{broken"}, "m", "transformers_text"),
        ({"m/model.onnx": ""}, "m", "onnx_detector"),
        ({"m/config.json": {"model_type": "llama"}, "m/model.onnx": ""}, "m", "transformers_text"),
        ({}, "not/there", "transformers_text"),
    ],
)
def test_the_type_is_told_by_what_lies_there(
    tmp_path: Path, files: dict[str, object], path: str, expected: str
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))

    assert guess_model_type(str(tmp_path / path)) == expected


def test_a_model_is_found_below_a_root_by_either_path(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two" / "gpt2").mkdir(parents=True)
    roots = (tmp_path / "one", tmp_path / "two")

    assert find_below("gpt2", roots) == str(tmp_path / "two" / "gpt2")
    assert find_below(str(tmp_path / "two" / "gpt2"), roots) == str(tmp_path / "two" / "gpt2")


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "link", "inside/../../secret", "absent", "a\0b"])
def test_nothing_outside_the_roots_is_found(tmp_path: Path, path: str) -> None:
    # Given a root, a file beside it, and a link from inside to it
    root = tmp_path / "root"
    (root / "inside").mkdir(parents=True)
    (tmp_path / "secret").write_text("x")
    (root / "link").symlink_to(tmp_path / "secret")

    with pytest.raises(InvalidInput, match="may be loaded from"):
        find_below(path, (root,))


def test_without_roots_nothing_is_found() -> None:
    with pytest.raises(InvalidInput, match="MODEL_ROOTS is not set"):
        find_below("gpt2", ())


@pytest.mark.parametrize(("asked", "is_allowed"), [("org/tiny", True), ("org/other", False), ("org", False)])
def test_a_name_on_a_hub_is_allowed_if_it_is_itself_a_root(asked: str, is_allowed: bool) -> None:
    roots = (Path("/nowhere/models"), Path("org/tiny"))

    if is_allowed:
        assert find_below(asked, roots) == asked
    else:
        with pytest.raises(InvalidInput):
            find_below(asked, roots)
