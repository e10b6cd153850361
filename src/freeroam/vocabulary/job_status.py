"""A job as callers are told of it: what the routes of jobs return and the client reads."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from freeroam.vocabulary.job import JobStatus, Policy, SourceStatus

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


class JobList(BaseModel):
    """Jobs, newest first; ``total`` counts all that match."""

    jobs: list[JobSummary]
    total: int


class JobToken(BaseModel):
    """Text of an answer that is still being spoken; it is stored nowhere, so a listener that is slow may miss some.

    Attributes:
        index: Number of the first token in ``text``, from 0.
        count: How many tokens ``text`` joins.
        frame_ids: The frames that the question is about.
    """

    job_id: str
    text: str
    index: int
    count: int
    frame_ids: list[str]


class JobChange(BaseModel):
    """Something about a job is different now.

    Attributes:
        status: None where the one who tells it does not know.
        closing: Whether the service stops; the job goes on when it starts again.
    """

    job_id: str
    status: JobStatus | None
    error: str | None = None
    error_code: str | None = None
    closing: bool = False


class JobEnd(BaseModel):
    """A job is over, and all its results have been told."""

    job_id: str
    status: JobStatus
    error: str | None = None
    error_code: str | None = None
    total_results: int
