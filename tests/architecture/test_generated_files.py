"""What is generated from the code is fresh."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_reference_and_the_environment_example_are_fresh() -> None:
    # Given the generator
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "scripts/make_reference.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)

    # Then every file is as it would write it now
    for path, text in generator.documents().items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)} is not fresh; run make reference"
