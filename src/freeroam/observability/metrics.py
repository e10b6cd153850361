"""Every metric of the service, with its help text; only the main process counts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

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

from freeroam.vocabulary.errors import DeadlineExceeded, FreeroamError, RateLimited, Unavailable

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)

_SHORT_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_GAPS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_REASONS = {"rate_limited": "rate_limit", "deadline_exceeded": "deadline"}
"""Codes of errors whose reason in ``rejected_total`` has another name, the usual one."""


@dataclass(frozen=True, slots=True)
class CallMetrics:
    """What is counted of inference calls to one model version at one priority; looked up once, used for every call.

    Attributes:
        requests: By status and reason.
    """

    time_to_first_token: Histogram
    inter_token_latency: Histogram
    e2e_request_latency: Histogram
    preprocess_time: Histogram
    prompt_tokens: Counter
    generation_tokens: Counter
    requests: dict[tuple[str, str], Counter]
    new_requests: partial[Counter]

    def count(self, status: str, reason: str) -> None:
        """Count one call that is over."""
        counter = self.requests.get((status, reason))
        if counter is None:
            counter = self.requests[status, reason] = self.new_requests(status, reason)
        counter.inc()


class Metrics:
    """All metrics, on a registry of their own so that several can live in one process (tests, embedders).

    Label values are bounded: models and routes that are known, reasons and states from fixed lists.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(namespace="freeroam", registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._of_versions: list[tuple[Counter | Gauge | Histogram, tuple[str, ...]]] = []
        self._declare_service()
        self._declare_video()
        self._declare_models()
        self._declare_calls()
        self._calls: dict[tuple[str, str, str], CallMetrics] = {}
        self._answering_models: set[str] = set()
        self._counted: set[tuple[str, str]] = set()
        self._totals: dict[Counter, int] = {}

    def of_calls(self, model: str, version: str, priority: str) -> CallMetrics:
        """Return what is counted of calls to one model version at one priority; no version: it was refused."""
        key = (model, version, priority)
        found = self._calls.get(key)
        if found is None:
            found = self._calls[key] = CallMetrics(
                self.time_to_first_token.labels(*key),
                self.inter_token_latency.labels(*key),
                self.e2e_request_latency.labels(*key),
                self.preprocess_time.labels(*key),
                self.prompt_tokens.labels(*key),
                self.generation_tokens.labels(*key),
                {},
                partial(self.requests.labels, *key),
            )
            if version:
                self._answering_models.add(model)
                self._counted.add((model, version))
        return found

    def forget_version(self, model: str, version: str) -> None:
        """Take out all that was counted of one version, because it was unloaded."""
        for key in [key for key in self._calls if key[:2] == (model, version)]:
            del self._calls[key]
        self._counted.discard((model, version))
        for metric, names in self._of_versions:
            kept = (sample.labels for family in metric.collect() for sample in family.samples)
            of_it = (labels for labels in kept if (labels["model"], labels["version"]) == (model, version))
            for values in {tuple(labels[name] for name in names) for labels in of_it}:
                metric.remove(*values)

    def keep_versions(self, versions: Collection[tuple[str, str]]) -> None:
        """Take out what was counted of versions that are not among ``versions``: (model, version).

        A call or a job's result that outlives its version, since its reader or the database is slow, is counted after
        ``forget_version``.
        """
        for model, version in self._counted.difference(versions):
            self.forget_version(model, version)
        # Calls that were refused name no version; they go with the last version of their model.
        gone = self._answering_models.difference(model for model, _ in versions)
        for model in gone:
            self.forget_version(model, "")
        self._answering_models -= gone

    def knows_model(self, name: str) -> bool:
        """Tell whether a model of that name has answered, so that what callers make up never becomes a label."""
        return name in self._answering_models

    def render(self) -> bytes:
        """Return the Prometheus text of all metrics."""
        return generate_latest(self.registry)

    def count_dropped(self, reason: str, amount: int = 1) -> None:
        """Count frames that were not asked about."""
        self.frames_dropped.labels(reason).inc(amount)

    def count_up_to(self, counter: Counter, total: int) -> None:
        """Bring a counter up to what somebody else has counted."""
        counter.inc(total - self._totals.get(counter, 0))
        self._totals[counter] = total

    def count_rejected(self, reason: str) -> None:
        """Count a request that was refused; ``reason`` is the error's code where there is one."""
        self.rejected.labels(_REASONS.get(reason, reason)).inc()

    def count_refusal(self, error: FreeroamError) -> None:
        """Count a request that ended with ``error`` before its answer began, unless it was wrong or failed itself."""
        if isinstance(error, RateLimited | Unavailable | DeadlineExceeded):
            self.count_rejected(error.code)

    def count_slow_client(self, kind: str) -> None:
        """Count a reader that was cut off because it drained nothing."""
        self.slow_clients.labels(kind, "dropped").inc()

    def count_result(self, model: str, version: str, total_s: float) -> None:
        """Count a committed result; no version: no model answered.

        Args:
            model: Who answered, or ``failed``.
            version: Its version.
            total_s: From the due time of the frame, seconds.
        """
        if version:
            self._counted.add((model, version))
        self.results.labels(model, version).inc()
        self.result_time.labels(model, version).observe(total_s)

    def set_states(self, gauge: Gauge, counts: dict[str, int], known: Iterable[str]) -> None:
        """Set a gauge by state; states of ``known`` that ``counts`` lacks become 0."""
        for state in known:
            gauge.labels(state).set(counts.get(state, 0))

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return self._note(Counter(f"freeroam_{name}", text, labels, registry=self.registry), labels)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return self._note(Gauge(f"freeroam_{name}", text, labels, registry=self.registry), labels)

    def _histogram(self, name: str, text: str, *labels: str, buckets: tuple[float, ...] = _SHORT_S) -> Histogram:
        metric = Histogram(f"freeroam_{name}", text, labels, registry=self.registry, buckets=buckets)
        return self._note(metric, labels)

    def _note(self, metric: _Metric, labels: tuple[str, ...]) -> _Metric:
        """Remember a metric of versions, so that ``forget_version`` overlooks none."""
        if {"model", "version"} <= set(labels):
            self._of_versions.append((metric, labels))
        return metric

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
        self.slow_clients = self._counter(
            "slow_client_total",
            "Readers that drained nothing: of an answer, by sse, by websocket, of an export; what was done: dropped.",
            "kind",
            "action",
        )
        self.rejected = self._counter(
            "rejected_total", "Requests turned away before their answer began, by reason.", "reason"
        )
        self.jobs = self._gauge("jobs", "Jobs kept, by status.", "status")

    def _declare_video(self) -> None:
        self.sources = self._gauge("sources", "Sources of active jobs, by state.", "state")
        self.frames = self._counter("frames_total", "Frames handed to jobs, by kind of source.", "kind")
        self.frames_dropped = self._counter("frames_dropped_total", "Frames never asked about, by reason.", "reason")
        self.decode_time = self._histogram("decode_seconds", "Time to decode and scale one kept frame.")
        self.decoder_restarts = self._counter(
            "decoder_restarts_total", "Decoder processes replaced, by reason.", "reason"
        )
        self.frame_memory = self._gauge(
            "frame_memory_bytes", "Memory of frames that decoders and models share, places lent for frames included."
        )
        self.frames_copied = self._counter(
            "frames_copied_total", "Frames that travelled as bytes because the memory to share them in was full."
        )
        self.temporary_bytes = self._gauge(
            "temporary_bytes", "Disk that recordings take whose servers do not give them in ranges."
        )
        self.temporary_refused = self._counter(
            "temporary_refused_total", "Recordings given up because temporary files had no disk left."
        )

    def _declare_models(self) -> None:
        key = ("model", "version")
        self.questions = self._counter("questions_total", "Questions answered or failed, by outcome.", *key, "outcome")
        self.cancelled = self._counter(
            "cancelled_total",
            "Calls and questions of jobs that nobody waits for any more, by where they were: queued, running.",
            *key,
            "priority",
            "stage",
        )
        self.queue_time = self._histogram(
            "queue_time_seconds", "From admission to the start of the model call.", *key, "priority"
        )
        self.batch_size = self._histogram("batch_size", "Questions in one model call.", *key, buckets=_BATCHES)
        self.batch_wait = self._histogram(
            "batch_wait_seconds", "How long the oldest question of a batch had waited when the batch was sent.", *key
        )
        self.model_time = self._histogram("model_call_seconds", "Time of one model call.", *key)
        self.replicas_ready = self._gauge("replicas_ready", "Replica processes that are ready.", *key)
        self.replica_restarts = self._counter(
            "replica_restarts_total", "Replica processes replaced, by reason.", *key, "reason"
        )
        self.requests_running = self._gauge(
            "requests_running", "Calls and questions of jobs that a model is answering now.", *key, "priority"
        )
        self.requests_waiting = self._gauge(
            "requests_waiting", "Calls and questions of jobs that wait for a model.", *key, "priority"
        )
        self.model_state = self._gauge(
            "model_state", "1 for the state that a model version is in, 0 for the others.", *key, "state"
        )
        self.results = self._counter("results_total", "Results committed.", *key)
        self.result_time = self._histogram("result_seconds", "From a frame's due time to its committed result.", *key)

    def _declare_calls(self) -> None:
        key = ("model", "version", "priority")
        self.requests = self._counter("requests_total", "Inference calls that are over.", *key, "status", "reason")
        self.time_to_first_token = self._histogram(
            "time_to_first_token_seconds", "From the begin of a streamed call to its first piece of text.", *key
        )
        self.inter_token_latency = self._histogram(
            "inter_token_latency_seconds", "Mean time between the tokens of one streamed answer.", *key, buckets=_GAPS_S
        )
        self.e2e_request_latency = self._histogram(
            "e2e_request_latency_seconds", "From the begin of a call to the end of its answer.", *key
        )
        self.preprocess_time = self._histogram(
            "preprocess_seconds",
            "Time to decode and scale the pictures of one call, the wait for a decoder included.",
            *key,
        )
        self.prompt_tokens = self._counter("prompt_tokens_total", "Tokens that models read for calls.", *key)
        self.generation_tokens = self._counter("generation_tokens_total", "Tokens that models spoke for calls.", *key)
        self.streams_active = self._gauge("streams_active", "Answers that are being given piece by piece now.")

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
