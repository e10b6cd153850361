"""The class names of a detector's file: from an option, from the file's metadata, or from a file beside it."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freeroam.models.class_names import CLASSES
from freeroam.vocabulary.errors import ConfigurationError

MAX_CLASSES = 10_000
_FILE_BYTES = 4 * 1024 * 1024
_COCO = "coco"
_BESIDE = ("names.txt", "classes.txt", "labels.txt", "coco.names")


def find_names(option: Any, metadata: Mapping[str, str], path: Path) -> list[str] | None:
    """Return the names by class number, None if nobody says them.

    Args:
        option: A list, a mapping from number to name, the path of a file with one name a line, or ``coco``.
        metadata: Of the ONNX file; ``names`` is a Python literal, as ultralytics writes it.
        path: The ONNX file; a file of names may lie beside it: its own name with ``.names`` or ``.txt``, ``names.txt``,
            ``classes.txt``, ``labels.txt``, or a ``config.json`` with ``id2label``.

    Raises:
        ConfigurationError: Names are there and cannot be used.
    """
    if option is not None and option not in ("", [], {}):
        if isinstance(option, str):
            return list(CLASSES) if option == _COCO else _read_lines(Path(option), f"names={option}")
        return _listed(option, "the option names")
    if "names" in metadata:
        return _listed(_literal(metadata["names"], "the metadata 'names'"), "the metadata 'names'")
    for beside in (path.with_suffix(".names"), path.with_suffix(".txt"), *(path.parent / name for name in _BESIDE)):
        if beside.is_file():
            return _read_lines(beside, f"the file {beside}")
    return _from_config(path.parent / "config.json")


def _literal(text: str, what: str) -> Any:
    if len(text) > _FILE_BYTES:
        raise ConfigurationError(f"{what} of the ONNX file is too long ({len(text)} letters)")
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise ConfigurationError(
            f"{what} of the ONNX file is no list of names ({text[:80]!r}); set the option names"
        ) from error


def _listed(given: Any, what: str) -> list[str]:
    """Return names in a list; numbers that a mapping leaves out are called ``class <number>``."""
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        given = dict(enumerate(given))
    try:
        numbered = {int(number): str(name).strip() for number, name in dict(given).items()}
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{what} must be a list of names, or a mapping from number to name") from error
    if not numbered or min(numbered) < 0 or max(numbered) >= MAX_CLASSES:
        raise ConfigurationError(f"{what} must hold between 1 and {MAX_CLASSES} names, numbered from 0")
    return [numbered.get(number) or f"class {number}" for number in range(max(numbered) + 1)]


def _read_lines(path: Path, what: str) -> list[str]:
    try:
        with path.open("rb") as opened:
            text = opened.read(_FILE_BYTES).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{what} cannot be read as class names, one a line: {error}") from error
    lines = [line.strip() for line in text.splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    return _listed(lines, what)


def _from_config(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes()[:_FILE_BYTES])
    except ValueError:
        return None
    labels = found.get("id2label") if isinstance(found, dict) else None
    return _listed(labels, f"id2label in {path}") if labels else None
