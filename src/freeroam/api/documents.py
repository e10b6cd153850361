"""The documents that routes return, as the contract names their fields."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from freeroam.security.redaction import redact_text, redact_url
from freeroam.vocabulary.job import Job, JobStatus, Policy, SourceStatus
from freeroam.vocabulary.prompt import Prompt

_JOB_ID = "550e8400-e29b-41d4-a716-446655440000"


class StartedJob(BaseModel):
    """A job was accepted."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"job_id": _JOB_ID, "status": "pending", "message": f"Inference job {_JOB_ID} started"}
        }
    )

    job_id: str
    status: JobStatus
    message: str


class JobMessage(BaseModel):
    """Something was done to a job."""

    message: str
    job_id: str


class JobStatusDocument(BaseModel):
    """Where a job stands.

    Attributes:
        created_at: Epoch seconds, as are the other times.
        error: The last failure; it does not mean that the job is over.
        frames_dropped: Frames never asked about, by reason.
        latency_ms: p50, p95, p99 of ``decode``, ``wait``, ``model``, ``total``.
    """

    model_config = ConfigDict(protected_namespaces=())

    job_id: str
    status: JobStatus
    stream_ref: str
    prompt: str | None
    fps: float
    created_at: float
    started_at: float | None
    completed_at: float | None
    frames_processed: int
    results_count: int
    error: str | None
    error_code: str | None
    model: str | None
    prompt_version: int | None
    follows_global_prompt: bool
    policy: Policy
    window: int | None
    priority: Literal["HIGH", "NORMAL", "LOW"]
    params: dict[str, Any]
    max_frames: int | None
    max_seconds: float | None
    tags: dict[str, str]
    paused: bool
    frames_dropped: dict[str, int]
    source: SourceStatus
    latency_ms: dict[str, dict[str, float]]

    @classmethod
    def of(cls, job: Job, model: str | None = None) -> JobStatusDocument:
        """Return the document of ``job``; credentials in its reference are not shown.

        Args:
            job: The job.
            model: Who answers its questions now, where that is known; else what the job asked for.
        """
        spec = job.spec
        return cls(
            job_id=spec.job_id,
            status=job.status,
            stream_ref=redact_url(spec.stream_ref),
            prompt=job.prompt if job.prompt is not None else spec.prompt,
            fps=spec.fps,
            created_at=job.created_at,
            started_at=job.started_at,
            completed_at=job.completed_at,
            frames_processed=job.frames_processed,
            results_count=job.results_count,
            error=redact_text(job.error) if job.error else None,
            error_code=job.error_code,
            model=model or spec.model,
            prompt_version=job.prompt_version,
            follows_global_prompt=spec.prompt is None,
            policy=spec.policy,
            window=spec.window,
            priority=spec.priority,
            params=spec.params.model_dump(exclude_none=True),
            max_frames=spec.max_frames,
            max_seconds=spec.max_seconds,
            tags=spec.tags,
            paused=spec.paused,
            frames_dropped=job.frames_dropped,
            source=job.source,
            latency_ms=job.latency_ms,
        )


class JobSummary(BaseModel):
    """A job in a list."""

    job_id: str
    status: JobStatus
    stream_ref: str
    prompt: str | None
    fps: float
    created_at: float
    frames_processed: int
    results_count: int

    @classmethod
    def of(cls, job: Job) -> JobSummary:
        """Return the summary of ``job``; credentials in its reference are not shown."""
        return cls.model_validate(JobStatusDocument.of(job).model_dump(include=set(cls.model_fields)))


class JobList(BaseModel):
    """Jobs, newest first; ``total`` counts all that match."""

    jobs: list[JobSummary]
    total: int


class PromptUpdate(BaseModel):
    """A new version of a prompt.

    Attributes:
        prompt: The question.
        job_id: The job whose own prompt it becomes; without it, the global prompt that jobs without their own follow.
        preserve_previous: False takes the previous text out of the history; its number is not used again.
    """

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"example": {"prompt": "Detect only vehicles", "preserve_previous": True}},
    )

    prompt: str
    job_id: str | None = Field(default=None, min_length=1, max_length=128)
    preserve_previous: bool = True


class PromptHistory(BaseModel):
    """Versions of a scope's prompt, newest first."""

    history: list[Prompt]
    total: int


class Health(BaseModel):
    """How the service is."""

    model_config = ConfigDict(protected_namespaces=())

    status: Literal["healthy", "degraded", "draining"]
    uptime_seconds: float
    uptime_formatted: str = Field(examples=["1h 0m 0s"])
    timestamp: str = Field(examples=["2026-01-19T12:00:00Z"])
    model_loaded: bool
    active_connections: int
    active_streams: int
    version: str


class Readiness(BaseModel):
    """Whether the service can take work, and what is missing."""

    ready: bool
    status: Literal["ready", "not_ready"]
    checks: dict[str, bool]
    timestamp: str


class Liveness(BaseModel):
    """The process runs."""

    alive: Literal[True] = True
    timestamp: str


def iso_time(epoch_s: float) -> str:
    """Return ``2026-01-19T12:00:00Z`` for seconds since 1970."""
    return datetime.fromtimestamp(epoch_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def in_words(duration_s: float) -> str:
    """Return ``1h 0m 0s`` for 3600 seconds."""
    hours, rest = divmod(int(duration_s), 3600)
    return f"{hours}h {rest // 60}m {rest % 60}s"
