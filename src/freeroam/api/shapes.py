"""The shape of an error body, by the door that tells it: ours, that of OpenAI below /v1, that of the protocol /v2."""

from __future__ import annotations

from typing import Any

from starlette.types import Scope

_OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_OPENAI_CODES = {
    "unauthenticated": "invalid_api_key",
    "not_found": "model_not_found",
    "rate_limited": "rate_limit_exceeded",
}


def path_of(scope: Scope) -> str:
    """Return the path as routes see it, without the root path."""
    path: str = scope.get("path", "")
    root: str = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root + "/") else path


def is_below(path: str, door: str) -> bool:
    """Tell whether ``path`` is ``door`` (``/v1``, ``/v2``) or lies below it."""
    return path == door or path.startswith(f"{door}/")


def error_body(path: str, status: int, message: str, detail: Any) -> dict[str, Any]:
    """Return the body that tells an error at ``path``.

    Args:
        path: Without the root path.
        status: HTTP status.
        message: For people, redacted.
        detail: For programs, redacted: a dictionary with a ``code``, and with ``problems`` where a body is not valid.
    """
    if is_below(path, "/v2"):
        return {"error": message}
    if is_below(path, "/v1"):
        return openai_error(status, message, detail)
    return {"error": message, "detail": detail}


def openai_error(status: int, message: str, detail: Any) -> dict[str, Any]:
    """Return an error in OpenAI's shape: ``{"error": {"message", "type", "param", "code"}}``."""
    known = detail if isinstance(detail, dict) else {}
    code = known.get("code")
    param = next((problem["field"] for problem in known.get("problems", ())), None)
    kind = _OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {
        "error": {"message": message, "type": kind, "param": param or None, "code": _OPENAI_CODES.get(code or "", code)}
    }
