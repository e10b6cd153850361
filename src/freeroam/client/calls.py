"""What a call of the HTTP interface is: a script that carries it out, described apart from any connection.

``Client`` and ``AsyncClient`` have a method of the same name, parameters and documentation for each public function of
``job_calls.py`` and ``model_calls.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from freeroam.client.steps import Answer, D, Request, Retries, Script, StreamScript, document_of, exchange
from freeroam.vocabulary.errors import FreeroamError, InvalidInput

T = TypeVar("T")
API = "/api/v1"


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A call that is answered once.

    Attributes:
        script: Carries it out.
    """

    script: Callable[[Retries], Script[T]]


@dataclass(frozen=True, slots=True)
class Flow(Generic[T]):
    """A call that is answered item by item.

    Attributes:
        script: Carries it out.
    """

    script: Callable[[Retries], StreamScript[T]]


def call_for(kind: type[D], request: Request) -> Call[D]:
    """Return the call whose answer is a document."""
    return Call(lambda retries: exchange(request, retries, lambda answer: document_of(kind, answer.body)))


def json_call(request: Request) -> Call[dict[str, Any]]:
    """Return the call whose answer is some JSON object."""
    return Call(lambda retries: exchange(request, retries, _object))


def body_of(kind: type[BaseModel], **given: Any) -> bytes:
    """Return the JSON of a document, checked before it is sent; None is left out.

    Raises:
        InvalidInput: A field cannot be what it is.
    """
    try:
        document = kind(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise InvalidInput(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    return document.model_dump_json(exclude_unset=True).encode()


def _object(answer: Answer) -> dict[str, Any]:
    try:
        document = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        raise FreeroamError("The server's answer is no JSON object; is it Freeroam at that address?", code="bad_answer")
    return document
