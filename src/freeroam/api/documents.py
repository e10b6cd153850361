"""How documents of the contract are made of what the parts know; credentials are taken out here."""

from __future__ import annotations

from datetime import UTC, datetime

from freeroam.security.redaction import redact_text, redact_url
from freeroam.vocabulary.job import Job
from freeroam.vocabulary.job_status import JobStatusDocument, JobSummary


def status_of_job(job: Job, model: str | None = None) -> JobStatusDocument:
    """Return the document of ``job``; credentials in its reference are not shown.

    Args:
        job: The job.
        model: Who answers its questions now, where that is known; else what the job asked for.
    """
    spec = job.spec
    return JobStatusDocument(
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


def summary_of_job(job: Job) -> JobSummary:
    """Return the summary of ``job``; credentials in its reference are not shown."""
    return JobSummary.model_validate(status_of_job(job).model_dump(include=set(JobSummary.model_fields)))


def iso_time(epoch_s: float) -> str:
    """Return ``2026-01-19T12:00:00Z`` for seconds since 1970."""
    return datetime.fromtimestamp(epoch_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def in_words(duration_s: float) -> str:
    """Return ``1h 0m 0s`` for 3600 seconds."""
    hours, rest = divmod(int(duration_s), 3600)
    return f"{hours}h {rest // 60}m {rest % 60}s"
