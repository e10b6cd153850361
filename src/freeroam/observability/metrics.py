"""Every metric of the service, with its help text; only the main process counts."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import partial
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
_GAPS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True, slots=True)
class CallMetrics:
    """What is counted of inference calls to one model version at one priority; looked up once, used for every call.

    Attributes:
        requests: By status and reason.
    """

    time_to_first_token: Histogram
    inter_token_latency: Histogram
    e2e_request_latency: Histogram
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
        self._declare_service()
        self._declare_video()
        self._declare_models()
        self._declare_calls()
        self._calls: dict[tuple[str, str, str], CallMetrics] = {}
        self._answering_models: set[str] = set()

    def of_calls(self, model: str, version: str, priority: str) -> CallMetrics:
        """Return what is counted of calls to one model version at one priority; no version: it was refused."""
        key = (model, version, priority)
        found = self._calls.get(key)
        if found is None:
            found = self._calls[key] = CallMetrics(
                self.time_to_first_token.labels(*key),
                self.inter_token_latency.labels(*key),
                self.e2e_request_latency.labels(*key),
                self.prompt_tokens.labels(*key),
                self.generation_tokens.labels(*key),
                {},
                partial(self.requests.labels, *key),
            )
            if version:
                self._answering_models.add(model)
        return found

    def forget_calls(self, model: str, version: str) -> None:
        """Take out what was counted of calls to one version, because it was unloaded."""
        for key in [key for key in self._calls if key[:2] == (model, version)]:
            for ending in self._calls.pop(key).requests:
                self.requests.remove(*key, *ending)
            for metric in (
                self.time_to_first_token,
                self.inter_token_latency,
                self.e2e_request_latency,
                self.prompt_tokens,
                self.generation_tokens,
            ):
                metric.remove(*key)

    def keep_calls_of(self, versions: Collection[tuple[str, str]]) -> None:
        """Take out what was counted of calls to versions that are not among ``versions``: (model, version).

        A call that outlives its version, since its reader is slow, is counted after ``forget_calls``.
        """
        for model, version in {key[:2] for key in self._calls if key[1]}.difference(versions):
            self.forget_calls(model, version)

    def knows_model(self, name: str) -> bool:
        """Tell whether a model of that name has answered, so that what callers make up never becomes a label."""
        return name in self._answering_models

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

    def _declare_calls(self) -> None:
        key = ("model", "version", "priority")
        self.requests = self._counter("requests_total", "Inference calls that are over.", *key, "status", "reason")
        self.requests_running = self._gauge(
            "requests_running", "Calls and questions of jobs that a model is answering now.", "model", "version"
        )
        self.requests_waiting = self._gauge(
            "requests_waiting", "Calls and questions of jobs that wait for a model.", "model", "version"
        )
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
            "preprocess_seconds", "Time to decode and scale the pictures of one call, the wait for a decoder included."
        )
        self.prompt_tokens = self._counter("prompt_tokens_total", "Tokens that models read for calls.", *key)
        self.generation_tokens = self._counter("generation_tokens_total", "Tokens that models spoke for calls.", *key)
        self.streams_active = self._gauge("streams_active", "Answers that are being given piece by piece now.")
        self.slow_clients = self._counter(
            "slow_client_total", "Streams of text whose reader was too slow, by what was done: dropped.", "action"
        )
        self.model_state = self._gauge(
            "model_state", "1 for the state that a model version is in, 0 for the others.", "model", "version", "state"
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
