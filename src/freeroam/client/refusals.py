"""What a refusal of the server is in the error tree: by its code where the body says one, else by its status."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from freeroam.vocabulary import errors

_OF_STATUS: dict[int, type[errors.FreeroamError]] = {
    400: errors.InvalidInput,
    401: errors.Unauthenticated,
    403: errors.PermissionDenied,
    404: errors.NotFound,
    405: errors.InvalidInput,
    409: errors.Conflict,
    413: errors.TooLarge,
    415: errors.UnsupportedMedia,
    429: errors.RateLimited,
    500: errors.FreeroamError,
    502: errors.Unreachable,
    503: errors.Unavailable,
    504: errors.DeadlineExceeded,
}
MAX_QUOTED_CHARS = 200
MAX_RETRY_AFTER_S = 1e6


def _classes(root: type[errors.FreeroamError]) -> Iterator[type[errors.FreeroamError]]:
    yield root
    for kind in root.__subclasses__():
        yield from _classes(kind)


_OF_CODE = {
    kind.default_code: kind
    for kind in _classes(errors.FreeroamError)
    if kind.__module__ == errors.__name__ and kind not in {errors.SourceError, errors.MissingExtra}
}
_SOURCE_CODES = frozenset(errors.SourceErrorCode) - {"forbidden", "unavailable"}
_MODEL_CODES = frozenset({"replica_lost", "inference_timeout", "load_failed"})


def error_of(status: int, headers: Mapping[str, str], body: bytes) -> errors.FreeroamError:
    """Return the error that an answer of 400 or more tells.

    Args:
        status: HTTP status.
        headers: Lower-case names.
        body: ``{"error", "detail"}``, or whatever stands between us and the server said instead.
    """
    document = _read(body)
    message = document.get("error")
    if not isinstance(message, str):
        quoted = body[:MAX_QUOTED_CHARS].decode(errors="replace").strip()
        message = f"The server answered {status}" + (f": {quoted}" if quoted else "")
    retry_after_s = _seconds(headers.get("retry-after"))
    error = told_error(message, document.get("detail"), _OF_STATUS.get(status), retry_after_s)
    request_id = headers.get("x-request-id")
    error.add_note(f"HTTP {status}" + (f", X-Request-ID {request_id}" if request_id else ""))
    return error


def told_error(
    message: str,
    detail: Any,
    fallback: type[errors.FreeroamError] | None = None,
    retry_after_s: float | None = None,
) -> errors.FreeroamError:
    """Return the error that a body ``{"error", "detail"}`` tells.

    Args:
        message: What was wrong.
        detail: May hold ``code``.
        fallback: Its class where the code says none; None is the root of the tree.
        retry_after_s: When to come back, if that was said.
    """
    code = detail.get("code") if isinstance(detail, dict) else None
    fallback = fallback or errors.FreeroamError
    if code in _SOURCE_CODES and issubclass(fallback, errors.InvalidInput):
        return errors.SourceError(errors.SourceErrorCode(str(code)), message, detail=detail)
    kind = _OF_CODE.get(str(code)) or (errors.ModelError if code in _MODEL_CODES else fallback)
    if issubclass(kind, errors.RateLimited | errors.Unavailable):
        if retry_after_s is None:
            return kind(message, detail=detail)
        return kind(message, detail=detail, retry_after_s=retry_after_s)
    return kind(message, detail=detail, code=str(code) if isinstance(code, str) else None)


def _read(body: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return document if isinstance(document, dict) else {}


def _seconds(text: str | None) -> float | None:
    """Return the seconds that ``Retry-After`` says; a date, which no server of ours sends, says nothing."""
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return min(value, MAX_RETRY_AFTER_S) if value >= 0 else None
