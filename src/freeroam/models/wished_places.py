"""Files and addresses that a caller names for a model at run time: allowed below the roots, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freeroam.models.openai_address import DEFAULT_KEY_VARIABLE, lies_under
from freeroam.models.paths import DETECTOR_TYPE, SERVER_TYPE, find_below, is_address
from freeroam.security.redaction import redact_url
from freeroam.vocabulary.errors import InvalidInput

_FILE_OPTIONS = {SERVER_TYPE: ("api_key_file", "ca_file"), DETECTOR_TYPE: ("names",)}
_WORDS = {"names": ("coco",)}
"""What an option may say instead of a file."""


def find_allowed(model_path: str, folders: Sequence[Path], addresses: Sequence[str]) -> str:
    """Return a path or address that a model may be loaded from.

    Raises:
        InvalidInput: It lies outside ``MODEL_ROOTS``.
    """
    if not is_address(model_path):
        return find_below(model_path, folders)
    if not any(lies_under(model_path, address) for address in addresses):
        allowed = ", ".join(addresses) or "none, for MODEL_ROOTS names no address"
        raise InvalidInput(
            f"model_path: {redact_url(model_path)[:200]!r} lies below no address that models may be at ({allowed})"
        )
    return model_path


def checked_options(
    model_type: str, options: Mapping[str, Any], folders: Sequence[Path], addresses: Sequence[str]
) -> dict[str, Any]:
    """Return options in which every file and address lies below the roots.

    A key is read from no other variable than the usual one, since its value would be sent to the server.

    Raises:
        InvalidInput: An option names a place outside ``MODEL_ROOTS``; the message names the option.
    """
    checked = dict(options)
    if model_type == SERVER_TYPE:
        if checked.get("url"):
            url = str(checked["url"])
            if not is_address(url) or not any(lies_under(url, address) for address in addresses):
                raise InvalidInput(f"options.url: {redact_url(url)[:200]!r} lies below no address in MODEL_ROOTS")
        if checked.get("api_key_env") not in {None, "", DEFAULT_KEY_VARIABLE}:
            raise InvalidInput(f"options.api_key_env: at run time a key is read from {DEFAULT_KEY_VARIABLE} only")
    for name in _FILE_OPTIONS.get(model_type, ()):
        value = checked.get(name)
        if isinstance(value, str) and value and value not in _WORDS.get(name, ()):
            try:
                checked[name] = find_below(value, folders)
            except InvalidInput as error:
                raise InvalidInput(f"options.{name}: {error.message.removeprefix('model_path: ')}") from None
    return checked
