"""Benchmarks are scripts: each finds what it shares with the others from wherever it is started."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if "__main__" in path.read_text())


def _is_shared(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "benchmarks"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_looks_for_the_other_modules_before_it_imports_them(script: Path) -> None:
    # Given a script that imports what the benchmarks share
    body = ast.parse(script.read_text()).body
    shared = [node.lineno for node in body if _is_shared(node)]

    # Then the folder above was added to where modules are looked for, since only the script's own is
    added = [node.lineno for node in body if ast.unparse(node).startswith("sys.path.insert(")]
    assert not shared or (added and added[0] < shared[0])


def test_there_are_scripts() -> None:
    assert len(SCRIPTS) > 10
