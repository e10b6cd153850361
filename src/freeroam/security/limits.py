"""How often a client may ask: token buckets in a bounded table."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from freeroam.clock import Clock

MAX_CLIENTS = 10_000
"""Buckets kept; the client not seen for the longest time is forgotten first."""


@dataclass(frozen=True, slots=True)
class RateConfig:
    """Limits of the whole service.

    Attributes:
        per_minute: Requests a minute and client; 0 is without limit.
        per_endpoint: Further limits, by ``METHOD /path/{template}``.
    """

    per_minute: int = 1000
    per_endpoint: Mapping[str, int] = field(default_factory=dict)


class Verdict(NamedTuple):
    """What a bucket says about one request.

    Attributes:
        is_allowed: Whether it may pass.
        limit: Requests a minute.
        remaining: Whole requests left now.
        retry_after_s: Seconds until the next one may pass; 0 if it may now.
        reset_s: Seconds until the bucket is full again.
    """

    is_allowed: bool
    limit: int
    remaining: int
    retry_after_s: float
    reset_s: float

    def headers(self) -> list[tuple[bytes, bytes]]:
        """Return the ``X-RateLimit-*`` headers, and ``Retry-After`` for a refusal, in whole seconds."""
        pairs = [
            (b"x-ratelimit-limit", b"%d" % self.limit),
            (b"x-ratelimit-remaining", b"%d" % self.remaining),
            (b"x-ratelimit-reset", b"%d" % math.ceil(self.reset_s)),
        ]
        if not self.is_allowed:
            pairs.append((b"retry-after", b"%d" % max(1, math.ceil(self.retry_after_s))))
        return pairs


class RateLimiter:
    """One token bucket a client and endpoint; a bucket holds one minute's worth and fills evenly.

    Args:
        clock: Tells the time.
        max_clients: Size of the table.
    """

    def __init__(self, clock: Clock, max_clients: int = MAX_CLIENTS) -> None:
        self._clock = clock
        self._max_clients = max_clients
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many buckets are kept."""
        return len(self._buckets)

    def take(self, client: str, per_minute: int, endpoint: str = "") -> Verdict:
        """Take one token of ``client`` for ``endpoint`` (empty: all together), if there is one."""
        now_s = self._clock.monotonic_s()
        rate = per_minute / 60.0
        tokens, seen_s = self._buckets.pop((client, endpoint), (float(per_minute), now_s))
        tokens = min(float(per_minute), tokens + (now_s - seen_s) * rate)
        is_allowed = tokens >= 1.0
        tokens -= 1.0 if is_allowed else 0.0
        self._buckets[(client, endpoint)] = (tokens, now_s)
        while len(self._buckets) > self._max_clients:
            self._buckets.popitem(last=False)
        return Verdict(
            is_allowed=is_allowed,
            limit=per_minute,
            remaining=math.floor(tokens),
            retry_after_s=0.0 if is_allowed else (1.0 - tokens) / rate,
            reset_s=(per_minute - tokens) / rate,
        )
