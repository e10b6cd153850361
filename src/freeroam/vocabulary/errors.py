"""Every error a caller can meet, in one tree.

::

    FreeroamError
    ├── InvalidInput            the caller asked for something that cannot be
    │   ├── ForbiddenReference  the address may not be opened
    │   └── UnknownField
    ├── Unauthenticated         no key, or a wrong one
    ├── PermissionDenied        the key lacks the right
    ├── NotFound
    ├── Conflict
    ├── TooLarge
    ├── UnsupportedMedia
    ├── RateLimited             come back after ``retry_after_s``
    │   └── TooManyStreams
    ├── Unavailable             not ready, full or draining
    │   ├── QueueFull
    │   ├── Draining
    │   ├── ModelNotReady
    │   └── Unreachable         a client's: no connection, or one that broke
    ├── DeadlineExceeded
    ├── SourceError             video did not come; ``code`` is a SourceErrorCode
    ├── ModelError              a model did not answer; ``code`` says why
    ├── StoreError
    │   └── LeaseLost           another process runs this job now
    ├── ConfigurationError      a setting is wrong; the message names it
    └── MissingExtra            an optional library is absent; the message names the command

``api/problems.py`` is the only table from these classes to status codes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class FreeroamError(Exception):
    """Base of the tree.

    Args:
        message: What was wrong, with which value, and what to do.
        detail: More for a machine to read; must be JSON serialisable and free of credentials.
        code: A stable short word for this failure.
    """

    default_code = "internal"

    def __init__(self, message: str, *, detail: Any = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.code = code or self.default_code


class InvalidInput(FreeroamError):
    """The caller asked for something that cannot be; asking again will not help."""

    default_code = "invalid_input"


class ForbiddenReference(InvalidInput):
    """The address may not be opened by policy."""

    default_code = "forbidden"


class UnknownField(InvalidInput):
    """The request names a field that does not exist."""

    default_code = "unknown_field"


class Unauthenticated(FreeroamError):
    """No key was given, or one that is not known."""

    default_code = "unauthenticated"


class PermissionDenied(FreeroamError):
    """The key is known but lacks the right."""

    default_code = "permission_denied"


class NotFound(FreeroamError):
    """There is no such thing, or no longer."""

    default_code = "not_found"


class Conflict(FreeroamError):
    """The name is taken."""

    default_code = "conflict"


class TooLarge(FreeroamError):
    """A body, picture or pixel count is over its limit."""

    default_code = "too_large"


class UnsupportedMedia(FreeroamError):
    """The bytes are not a supported picture."""

    default_code = "unsupported_media"


class RateLimited(FreeroamError):
    """The caller asks more often than it may."""

    default_code = "rate_limited"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, detail: Any = None) -> None:
        super().__init__(message, detail=detail)
        self.retry_after_s = retry_after_s


class TooManyStreams(RateLimited):
    """The greatest number of running jobs is reached."""

    default_code = "too_many_streams"


class Unavailable(FreeroamError):
    """Cannot be done now, may be done soon."""

    default_code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, detail: Any = None) -> None:
        super().__init__(message, detail=detail)
        self.retry_after_s = retry_after_s


class QueueFull(Unavailable):
    """The model's queue holds as many requests as it may."""

    default_code = "queue_full"


class Draining(Unavailable):
    """The service is stopping and admits nothing new."""

    default_code = "draining"


class ModelNotReady(Unavailable):
    """The model is still loading, or its replicas are gone."""

    default_code = "model_not_ready"


class Unreachable(Unavailable):
    """The server cannot be reached, or the connection broke before the answer was complete."""

    default_code = "unreachable"


class DeadlineExceeded(FreeroamError):
    """The request's own deadline passed before its answer."""

    default_code = "deadline_exceeded"


class SourceErrorCode(StrEnum):
    """Why video did not come."""

    AUTH = "auth"
    TLS = "tls"
    DNS = "dns"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    NOT_FOUND = "not_found"
    CODEC = "codec"
    NO_VIDEO = "no_video"
    FORBIDDEN = "forbidden"
    STALLED = "stalled"
    ENDED = "ended"
    BAD_DATA = "bad_data"
    SERVER = "server"
    DECODER = "decoder"
    UNAVAILABLE = "unavailable"


PERMANENT_SOURCE_ERRORS = frozenset(
    {
        SourceErrorCode.NOT_FOUND,
        SourceErrorCode.AUTH,
        SourceErrorCode.FORBIDDEN,
        SourceErrorCode.NO_VIDEO,
        SourceErrorCode.CODEC,
        SourceErrorCode.DNS,
    }
)
"""Errors that fail a job after three tries when no frame has come yet."""


class SourceError(FreeroamError):
    """Video did not come, or stopped coming.

    Args:
        code: Why.
        message: What was wrong; never holds a credential.
    """

    def __init__(self, code: SourceErrorCode, message: str, *, detail: Any = None) -> None:
        super().__init__(message, detail=detail, code=code.value)
        self.source_code = code

    @property
    def is_permanent(self) -> bool:
        """Whether trying again is unlikely to help."""
        return self.source_code in PERMANENT_SOURCE_ERRORS


class ModelError(FreeroamError):
    """A model did not answer.

    ``code``: ``model_failed``, ``replica_lost``, ``inference_timeout``, ``load_failed``, ``out_of_memory``.
    """

    default_code = "model_failed"


class StoreError(FreeroamError):
    """The database did not do what was asked."""

    default_code = "store"


class LeaseLost(StoreError):
    """Another process owns this job now; what this one still holds must not be written."""

    default_code = "lease_lost"


class ConfigurationError(FreeroamError):
    """A setting is wrong; the message names it, its value and what is allowed."""

    default_code = "configuration"


class MissingExtra(FreeroamError):
    """An optional library is absent.

    Args:
        library: The name to import.
        extra: The extra of this package that installs it.
    """

    default_code = "missing_extra"

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(
            f"{library} is not installed; run: pip install 'freeroam[{extra}]'",
            detail={"library": library, "extra": extra},
        )
