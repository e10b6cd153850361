"""Takes credentials out of texts before they are logged, returned or shown in an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

MASK = "***"

_URL = re.compile(r"(?<=[A-Za-z0-9+.-]:)//(?P<rest>(?:(?!://)\S)+)")
"""A password may hold quotes and angle brackets, so none of them ends an address; only space or another one does."""

_PARAMETER = re.compile(r"(?P<lead>[?&;#])(?P<name>[^=&;#?\s\"'<>/]{1,64})=(?P<value>[^&;#\s]*)")
_PATH_PARAMETER = re.compile(
    r"(?P<lead>[/_])(?P<name>user(?:name)?|pass(?:word|wd)?|pwd)=(?P<value>[^/?#&;\s]*?)(?=_[A-Za-z]+=|[/?#&;\s]|$)",
    re.IGNORECASE,
)
"""Cameras of several makers take their log-in as part of the path: ``/user=admin_password=x_channel=1.sdp``."""

_CLOSING = "\"'<>"
"""What most often is not the end of a value but closes the address that the text holds."""

_SECRET_NAME = re.compile(
    r"token|key|sig|pass|pwd|secret|auth|cred|jwt|session|hdn(ts|ea)|^pw$|^policy$|^user(name)?$", re.IGNORECASE
)
_SECRET_FIELD = re.compile(
    r"^(proxy[-_])?authorization$|^(set[-_])?cookie$|passw(or)?d|passphrase|secret|api[-_]?key|^token$|access_token",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"(?P<name>authorization|x-api-key|cookie)(?P<sep>[\"']?\s*[:=]\s*[\"']?)(?:(?:bearer|basic|digest)\s+)?[^\s\"',]+",
    re.IGNORECASE,
)
_BEARER = re.compile(r"\bbearer\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_ASSIGNMENT = re.compile(
    r"\b(?P<name>password|passwd|pwd|secret|token|api[_-]?key)(?P<sep>[\"']?\s*[:=]\s*[\"']?)(?P<value>[^\s\"',;&]+)",
    re.IGNORECASE,
)


def redact_url(text: str) -> str:
    """Return ``text`` with the credentials of every URL in it replaced by ``***``.

    Takes out user and password before the host and the values of query parameters whose names speak of a secret
    (token, key, signature, password, ...), whether the text is one URL or holds several.
    """
    if "//" in text:
        text = _URL.sub(_without_userinfo, text)
    if "=" in text:
        text = _PARAMETER.sub(_without_value, text)
        text = _PATH_PARAMETER.sub(_with_value_masked, text)
    return text


def redact_text(text: str) -> str:
    """Return ``text`` with URLs redacted, and headers and assignments that carry a secret too; for log lines."""
    text = redact_url(text)
    text = _HEADER.sub(lambda match: f"{match['name']}{match['sep']}{MASK}", text)
    text = _BEARER.sub(f"Bearer {MASK}", text)
    return _ASSIGNMENT.sub(lambda match: f"{match['name']}{match['sep']}{MASK}", text)


def redact_value(value: Any, name: str = "") -> Any:
    """Return ``value`` redacted at every depth of mappings, lists and tuples.

    Args:
        value: Any loggable value; other types come back as they are.
        name: The field that holds it; a field whose name says secret is masked whatever it holds.
    """
    if name and isinstance(value, str | bytes) and _SECRET_FIELD.search(name):
        return MASK
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {key: redact_value(inner, str(key)) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact_value(inner) for inner in value]
    if isinstance(value, BaseException):
        return redact_text(f"{type(value).__name__}: {value}")
    return value


def _without_userinfo(match: re.Match[str]) -> str:
    rest = match["rest"]
    end = _authority_end(rest)
    at = rest.rfind("@", 0, end)
    return match[0] if at < 0 else f"//{MASK}@{rest[at + 1 :]}"


def _authority_end(rest: str) -> int:
    """Return where host and port end; a raw ``/`` or ``?`` inside a password does not end them."""
    ends = [position for position in (rest.find(mark) for mark in "/?#\\") if position >= 0]
    end = min(ends, default=len(rest))
    authority = rest[:end]
    host, colon, port = authority.rpartition(":")
    is_broken = bool(colon and host and not port.isdigit() and port and "@" not in authority and "]" not in port)
    return len(rest) if is_broken else end


def _without_value(match: re.Match[str]) -> str:
    if not match["value"] or not _SECRET_NAME.search(unquote(match["name"])):
        return match[0]
    return _with_value_masked(match)


def _with_value_masked(match: re.Match[str]) -> str:
    value = match["value"]
    return f"{match['lead']}{match['name']}={MASK}{value[len(value.rstrip(_CLOSING)) :]}"
