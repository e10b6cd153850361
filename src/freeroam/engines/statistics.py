"""What a model has done: counters, and percentiles over the last answers."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass
from typing import Any

from freeroam.clock import Clock
from freeroam.observability.metrics import Metrics
from freeroam.vocabulary.inference import Priority

_SAMPLES = 1000
_WINDOW_S = 60
_FEW = 100
_SORTED_EVERY_S = 0.25
OUTCOMES = ("answered", "failed", "expired", "cancelled", "rejected")


def percentiles(samples: list[float]) -> dict[str, float | None]:
    """Return ``p50``, ``p95``, ``p99`` by the nearest rank; None for each if there are no samples."""
    ordered = sorted(samples)

    def at(share: float) -> float | None:
        if not ordered:
            return None
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3)

    return {"p50": at(0.50), "p95": at(0.95), "p99": at(0.99)}


@dataclass(slots=True)
class _Second:
    """What ended in one second of the clock."""

    number: int
    ended: int = 0
    failed: int = 0


class _Told:
    """The metrics of one model version, looked up once.

    Args:
        metrics: The service's metrics.
        key: Its labels, name and version.
    """

    def __init__(self, metrics: Metrics, key: tuple[str, str]) -> None:
        self.outcomes = {outcome: metrics.questions.labels(*key, outcome) for outcome in OUTCOMES}
        self.batch_size = metrics.batch_size.labels(*key)
        self.batch_wait = metrics.batch_wait.labels(*key)
        self.model_time = metrics.model_time.labels(*key)
        self.queue_time = {priority: metrics.queue_time.labels(*key, priority.name) for priority in Priority}
        self.replicas_ready = metrics.replicas_ready.labels(*key)


class Statistics:
    """Counters and samples of one model version, passed on to the metrics.

    Args:
        name: The model's, a label of the metrics.
        version: The same.
        clock: Where time comes from.
        metrics: The service's metrics; None counts for ``snapshot`` only.
    """

    def __init__(self, name: str, version: str, clock: Clock, metrics: Metrics | None) -> None:
        self._key = (name, version)
        self._clock = clock
        self._metrics = metrics
        self._told = None if metrics is None else _Told(metrics, self._key)
        self._shown: int | None = None
        self._outcomes: Counter[str] = Counter()
        self._restarts: Counter[str] = Counter()
        self._asked_again = 0
        self._calls = 0
        self._questions_in_calls = 0
        self._wait_ms: deque[float] = deque(maxlen=_SAMPLES)
        self._model_ms: deque[float] = deque(maxlen=_SAMPLES)
        self._total_ms: deque[float] = deque(maxlen=_SAMPLES)
        self._seconds: deque[_Second] = deque(maxlen=_WINDOW_S)
        self._sorted: dict[str, dict[str, float | None]] = {}
        self._sorted_s: float | None = None

    def count_outcome(self, outcome: str, amount: int = 1) -> None:
        """Count requests that ended, by one of ``OUTCOMES``."""
        if not amount:
            return
        self._outcomes[outcome] += amount
        if outcome in {"answered", "failed"}:
            second = self._this_second()
            second.ended += amount
            second.failed += amount if outcome == "failed" else 0
        if self._told is not None:
            self._told.outcomes[outcome].inc(amount)

    def count_cancelled(self, stage: str, priority: Priority) -> None:
        """Count a request that nobody waits for any more; ``stage`` is where it was, ``queued`` or ``running``."""
        self.count_outcome("cancelled")
        if self._metrics is not None:
            self._metrics.cancelled.labels(*self._key, priority.name, stage).inc()

    def count_asked_again(self, amount: int) -> None:
        """Count requests that go to a second replica because the first died."""
        self._asked_again += amount

    def count_restart(self, reason: str) -> None:
        """Count a replica that is gone."""
        self._restarts[reason] += 1
        if self._metrics is not None:
            self._metrics.replica_restarts.labels(*self._key, reason).inc()

    def add_call(self, batch_size: int, model_ms: float) -> None:
        """Take in one model call."""
        self._calls += 1
        self._questions_in_calls += batch_size
        self._model_ms.append(model_ms)
        if self._told is not None:
            self._told.batch_size.observe(batch_size)
            self._told.model_time.observe(model_ms / 1000.0)

    def add_batch(self, wait_s: float) -> None:
        """Take in how long the oldest request of a batch had waited when the batch was sent."""
        if self._told is not None:
            self._told.batch_wait.observe(wait_s)

    def add_answer(self, wait_ms: float, total_ms: float, priority: Priority) -> None:
        """Count one answered request and take in its times."""
        self.count_outcome("answered")
        self._wait_ms.append(wait_ms)
        self._total_ms.append(total_ms)
        if self._told is not None:
            self._told.queue_time[priority].observe(wait_ms / 1000.0)

    def show(self, replicas_ready: int) -> None:
        """Pass on what is so now."""
        if self._told is not None and self._shown != replicas_ready:
            self._shown = replicas_ready
            self._told.replicas_ready.set(replicas_ready)

    def end(self) -> None:
        """Take the model out of the metrics, so that versions that come and go leave nothing there."""
        metrics, self._told, self._metrics = self._metrics, None, None
        if metrics is not None:
            metrics.forget_version(*self._key)

    def _this_second(self) -> _Second:
        number = int(self._clock.monotonic_s())
        if not self._seconds or self._seconds[-1].number != number:
            self._seconds.append(_Second(number))
        return self._seconds[-1]

    def snapshot(self) -> dict[str, Any]:
        """Return all of it.

        ``p50``, ``p95``, ``p99`` are of the whole time from admission to answer, milliseconds; ``throughput`` and
        ``error_rate`` are of the last minute, answers a second and the share that failed.
        """
        since = int(self._clock.monotonic_s()) - _WINDOW_S
        ended = sum(second.ended for second in self._seconds if second.number > since)
        failed = sum(second.failed for second in self._seconds if second.number > since)
        ordered = self._ordered()
        return {
            **ordered["total"],
            "throughput": round(ended / _WINDOW_S, 3),
            "error_rate": round(failed / ended, 4) if ended else 0.0,
            "wait_ms": ordered["wait"],
            "model_ms": ordered["model"],
            "calls": self._calls,
            "mean_batch_size": round(self._questions_in_calls / self._calls, 2) if self._calls else 0.0,
            "questions": {outcome: self._outcomes[outcome] for outcome in OUTCOMES},
            "asked_again": self._asked_again,
            "replica_restarts": dict(self._restarts),
        }

    def _ordered(self) -> dict[str, dict[str, float | None]]:
        """Return the percentiles; many samples are sorted anew a few times a second at most."""
        now_s = self._clock.monotonic_s()
        if self._sorted_s is None or len(self._total_ms) < _FEW or now_s - self._sorted_s >= _SORTED_EVERY_S:
            self._sorted_s = now_s
            self._sorted = {
                "total": percentiles(list(self._total_ms)),
                "wait": percentiles(list(self._wait_ms)),
                "model": percentiles(list(self._model_ms)),
            }
        return self._sorted
