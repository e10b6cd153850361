"""Where models lie: whether a path may be loaded, and which type of model a path holds."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from freeroam.vocabulary.errors import InvalidInput

TEXT_TYPE = "transformers_text"
VLM_TYPE = "transformers_vlm"
DETECTOR_TYPE = "onnx_detector"
SERVER_TYPE = "openai_server"
_CONFIG_BYTES = 4 * 2**20
_SIGHT = ("vision_config", "vision_tower", "image_token_id", "image_token_index", "mm_vision_tower")
"""What the configuration of a model that looks at pictures has, and that of one which only reads has not."""


def guess_model_type(model_path: str) -> str:
    """Return the built-in type that loads what is at a path.

    An http(s) address is a server, a ``*.gguf`` file a language model, a ``*.onnx`` file a detector; a folder goes by
    its ``config.json``. Anything else, a hub id or what does not exist included, is taken for a language model, whose
    loading says what is wrong.
    """
    if is_address(model_path):
        return SERVER_TYPE
    path = Path(model_path)
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        return DETECTOR_TYPE
    if suffix == ".gguf":
        return TEXT_TYPE
    if path.is_dir():
        if (path / "config.json").is_file():
            return VLM_TYPE if _sees(path / "config.json") else TEXT_TYPE
        if any(path.glob("*.onnx")) and not any(path.glob("*.gguf")):
            return DETECTOR_TYPE
    return TEXT_TYPE


def is_address(model_path: str) -> bool:
    """Return whether a path is no path but the address of a server."""
    return model_path.strip().lower().startswith(("http://", "https://"))


def _sees(config: Path) -> bool:
    try:
        with config.open("rb") as file:
            fields = json.loads(file.read(_CONFIG_BYTES))
    except (OSError, ValueError):
        return False
    return isinstance(fields, dict) and any(name in fields for name in _SIGHT)


def find_below(model_path: str, roots: Iterable[Path]) -> str:
    """Return the real path of a model that may be loaded at run time.

    Args:
        model_path: As a caller gave it; a relative one is looked for below each root. The name of a model on a hub is
            allowed only if it is itself one of the roots, letter by letter.
        roots: From ``MODEL_ROOTS``.

    Raises:
        InvalidInput: It is not there, or lies outside every root, also by a link.
    """
    roots = list(roots)
    if any(model_path == str(root) and not root.is_absolute() and not root.exists() for root in roots):
        return model_path
    folders = [root.resolve() for root in roots]
    try:
        for root in folders:
            path = (root / model_path).resolve()
            if path.is_relative_to(root) and path.exists():
                return str(path)
    except (OSError, ValueError, RuntimeError):
        pass
    where = ", ".join(str(root) for root in folders) if folders else "nowhere, for MODEL_ROOTS is not set"
    raise InvalidInput(f"model_path: there is no {model_path[:200]!r} where models may be loaded from ({where})")
