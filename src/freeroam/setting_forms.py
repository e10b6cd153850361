"""The forms that settings take as text: lists, times and limits, and what is allowed, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode


def _split(value: Any) -> Any:
    return tuple(part for raw in value.split(",") if (part := raw.strip())) if isinstance(value, str) else value


List = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


def read_limit(text: str) -> tuple[str, int]:
    """Read ``POST /path=60``; a path without a method means every method.

    Raises:
        ValueError: It has another form.
    """
    endpoint, equals, number = text.rpartition("=")
    endpoint = endpoint.strip()
    if not equals or not number.strip().isdigit() or int(number) < 1 or "/" not in endpoint:
        raise ValueError(f"{text!r} is not of the form 'POST /path=requests a minute'")
    method, _, path = endpoint.rpartition(" ")
    return f"{method.strip().upper()} {path}".strip(), int(number)


def allowed_by(schema: Mapping[str, Any]) -> str:
    """Say in words what a setting with that JSON schema may be."""
    options = [schema, *schema.get("anyOf", [])]
    for option in options:
        if "const" in option:
            return str(option["const"])
        if "enum" in option:
            return ", ".join(option["enum"])
    kinds = {option.get("type") for option in options} - {None, "null"}
    if "boolean" in kinds:
        return "true, false"
    if kinds & {"integer", "number"}:
        return _range_in_words(schema, is_whole="integer" in kinds)
    if "array" in kinds:
        return "a list, parted by commas"
    return str(schema.get("description", "a text")).rstrip(".")


def _range_in_words(schema: Mapping[str, Any], *, is_whole: bool) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high = schema.get("maximum")
    words = "a whole number" if is_whole else "a number"
    if low is not None or above is not None:
        words += f" from {low:.15g}" if low is not None else f" above {above:.15g}"
    return f"{words} to {high:.15g}" if high is not None else words
