"""``response_format``: only what can be promised.

A schema that allows a countable few answers becomes ``choices``, and the model's own scores decide among them. A model
that does not speak (a detector) gives data anyway, so ``json_object`` returns its data. Everything else is refused:
a free-running language model cannot be held to a grammar here, and an answer that only mostly is JSON breaks programs.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from freeroam.api.openai.bodies import refusal
from freeroam.vocabulary.errors import InvalidInput
from freeroam.vocabulary.inference import Output
from freeroam.vocabulary.model import ModelInfo

MAX_CHOICES = 64
MAX_DEPTH = 16
MAX_PARTS = 1000
"""Parts of a schema that are looked at: references and unions make a short schema as large as they like."""

_FIELD = "response_format"


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """How the content of an answer is to be.

    Attributes:
        choices: It is one of these; empty leaves it free.
        is_report: It is the model's text and predictions as a JSON object.
    """

    choices: tuple[str, ...] = ()
    is_report: bool = False

    @property
    def is_held(self) -> bool:
        """Whether the content is known only when the whole answer is."""
        return self.is_report or bool(self.choices)

    def content_of(self, output: Output) -> str:
        """Return the content of the message.

        Raises:
            InvalidInput: The model does not keep to the choices.
        """
        text = output.text or ""
        if self.is_report:
            seen = [prediction.model_dump() for prediction in output.predictions]
            return orjson.dumps({"text": output.text, "predictions": seen}, default=str).decode()
        if self.choices and text.strip() not in self.choices:
            raise _refusal(f"the model {output.model!r} does not choose among given answers")
        return text.strip() if self.choices else text


FREE = AnswerFormat()


def read_format(wanted: Mapping[str, Any] | None, info: ModelInfo) -> AnswerFormat:
    """Return the format that is wanted of a model.

    Raises:
        InvalidInput: It cannot be promised, or is not known.
    """
    kind = (wanted or {}).get("type", "text")
    if wanted is None or kind == "text":
        return FREE
    if kind == "json_object":
        if info.wishes.streams_text:
            raise _refusal(
                f"json_object cannot be promised for {info.name!r}, which speaks freely; ask without it, "
                "or give a json_schema that allows at most 64 answers"
            )
        return AnswerFormat(is_report=True)
    if kind == "json_schema":
        inner = wanted.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, dict) else None
        if not isinstance(schema, dict):
            raise _refusal("json_schema.schema is required and must be an object")
        return AnswerFormat(choices=_choices_of(schema))
    raise _refusal(f"{str(kind)[:40]!r} is not known; known are text, json_object, json_schema")


def _choices_of(schema: Mapping[str, Any]) -> tuple[str, ...]:
    values = _Values(schema).of(schema, 0)
    if not values:
        raise _refusal(
            f"only a json_schema that allows at most {MAX_CHOICES} answers can be promised: enum, const, boolean, "
            "null, short ranges of integers, and objects whose required properties are such"
        )
    return tuple(dict.fromkeys(json.dumps(value, ensure_ascii=False) for value in values))


class _Values:
    """Counts out every value that a schema allows."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = MAX_PARTS

    def of(self, schema: Any, depth: int) -> list[Any] | None:
        """Return the values; None if they are not few, or not to be found in few looks."""
        self._left -= 1
        if not isinstance(schema, dict) or depth > MAX_DEPTH or self._left < 0:
            return None
        values = self._listed(schema, depth)
        return values if values is not None and len(values) <= MAX_CHOICES else None

    def _listed(self, schema: dict[str, Any], depth: int) -> list[Any] | None:
        if "$ref" in schema:
            return self.of(self._resolved(schema["$ref"]), depth + 1)
        if "const" in schema:
            return [schema["const"]]
        if isinstance(schema.get("enum"), list):
            return list(schema["enum"])
        for union in ("anyOf", "oneOf"):
            if isinstance(schema.get(union), list):
                parts = [self.of(part, depth + 1) for part in schema[union]]
                return None if None in parts else [value for part in parts for value in part or ()]
        kind = schema.get("type")
        if kind == "boolean":
            return [True, False]
        if kind == "null":
            return [None]
        if kind == "integer":
            return _range_of(schema)
        return self._objects(schema, depth) if kind == "object" else None

    def _objects(self, schema: dict[str, Any], depth: int) -> list[Any] | None:
        properties, required = schema.get("properties"), schema.get("required") or []
        if not isinstance(properties, dict) or not _are_texts(required) or set(properties) != set(required):
            return None
        parts = [self.of(part, depth + 1) for part in properties.values()]
        if None in parts or math.prod(len(part or ()) for part in parts) > MAX_CHOICES:
            return None
        rows = itertools.product(*(part or () for part in parts))
        return [dict(zip(properties, row, strict=True)) for row in rows]

    def _resolved(self, reference: Any) -> Any:
        """Return what ``#/$defs/Name`` points to."""
        found: Any = self._root
        for step in str(reference).removeprefix("#/").split("/"):
            found = found.get(step) if isinstance(found, dict) else None
        return found


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _range_of(schema: Mapping[str, Any]) -> list[Any] | None:
    low, high = schema.get("minimum"), schema.get("maximum")
    if type(low) is not int or type(high) is not int or not 0 <= high - low < MAX_CHOICES:
        return None
    return list(range(low, high + 1))


def _refusal(message: str) -> InvalidInput:
    return refusal(_FIELD, f"{_FIELD}: {message}")
