"""How a measured time is spread: counts in buckets of half a per cent, so that an hour costs no more than a second."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Self

_BUCKETS_A_FOLD = 200.0
"""Buckets for each factor of e, so that neighbours differ by half a per cent (HdrHistogram too fixes the precision)."""

_LEAST_MS = 1e-3
"""Times below a microsecond are counted as one."""


class Spread:
    """Times in milliseconds.

    Attributes:
        count: How many.
        sum_ms: Of all.
        max_ms: The longest, exactly.
    """

    __slots__ = ("_counts", "count", "max_ms", "sum_ms")

    def __init__(self) -> None:
        self._counts: defaultdict[int, int] = defaultdict(int)
        self.count = 0
        self.sum_ms = 0.0
        self.max_ms = 0.0

    def add(self, value_ms: float) -> None:
        """Count one time."""
        self._counts[math.floor(math.log(value_ms) * _BUCKETS_A_FOLD) if value_ms > _LEAST_MS else _FIRST] += 1
        self.count += 1
        self.sum_ms += value_ms
        if value_ms > self.max_ms:
            self.max_ms = value_ms

    def take_in(self, other: Self) -> None:
        """Count all times of ``other`` too."""
        for bucket, count in other._counts.items():
            self._counts[bucket] += count
        self.count += other.count
        self.sum_ms += other.sum_ms
        self.max_ms = max(self.max_ms, other.max_ms)

    def percentile_ms(self, share: float) -> float | None:
        """Return the time that ``share`` (0 to 1) of all do not exceed, to 0.25 per cent; None if none came."""
        if not self.count:
            return None
        wanted = max(1, math.ceil(share * self.count))
        passed = 0
        for bucket in sorted(self._counts):
            passed += self._counts[bucket]
            if passed >= wanted:
                return min(math.exp((bucket + 0.5) / _BUCKETS_A_FOLD), self.max_ms)
        return self.max_ms

    def summary(self) -> dict[str, float | int | None]:
        """Return count, mean, p50, p95, p99 and max in milliseconds; None where none came."""
        return {
            "count": self.count,
            "mean": _rounded(self.sum_ms / self.count) if self.count else None,
            "p50": _rounded(self.percentile_ms(0.50)),
            "p95": _rounded(self.percentile_ms(0.95)),
            "p99": _rounded(self.percentile_ms(0.99)),
            "max": _rounded(self.max_ms) if self.count else None,
        }


_FIRST = math.floor(math.log(_LEAST_MS) * _BUCKETS_A_FOLD)


def _rounded(value_ms: float | None) -> float | None:
    return None if value_ms is None else round(value_ms, 3)
