"""What is known of a running job beyond its results: how its source is, what was dropped, where time went."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from freeroam.jobs.parts import JobParts, Subscription
from freeroam.jobs.questions import Answer
from freeroam.jobs.tally import Tally
from freeroam.observability.logs import get_logger
from freeroam.store.records import Progress, ResultRow, StoredJob
from freeroam.vocabulary.errors import LeaseLost, StoreError
from freeroam.vocabulary.frame import Frame
from freeroam.vocabulary.job import JobStatus, SourceState, SourceStatus

log = get_logger(__name__)

LATENCY_EVERY_S = 5.0
"""How old stored percentiles may be: sorting for each result would cost more than storing it."""

_BROKEN = frozenset({SourceState.CONNECTING, SourceState.RECONNECTING, SourceState.FAILED})


class Report:
    """Counts and states of one run of a job.

    Args:
        stored: The job as it was taken up.
        parts: Where it is stored, told and counted.

    Attributes:
        begun: Set with the first frame.
        started_at: Epoch seconds of the job's first frame ever; None before.
    """

    def __init__(self, stored: StoredJob, parts: JobParts) -> None:
        self._stored = stored
        self._clock = parts.clock
        self._metrics = parts.metrics
        self._store, self._hub = parts.store, parts.hub
        self._subscription: Subscription | None = None
        self._source = SourceStatus()
        self._latency_ms: dict[str, dict[str, float]] = dict(stored.job.latency_ms)
        self._latency_s = float("-inf")
        self.tally = Tally(stored.job.frames_dropped)
        self.begun = asyncio.Event()
        self.started_at = stored.job.started_at

    @contextmanager
    def following(self, subscription: Subscription) -> Iterator[None]:
        """Take the source's state from ``subscription``; keep what it counted when it is closed."""
        self._subscription = subscription
        try:
            yield
        finally:
            self._source = subscription.status
            self._subscription = None
            for reason, frames in subscription.dropped.items():
                self.tally.drop(reason, frames)

    @property
    def source(self) -> SourceStatus:
        """How the source is now, or was when it was closed."""
        return self._subscription.status if self._subscription else self._source

    @property
    def dropped(self) -> dict[str, int]:
        """Frames never asked about, by reason."""
        return self.tally.dropped(self._subscription.dropped if self._subscription else {})

    @property
    def source_trouble(self) -> tuple[str, str] | None:
        """Code and message of why there is no video now; None while frames come."""
        source = self.source
        if source.last_error is None or source.state not in _BROKEN:
            return None
        return source.last_error, source.last_error_message or "no video"

    @property
    def store_trouble(self) -> StoreError | None:
        """Why no result can be stored now; None while the database takes writes."""
        health = self._store.health
        return None if health.is_writable else StoreError(f"results cannot be stored: {health.last_error}")

    def note_frame(self, frame: Frame) -> bool:
        """Count a frame; return whether it is the first of this run."""
        if self._metrics:
            facts = self._subscription.facts if self._subscription else None
            self._metrics.frames.labels(facts.kind if facts else "unknown").inc()
            self._metrics.decode_time.observe(frame.decode_ms / 1000.0)
        if self.begun.is_set():
            return False
        if self.started_at is None:
            self.started_at = self._clock.epoch_s()
        self.begun.set()
        return True

    async def store_beginning(self) -> None:
        """Store that the first frame came, and tell it; if the database fails now, the first result stores it as well.

        Raises:
            LeaseLost: Another process runs the job now, or it is over.
        """
        job_id = self._stored.job.spec.job_id
        try:
            await self._store.begin_job(job_id, self._stored.epoch, self.started_at or 0.0)
        except LeaseLost:
            raise
        except StoreError as error:
            log.warning("beginning_not_stored", job_id=job_id, error=error.message)
        self._hub.publish_status(job_id, JobStatus.RUNNING.value)

    async def age_s(self) -> float:
        """Wait for the job's first frame ever, and return the seconds since then."""
        if self.started_at is None:
            await self.begun.wait()
        return self._clock.epoch_s() - (self.started_at or 0.0)

    def drop(self, reason: str, frames: int) -> None:
        """Count frames that are not asked about."""
        self.tally.drop(reason, frames)
        if self._metrics:
            self._metrics.count_dropped(reason, frames)

    def note_answer(self, answer: Answer) -> None:
        """Count an answer whose result is stored."""
        timings_ms = answer.timings_ms or {}
        if answer.output is not None:
            self.tally.note(timings_ms)
        if self._metrics:
            model, version = (answer.output.model, answer.output.version) if answer.output else ("failed", "")
            self._metrics.count_result(model, version, timings_ms.get("total", 0.0) / 1000.0)

    def latency_ms(self) -> dict[str, dict[str, float]]:
        """Return percentiles of the last questions, or those of the run before while there are none."""
        return self.tally.latency_ms() or self._latency_ms

    def progress(self, answer: Answer | None = None) -> Progress:
        """Return what is stored with the result of ``answer``, or without one, which is mostly for the last time."""
        now_s = self._clock.monotonic_s()
        if answer is None or now_s - self._latency_s >= LATENCY_EVERY_S:
            self._latency_s, self._latency_ms = now_s, self.latency_ms()
        prompt = answer.prompt if answer else None
        return Progress(
            frames_dropped=self.dropped,
            source=self.source,
            latency_ms=self._latency_ms,
            prompt=prompt.prompt if prompt else None,
            prompt_version=prompt.version if prompt else None,
        )

    def row(self, answer: Answer) -> ResultRow:
        """Return what is stored of ``answer``."""
        assert answer.body is not None
        return ResultRow(
            job_id=self._stored.job.spec.job_id,
            epoch=self._stored.epoch,
            entry_key=answer.question.entry_key,
            frames=len(answer.question.clip.frames),
            created_at=self._clock.epoch_s(),
            body=answer.body,
            cursor=answer.question.cursor,
            progress=self.progress(answer),
        )
