"""The only table from the error tree to wire codes, and the shape of every error body."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from pydantic import BaseModel, Field
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from freeroam.api.shapes import error_body, path_of
from freeroam.security.redaction import redact_text, redact_value
from freeroam.vocabulary import errors

STATUS_OF: tuple[tuple[type[errors.FreeroamError], int], ...] = (
    (errors.InvalidInput, 400),
    (errors.Unauthenticated, 401),
    (errors.PermissionDenied, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.TooLarge, 413),
    (errors.UnsupportedMedia, 415),
    (errors.RateLimited, 429),
    (errors.Unavailable, 503),
    (errors.DeadlineExceeded, 504),
    (errors.MissingExtra, 400),
    (errors.SourceError, 400),
    (errors.ModelError, 500),
    (errors.StoreError, 503),
    (errors.ConfigurationError, 500),
    (errors.FreeroamError, 500),
)
"""First match wins; the last row catches the root of the tree."""

WIRE_CODES_OF: dict[str, tuple[int, str]] = {
    "upstream_unavailable": (503, "UNAVAILABLE"),
    "upstream_rate_limited": (503, "UNAVAILABLE"),
    "upstream_failed": (503, "UNAVAILABLE"),
    "upstream_timeout": (504, "DEADLINE_EXCEEDED"),
}
"""HTTP status and gRPC code of a ``ModelError`` whose own code says more than its class: the model is a far server that
does not answer now, which is no defect of this one, and asking again may help."""

GRPC_CODE_OF: tuple[tuple[type[errors.FreeroamError], str], ...] = (
    (errors.InvalidInput, "INVALID_ARGUMENT"),
    (errors.Unauthenticated, "UNAUTHENTICATED"),
    (errors.PermissionDenied, "PERMISSION_DENIED"),
    (errors.NotFound, "NOT_FOUND"),
    (errors.Conflict, "ALREADY_EXISTS"),
    (errors.TooLarge, "INVALID_ARGUMENT"),
    (errors.UnsupportedMedia, "INVALID_ARGUMENT"),
    (errors.RateLimited, "RESOURCE_EXHAUSTED"),
    (errors.QueueFull, "RESOURCE_EXHAUSTED"),
    (errors.Unavailable, "UNAVAILABLE"),
    (errors.DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (errors.MissingExtra, "FAILED_PRECONDITION"),
    (errors.SourceError, "INVALID_ARGUMENT"),
    (errors.StoreError, "UNAVAILABLE"),
    (errors.FreeroamError, "INTERNAL"),
)
"""The same for gRPC, by the name of its status code; first match wins."""

CHALLENGE = (b"www-authenticate", b'Bearer realm="freeroam"')
MEANINGS = {
    400: "It cannot be: validation, an unusable or forbidden reference, an unknown field.",
    401: "No key, or one that is not known.",
    403: "The key lacks the right.",
    404: "There is no such thing, or no longer.",
    409: "The name is taken.",
    413: "The body, a picture or its pixels are too large.",
    415: "It is no picture that can be read.",
    429: "Asked too often, or too many streams run; see Retry-After.",
    503: "Not ready, full or stopping, or the server that a model is at does not answer now; see Retry-After.",
    504: "The deadline passed, or the server that a model is at was silent for too long.",
    500: "A defect of ours.",
}


class Problem(BaseModel):
    """Body of every error answer.

    Attributes:
        error: What was wrong, for people.
        detail: More, for programs.
    """

    error: str = Field(description="What was wrong, for people.")
    detail: dict[str, Any] | str | None = Field(
        default=None, description="More, for programs: `code`, and of what does not validate `problems`, by field."
    )


def responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error part of a route's OpenAPI description; 400, 401, 403, 429, 500 and 503 are always in it."""
    return {
        status: {"model": Problem, "description": MEANINGS[status]}
        for status in sorted({400, 401, 403, 413, 429, 500, 503, 504, *statuses})
    }


def status_of(error: errors.FreeroamError) -> int:
    """Return the HTTP status of ``error``."""
    if isinstance(error, errors.ModelError) and error.code in WIRE_CODES_OF:
        return WIRE_CODES_OF[error.code][0]
    return _status_of_class(type(error))


def grpc_code_of(error: errors.FreeroamError) -> str:
    """Return the name of the gRPC status code of ``error``."""
    if isinstance(error, errors.ModelError) and error.code in WIRE_CODES_OF:
        return WIRE_CODES_OF[error.code][1]
    return next(code for base, code in GRPC_CODE_OF if isinstance(error, base))


def _status_of_class(kind: type[errors.FreeroamError]) -> int:
    return next(status for base, status in STATUS_OF if issubclass(kind, base))


CODES = sorted(
    [
        *(
            (name, _status_of_class(kind), kind.default_code)
            for name, kind in vars(errors).items()
            if isinstance(kind, type) and issubclass(kind, errors.FreeroamError)
        ),
        *((errors.ModelError.__name__, status, code) for code, (status, _) in WIRE_CODES_OF.items()),
    ]
)
"""Every class of the tree, and every code with a status of its own: class, status and code, for the reference."""


def problem_of(error: errors.FreeroamError) -> ProblemResponse:
    """Return the answer that tells a caller of ``error``."""
    status = status_of(error)
    headers: list[tuple[bytes, bytes]] = []
    if status == HTTPStatus.UNAUTHORIZED:
        headers.append(CHALLENGE)
    retry_after_s = getattr(error, "retry_after_s", 1.0 if status == HTTPStatus.SERVICE_UNAVAILABLE else None)
    if retry_after_s is not None:
        headers.append((b"retry-after", str(max(1, math.ceil(retry_after_s))).encode()))
    return ProblemResponse(status, error.message, detail_of(error), headers)


def detail_of(error: errors.FreeroamError) -> Any:
    """Return ``detail`` of the body that tells ``error``: what it carries, with its code, by which clients tell why."""
    return error.detail if isinstance(error.detail, str) else {"code": error.code, **(error.detail or {})}


class ProblemResponse(Response):
    """An error answer; it can also refuse a WebSocket.

    Args:
        status: HTTP status.
        message: For people; redacted once more here.
        detail: For programs.
        headers: Further headers, lower-case names.
    """

    media_type = "application/json"

    def __init__(
        self, status: int, message: str, detail: Any = None, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        self._message = redact_text(message)
        self._detail = redact_value(detail)
        super().__init__(_to_json(error_body("", status, self._message, self._detail)), status_code=status)
        self.raw_headers.extend(headers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; a WebSocket that was not accepted is denied with it, or closed where that is unknown."""
        self.body = _to_json(error_body(path_of(scope), self.status_code, self._message, self._detail))
        self.headers["content-length"] = str(len(self.body))
        if scope["type"] != "websocket":
            await super().__call__(scope, receive, send)
        elif "websocket.http.response" in scope.get("extensions", {}):
            await send(
                {"type": "websocket.http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            await send({"type": "websocket.http.response.body", "body": self.body})
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": str(self.status_code)})


def _to_json(body: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(body, default=str, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # half surrogates and great integers of a caller, which only the slow way can say
        return json.dumps(body, default=str).encode()


_UNKNOWN = frozenset({"extra_forbidden", "unexpected_keyword_argument"})


def explain_validation(problems: Sequence[Mapping[str, Any]]) -> errors.InvalidInput:
    """Turn pydantic's errors into one that says what is wrong first and lists all; values are not repeated.

    Returns:
        ``UnknownField`` or ``InvalidInput``, with ``{"problems": [{"field": ..., "message": ...}]}`` as its detail.
    """
    all_of_them = [{"field": _field_of(item), "message": _sentence(item)} for item in problems[:20]]
    message = all_of_them[0]["message"] if all_of_them else "The request is not valid"
    is_unknown = bool(problems) and problems[0].get("type") in _UNKNOWN
    kind = errors.UnknownField if is_unknown else errors.InvalidInput
    return kind(message, detail={"problems": all_of_them})


def _field_of(item: Mapping[str, Any]) -> str:
    location = [str(part) for part in item.get("loc", ())]
    if item.get("type") == "json_invalid":
        return ""
    if location and location[0] in {"body", "query", "path", "header"}:
        location = location[1:]
    return redact_text(".".join(location))[:200]


def _sentence(item: Mapping[str, Any]) -> str:
    field, kind = _field_of(item), str(item.get("type", ""))
    text = redact_text(str(item.get("msg", "is not valid"))).removeprefix("Value error, ")
    if kind == "json_invalid":
        reason = (item.get("ctx") or {}).get("error", "")
        return f"The body is not valid JSON: {reason}".rstrip(": ")
    if not field:
        return "The body must be a JSON object; send it with Content-Type: application/json"
    if kind == "missing":
        return f"{field} is required"
    if kind in _UNKNOWN:
        return f"Unknown field {field}"
    if kind == "string_too_short" and (item.get("ctx") or {}).get("min_length") == 1:
        return f"{field} cannot be empty"
    return f"{field}: {text[:1].lower()}{text[1:]}"
