"""What can go wrong between a question and a server of the OpenAI API, in words that say what to do."""

from __future__ import annotations

import email.utils
import re
import time
from enum import StrEnum

import orjson

from freeroam.security.redaction import MASK, redact_text
from freeroam.vocabulary.errors import ModelError

_SAID_CHARS = 500
_MISSING = 404
_TOO_MANY = 429
_UNAUTHENTICATED = frozenset({401, 403, 407})
_PASSING = frozenset({408, 425, 429, 502, 503, 504})
"""Answers after which the same question may be put again: it was not begun, or nobody was there to take it."""


class UpstreamCode(StrEnum):
    """Why a question to the server failed."""

    UNAVAILABLE = "upstream_unavailable"
    TLS = "upstream_tls"
    AUTH = "upstream_auth"
    REJECTED = "upstream_rejected"
    RATE_LIMITED = "upstream_rate_limited"
    TIMEOUT = "upstream_timeout"
    FAILED = "upstream_failed"
    MALFORMED = "upstream_malformed"


class UpstreamError(ModelError):
    """The server did not answer a question.

    Args:
        code: Why.
        message: What was wrong and what to do; free of the key.
        passes: Whether the same question may be put again after a pause.
        retry_after_s: The pause that the server asked for, seconds; None if it named none.
        said: What the server itself said about it.
        status: HTTP status of its answer, if that was no success.
    """

    def __init__(
        self,
        code: UpstreamCode,
        message: str,
        *,
        passes: bool = False,
        retry_after_s: float | None = None,
        said: str = "",
        status: int | None = None,
    ) -> None:
        super().__init__(message, code=code.value)
        self.upstream_code = code
        self.status = status
        self.passes = passes
        self.retry_after_s = retry_after_s
        self.said = said

    @property
    def is_from_a_living_server(self) -> bool:
        """Whether the server is there and only cannot do this: some know no ``/models``, or fail at making the list."""
        is_refusal = self.upstream_code in {UpstreamCode.REJECTED, UpstreamCode.FAILED}
        return is_refusal and self.status is not None and self.status >= 400


def of_status(status: int, body: bytes, headers: dict[str, str], where: str, key: str) -> UpstreamError:
    """Return the error that an answer with this status is.

    Args:
        status: HTTP status, not 2xx.
        body: What came with it, possibly cut.
        headers: By lower-case name.
        where: The address asked, for people.
        key: Taken out of whatever the server said.
    """
    said = without_key(_said(body), key)
    heard = f'; it says "{said}"' if said else ""
    passes = status in _PASSING
    retry_after_s = _seconds(headers.get("retry-after", ""))
    if 300 <= status < 400:
        target = redact_text(headers.get("location", "nowhere"))
        return UpstreamError(
            UpstreamCode.REJECTED,
            f"{where} redirects to {target} (status {status}), and redirects are not followed; set the url to where "
            "the API is",
            status=status,
        )
    if status in _UNAUTHENTICATED:
        return UpstreamError(
            UpstreamCode.AUTH,
            f"{where} refused the key (status {status}){heard}; check api_key, api_key_env or api_key_file",
            said=said,
            status=status,
        )
    if status == _TOO_MANY:
        return UpstreamError(
            UpstreamCode.RATE_LIMITED,
            f"{where} takes no more questions now (status 429){heard}; lower concurrency or raise the limit there",
            passes=passes,
            retry_after_s=retry_after_s,
            said=said,
            status=status,
        )
    if status >= 500 or passes:
        return UpstreamError(
            UpstreamCode.UNAVAILABLE if passes else UpstreamCode.FAILED,
            f"{where} failed with status {status}{heard}; look into that server's log",
            passes=passes,
            retry_after_s=retry_after_s,
            said=said,
            status=status,
        )
    hint = "is the url complete, with /v1, and the model there?" if status == _MISSING else "change what is asked"
    return UpstreamError(
        UpstreamCode.REJECTED,
        f"{where} refused the question (status {status}){heard}; {hint}",
        said=said,
        status=status,
    )


def malformed(where: str, what: str) -> UpstreamError:
    """Return the error for an answer that nobody can read."""
    return UpstreamError(
        UpstreamCode.MALFORMED, f"{where} sent {what}; does the url lead to a server of the OpenAI API?"
    )


def without_key(text: str, key: str) -> str:
    """Return what a server said, short, on one line, without the key and what else looks like a secret."""
    if key:
        text = text.replace(key, MASK)
    text = re.sub(r"\bsk-[\w*-]{6,}", MASK, redact_text(text))
    return " ".join(text.split())[:_SAID_CHARS]


def _said(body: bytes) -> str:
    """Return the message in an error's body: OpenAI's shape, FastAPI's ``detail``, or the text as it is."""
    try:
        document = orjson.loads(body)
    except ValueError:
        return body.decode("utf-8", "replace")
    return said_in(document)


def said_in(document: object) -> str:
    """Return the message in a decoded error document."""
    while isinstance(document, dict):
        for name in ("error", "message", "detail", "msg"):
            if document.get(name):
                document = document[name]
                break
        else:
            break
    return document if isinstance(document, str) else orjson.dumps(document).decode()


def _seconds(text: str) -> float | None:
    """Return the pause of a ``Retry-After``: seconds, or a date (RFC 9110, section 10.2.3)."""
    text = text.strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError):
        return None
    return max(0.0, moment.timestamp() - time.time())
