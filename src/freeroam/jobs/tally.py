"""What one run of a job counts: drops by reason, and percentiles of where time went."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping

LATENCY_WINDOW = 512
"""Questions over which percentiles are taken."""

STEPS = ("decode", "wait", "model", "total")
_PERCENTILES = (50, 95, 99)


class Tally:
    """Counts of one job.

    Args:
        dropped: What earlier runs of the job counted.
    """

    def __init__(self, dropped: Mapping[str, int] | None = None) -> None:
        self._dropped = Counter(dropped or {})
        self._timings: deque[tuple[float, ...]] = deque(maxlen=LATENCY_WINDOW)

    def drop(self, reason: str, frames: int = 1) -> None:
        """Count frames that were not asked about."""
        self._dropped[reason] += frames

    def dropped(self, *others: Mapping[str, int]) -> dict[str, int]:
        """Return all drops by reason, with those that ``others`` counted."""
        total = Counter(self._dropped)
        for other in others:
            total.update(other)
        return dict(total)

    def note(self, timings_ms: Mapping[str, float]) -> None:
        """Note where the time of one question went."""
        self._timings.append(tuple(timings_ms[step] for step in STEPS))

    def latency_ms(self) -> dict[str, dict[str, float]]:
        """Return p50, p95 and p99 of each step over the last questions, in milliseconds."""
        if not self._timings:
            return {}
        columns = zip(*self._timings, strict=True)
        return {step: _percentiles(column) for step, column in zip(STEPS, columns, strict=True)}


def _percentiles(values: Iterable[float]) -> dict[str, float]:
    """Return percentiles by the nearest-rank method."""
    ordered = sorted(values)
    return {f"p{p}": round(ordered[-(-len(ordered) * p // 100) - 1], 3) for p in _PERCENTILES}
