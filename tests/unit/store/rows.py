"""Rows for tests of the store."""

from __future__ import annotations

from typing import Any

from freeroam.store.job_rows import NewJob
from freeroam.store.records import Lease, Progress, ResultRow
from freeroam.vocabulary.job import JobSpec, Policy

LEASE = Lease("node", 10.0)
BODY = (
    b'{"predictions":[],"confidence":[],"text":null,"error":null,"metadata":{"num_frames":1,"frame_shape":[2,4,3],'
    b'"prompt":"x","prompt_version":1,"timestamp":1.0,"frame_ids":["0"],"stream_time":0.0,"source_size":[2,4],'
    b'"timings_ms":{},"model":"fake","model_version":"1","model_type":"fake","device":"cpu"}}'
)


def new_job(job_id: str, *, lease: Lease = LEASE, limit: int = 1000) -> NewJob:
    spec = JobSpec(job_id=job_id, stream_ref="redis:frames", prompt="x", fps=2.0, policy=Policy.BLOCK)
    return NewJob(spec, 1.0, None, limit, lease)


def row(
    job_id: str,
    key: str,
    *,
    epoch: int = 1,
    created_at: float = 1.0,
    body: bytes = BODY,
    cursor: dict[str, Any] | None = None,
    progress: Progress | None = None,
) -> ResultRow:
    return ResultRow(job_id, epoch, key, 1, created_at, body, cursor or {}, progress or Progress())
