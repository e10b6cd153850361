"""Every metric of the service, with its help text; only the main process counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """All metrics, on a registry of their own so that several can live in one process (tests, embedders).

    Label values are bounded: models and routes that are known, reasons and states from fixed lists.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(namespace="freeroam", registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._declare_service()
        self._declare_video()
        self._declare_models()

    def render(self) -> bytes:
        """Return the Prometheus text of all metrics."""
        return generate_latest(self.registry)

    def count_dropped(self, reason: str, amount: int = 1) -> None:
        """Count frames that were not asked about."""
        self.frames_dropped.labels(reason).inc(amount)

    def set_states(self, gauge: Gauge, counts: dict[str, int], known: Iterable[str]) -> None:
        """Set a gauge by state; states of ``known`` that ``counts`` lacks become 0."""
        for state in known:
            gauge.labels(state).set(counts.get(state, 0))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"freeroam_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"freeroam_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = _SHORT_S) -> Histogram:
        return Histogram(f"freeroam_{name}", text, labels, registry=self.registry, buckets=buckets)

    def _declare_service(self) -> None:
        self.build = Info("freeroam_build", "Version of the service.", registry=self.registry)
        self.loop_lag = self._histogram(
            "event_loop_lag_seconds", "How much later than planned the main process's event loop woke up."
        )
        self.http_requests = self._counter(
            "http_requests_total",
            "Requests answered, by method, route template and status.",
            "method",
            "route",
            "status",
        )
        self.http_duration = self._histogram(
            "http_request_duration_seconds", "Time to the end of the answer; streams are left out.", "method", "route"
        )
        self.connections = self._gauge("connections", "Requests, streams and sockets open now.")
        self.listeners = self._gauge("listeners", "Event streams and sockets that follow results now.", "kind")
        self.slow_readers = self._counter(
            "slow_readers_total", "Streams and exports cut because their reader drained nothing.", "kind"
        )
        self.rejected = self._counter("rejected_total", "Requests refused, by reason.", "reason")
        self.jobs = self._gauge("jobs", "Jobs kept, by status.", "status")

    def _declare_video(self) -> None:
        self.sources = self._gauge("sources", "Sources of active jobs, by state.", "state")
        self.frames = self._counter("frames_total", "Frames handed to jobs, by kind of source.", "kind")
        self.frames_dropped = self._counter("frames_dropped_total", "Frames never asked about, by reason.", "reason")
        self.decode_time = self._histogram("decode_seconds", "Time to decode and scale one kept frame.")
        self.decoder_restarts = self._counter(
            "decoder_restarts_total", "Decoder processes replaced, by reason.", "reason"
        )

    def _declare_models(self) -> None:
        self.questions = self._counter(
            "questions_total", "Questions answered or failed, by outcome.", "model", "outcome"
        )
        self.queue_length = self._gauge("queue_length", "Questions waiting for a model.", "model")
        self.queue_wait = self._histogram(
            "queue_wait_seconds", "From admission to the start of the model call.", "model"
        )
        self.batch_size = self._histogram("batch_size", "Questions in one model call.", "model", buckets=_BATCHES)
        self.model_time = self._histogram("model_call_seconds", "Time of one model call.", "model")
        self.replicas_ready = self._gauge("replicas_ready", "Replica processes that are ready.", "model")
        self.replica_restarts = self._counter(
            "replica_restarts_total", "Replica processes replaced, by reason.", "model", "reason"
        )
        self.results = self._counter("results_total", "Results committed.", "model")
        self.result_time = self._histogram(
            "result_seconds", "From a frame's due time to its committed result.", "model"
        )

    def snapshot(self) -> dict[str, Any]:
        """Return ``{metric: value}`` or ``{metric: {labels: value}}``; of histograms only count and sum."""
        answer: dict[str, Any] = {}
        for family in self.registry.collect():
            for sample in family.samples:
                if sample.name.endswith(("_bucket", "_created")):
                    continue
                labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
                if labels:
                    answer.setdefault(sample.name, {})[labels] = sample.value
                else:
                    answer[sample.name] = sample.value
        return answer
