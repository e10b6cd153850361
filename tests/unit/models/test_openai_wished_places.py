"""What a caller may name at run time: places below MODEL_ROOTS, in the path and in every option."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from freeroam.models.paths import guess_model_type
from freeroam.models.wished_places import checked_options, find_allowed
from freeroam.vocabulary.errors import InvalidInput

ADDRESSES = ("http://gpu:8000/", "https://api.example.com/v1")


def test_an_address_is_allowed_below_a_root_and_a_file_below_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").touch()

    assert find_allowed("http://gpu:8000/v1", (tmp_path,), ADDRESSES) == "http://gpu:8000/v1"
    assert find_allowed("mine.onnx", (tmp_path,), ADDRESSES) == str(tmp_path / "mine.onnx")


@pytest.mark.parametrize(
    "path", ["http://169.254.169.254/latest", "HTTP://gpu:8001/v1", "https://api.example.com/v1/../x", "/etc/passwd"]
)
def test_what_lies_elsewhere_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidInput, match="model_path"):
        find_allowed(path, (tmp_path,), ADDRESSES)


@pytest.mark.parametrize(
    ("model_type", "options", "named"),
    [
        ("openai_server", {"url": "http://127.0.0.1:6379/"}, "url"),
        ("openai_server", {"url": "gpu:8000"}, "url"),
        ("openai_server", {"api_key_file": "/etc/shadow"}, "api_key_file"),
        ("openai_server", {"ca_file": "../../ca.pem"}, "ca_file"),
        ("openai_server", {"api_key_env": "SECRET_KEY"}, "api_key_env"),
        ("onnx_detector", {"names": "/etc/passwd"}, "names"),
    ],
)
def test_an_option_reaches_no_further_than_the_path(
    tmp_path: Path, model_type: str, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidInput, match=f"options.{named}"):
        checked_options(model_type, options, (tmp_path,), ADDRESSES)


def test_what_is_allowed_passes_and_files_become_their_real_paths(tmp_path: Path) -> None:
    (tmp_path / "names.txt").touch()
    (tmp_path / "key").touch()

    server = checked_options(
        "openai_server",
        {"url": "https://api.example.com/v1", "api_key_file": "key", "api_key_env": "", "concurrency": 3},
        (tmp_path,), ADDRESSES,
    )  # fmt: skip

    assert server["api_key_file"] == str(tmp_path / "key")
    assert server["concurrency"] == 3
    for names, expected in (("names.txt", str(tmp_path / "names.txt")), ("coco", "coco"), (["a"], ["a"])):
        assert checked_options("onnx_detector", {"names": names}, (tmp_path,), ())["names"] == expected
    assert checked_options("fake", {"names": "/etc/passwd"}, (), ()) == {"names": "/etc/passwd"}


@pytest.mark.parametrize(("path", "expected"), [("http://gpu/v1", "openai_server"), ("mine.onnx", "onnx_detector")])
def test_the_type_is_guessed_from_the_path(path: str, expected: str) -> None:
    assert guess_model_type(path) == expected
