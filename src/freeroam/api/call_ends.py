"""How an inference call ends: what a caller who is gone raises, and how each end is counted."""

from __future__ import annotations

import asyncio

from freeroam.vocabulary.errors import (
    DeadlineExceeded,
    FreeroamError,
    InvalidInput,
    NotFound,
    RateLimited,
    TooLarge,
    Unavailable,
    UnsupportedMedia,
)
from freeroam.vocabulary.inference import Output


class CallerGone(Exception):
    """Whoever asked has gone away, so there is nobody to tell anything."""

    reason = "caller_gone"


class ReaderIsStuckError(CallerGone):
    """Whoever asked takes nothing of the answer, and is treated as one who has gone away."""

    reason = "slow_reader"


def ending_of(error: BaseException | None, output: Output | None) -> tuple[str, str]:
    """Return status and reason of a call's end, both from fixed lists."""
    if error is None:
        return "ok", output.finish_reason.value if output else "none"
    if isinstance(error, CallerGone | asyncio.CancelledError | GeneratorExit):
        return "cancelled", error.reason if isinstance(error, CallerGone) else CallerGone.reason
    if isinstance(error, RateLimited | Unavailable):
        return "rejected", error.code
    if isinstance(error, DeadlineExceeded):
        return "expired", error.code
    if isinstance(error, InvalidInput | NotFound | TooLarge | UnsupportedMedia):
        return "refused", error.code
    return "failed", error.code if isinstance(error, FreeroamError) else "internal"
