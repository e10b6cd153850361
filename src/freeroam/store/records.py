"""What goes into the store and what comes out, beside the documents of the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from pydantic import ValidationError
from sqlalchemy import RowMapping

from freeroam.vocabulary.inference import InferenceParams
from freeroam.vocabulary.job import Job, JobSpec, JobStatus, Policy, SourceOptions, SourceStatus
from freeroam.vocabulary.prompt import Prompt


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job as the store has it.

    Attributes:
        job: The document.
        epoch: Number of the present lease; a write with another one is refused.
    """

    job: Job
    epoch: int


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to run a job.

    Attributes:
        owner: Name of the process.
        duration_s: How long it holds without renewal, on the database's clock.
    """

    owner: str
    duration_s: float


@dataclass(frozen=True, slots=True)
class Progress:
    """What a runner knows of its job beyond the results; stored with each of them.

    Attributes:
        frames_dropped: By reason.
        source: The source as last seen.
        latency_ms: Percentiles.
        prompt: The text last asked.
        prompt_version: Its version.
    """

    frames_dropped: dict[str, int] = field(default_factory=dict)
    source: SourceStatus = field(default_factory=SourceStatus)
    latency_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    prompt: str | None = None
    prompt_version: int | None = None

    def to_json(self) -> str:
        """Return what is kept of it in one column."""
        return orjson.dumps(
            {
                "frames_dropped": self.frames_dropped,
                "source": self.source.model_dump(mode="json", exclude_defaults=True),
                "latency_ms": self.latency_ms,
            }
        ).decode()


@dataclass(frozen=True, slots=True)
class ResultRow:
    """One result on its way into the store.

    Attributes:
        job_id: The job.
        epoch: The lease under which it was made.
        entry_key: Name of the entry that it answers; a second result of one entry is refused.
        frames: How many frames the answer is about.
        created_at: Epoch seconds.
        body: The result without its ``id``, as a compact JSON object.
        cursor: How far into the source the results reach with this one.
        progress: The job's progress at this point.
    """

    job_id: str
    epoch: int
    entry_key: str
    frames: int
    created_at: float
    body: bytes
    cursor: dict[str, Any]
    progress: Progress


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended.

    Attributes:
        status: A terminal one.
        at: Epoch seconds.
        error: ``code: message``; None if nothing went wrong.
        error_code: The code alone.
        progress: The last known; None leaves what is stored.
    """

    status: JobStatus
    at: float
    error: str | None = None
    error_code: str | None = None
    progress: Progress | None = None


def with_id(result_id: int, body: bytes) -> bytes:
    """Return the JSON of a result from its number and its stored body."""
    return b'{"id":%d,' % result_id + body[1:]


def job_of(row: RowMapping) -> StoredJob:
    """Return the job of a row of ``jobs``."""
    progress = orjson.loads(row["progress"])
    job = Job(
        spec=spec_of(row["spec"]),
        status=JobStatus(row["status"]),
        created_at=row["created_at"],
        started_at=row["started_at"],
        completed_at=row["completed_at"],
        frames_processed=row["frames_processed"],
        results_count=row["total"],
        error=row["error"],
        error_code=row["error_code"],
        prompt=row["prompt"],
        prompt_version=row["prompt_version"],
        frames_dropped=progress.get("frames_dropped", {}),
        source=SourceStatus.model_validate(progress.get("source", {})),
        latency_ms=progress.get("latency_ms", {}),
        cursor=orjson.loads(row["cursor"]),
    )
    return StoredJob(job, row["epoch"])


def spec_of(text: str) -> JobSpec:
    """Return a stored wish, also one whose values were allowed when it was stored and are not any more.

    Limits are for callers: a job that could not be read could neither be listed nor erased, nor let the service start.
    """
    try:
        return JobSpec.model_validate_json(text)
    except ValidationError:
        kept = orjson.loads(text)
    nested = {
        "policy": Policy(kept["policy"]),
        "params": InferenceParams.model_construct(**kept["params"]),
        "source": SourceOptions.model_construct(**kept["source"]),
    }
    return JobSpec.model_construct(**{**kept, **nested})


def prompt_of(row: RowMapping) -> Prompt:
    """Return the prompt of a row of ``prompts``."""
    return Prompt(
        prompt=row["prompt"],
        version=row["version"],
        timestamp=row["created_at"],
        created_at=_iso(row["scope_created_at"]),
        updated_at=_iso(row["created_at"]),
        job_id=row["scope"] or None,
    )


def _iso(epoch_s: float) -> str:
    moment = datetime.fromtimestamp(epoch_s, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
