"""Routes of inference jobs: start, look, change, cancel, erase, export."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from freeroam.api.documents import status_of_job, summary_of_job
from freeroam.api.download import Download
from freeroam.api.journal import audit
from freeroam.api.parts import Parts, TheCaller, TheConfig, TheParts
from freeroam.api.problems import responses
from freeroam.security.redaction import redact_url
from freeroam.vocabulary.errors import FreeroamError
from freeroam.vocabulary.inference import Priority
from freeroam.vocabulary.job import Job, JobPatch, JobStatus, StartRequest
from freeroam.vocabulary.job_status import JobList, JobMessage, JobStatusDocument, StartedJob
from freeroam.vocabulary.result import ResultsPage

MAX_ID = 2**53 - 1
"""Greatest result id that may be asked after: what JSON numbers hold exactly."""

router = APIRouter(prefix="/api/v1", tags=["inference"])

JobId = Annotated[str, Path(description="Id of the job.", examples=["550e8400-e29b-41d4-a716-446655440000"])]
Limit = Annotated[int, Query(ge=1, le=1000, description="Greatest number that is returned.")]
Start = Annotated[
    StartRequest,
    Body(
        openapi_examples={
            "demo": {"summary": "The clip that ships", "value": {"stream_ref": "demo:", "prompt": "Detect all people"}},
            "hls": {
                "summary": "A live stream",
                "value": {
                    "stream_ref": "https://example.com/stream.m3u8",
                    "prompt": "Detect all people and vehicles",
                    "fps": 2.0,
                },
            },
            "redis": {
                "summary": "Frames in Redis",
                "value": {"stream_ref": "video_frames", "prompt": "Count the cars"},
            },
        }
    ),
]


@router.post(
    "/inference/start", status_code=202, response_model=StartedJob, responses=responses(409), summary="Start a job"
)
async def start_job(wish: Start, request: Request, parts: TheParts, caller: TheCaller) -> StartedJob:
    """Put a question to a stream; answers come until it ends, a limit is reached or the job is cancelled."""
    parts.lifecycle.check_admission()
    wish = wish.model_copy(update={"priority": lowered(wish.priority, caller.highest_priority)})
    job = await parts.desk.start(
        wish, owner=caller.name if caller.has_key else "", limit_of_owner=caller.max_streams if caller.has_key else None
    )
    audit(request.scope, "job_started", job_id=job.spec.job_id, stream_ref=redact_url(job.spec.stream_ref))
    job_id = job.spec.job_id
    return StartedJob(job_id=job_id, status=JobStatus.PENDING, message=f"Inference job {job_id} started")


@router.get(
    "/inference/status/{job_id}",
    response_model=JobStatusDocument,
    responses=responses(404),
    summary="Where a job stands",
)
async def get_status(job_id: JobId, parts: TheParts) -> JobStatusDocument:
    """Return progress, the source's state, drops by reason and latencies."""
    job = await parts.desk.status(job_id)
    return status_of_job(job, _model_of(job, parts))


@router.get(
    "/inference/results/{job_id}", response_model=ResultsPage, responses=responses(404), summary="Results of a job"
)
async def get_results(
    job_id: JobId,
    parts: TheParts,
    limit: Limit = 100,
    after: Annotated[
        int | None, Query(ge=0, le=MAX_ID, description="Id of a result: gives those that follow it, oldest first.")
    ] = None,
) -> Response:
    """Return the newest results in order of time, or with ``after`` those that follow; works while the job runs."""
    page = await parts.desk.results(job_id, limit=limit, after=after)
    return Response(page.model_dump_json(), media_type="application/json")


@router.delete(
    "/inference/cancel/{job_id}", response_model=JobMessage, responses=responses(404), summary="Cancel a job"
)
async def cancel_job(job_id: JobId, request: Request, parts: TheParts) -> JobMessage:
    """Stop a pending or running job; its results stay."""
    await parts.desk.cancel(job_id)
    audit(request.scope, "job_cancelled", job_id=job_id)
    return JobMessage(message=f"Job {job_id} cancelled", job_id=job_id)


@router.get("/inference/jobs", response_model=JobList, responses=responses(), summary="List jobs")
async def list_jobs(
    parts: TheParts,
    status: Annotated[JobStatus | None, Query(description="Only jobs of this status.")] = None,
    limit: Limit = 100,
    offset: Annotated[int, Query(ge=0, le=MAX_ID, description="How many to pass over.")] = 0,
) -> JobList:
    """Return jobs, newest first."""
    jobs, total = await parts.desk.list(status=status, limit=limit, offset=offset)
    return JobList(jobs=[summary_of_job(job) for job in jobs], total=total)


@router.patch(
    "/inference/jobs/{job_id}",
    response_model=JobStatusDocument,
    responses=responses(404, 409),
    summary="Change a running job",
)
async def patch_job(
    job_id: JobId,
    patch: Annotated[JobPatch, Body(examples=[{"fps": 1.0, "prompt": "Detect only vehicles"}, {"paused": True}])],
    request: Request,
    parts: TheParts,
) -> JobStatusDocument:
    """Change rate, prompt, model, parameters or pause; takes hold at the next question."""
    parts.lifecycle.check_admission()
    job = await parts.desk.patch(job_id, patch)
    audit(request.scope, "job_changed", job_id=job_id, fields=sorted(patch.model_fields_set))
    return status_of_job(job, _model_of(job, parts))


@router.delete("/inference/jobs/{job_id}", response_model=JobMessage, responses=responses(404), summary="Erase a job")
async def erase_job(job_id: JobId, request: Request, parts: TheParts) -> JobMessage:
    """Cancel a job if it runs, and delete it with its results."""
    await parts.desk.erase(job_id)
    audit(request.scope, "job_erased", job_id=job_id)
    return JobMessage(message=f"Job {job_id} erased", job_id=job_id)


_EXPORTS: dict[str, str] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/x-ndjson",
}


@router.get(
    "/inference/jobs/{job_id}/export",
    response_class=StreamingResponse,
    responses={
        **responses(404),
        200: {"description": "All results.", "content": {kind.partition(";")[0]: {} for kind in _EXPORTS.values()}},
    },
    summary="Export all results of a job",
)
async def export_job(
    job_id: JobId,
    parts: TheParts,
    config: TheConfig,
    export_format: Annotated[Literal["json", "csv", "jsonl"], Query(alias="format")] = "json",
) -> StreamingResponse:
    """Return every result as one JSON list, as CSV with a line a prediction, or as a JSON object a line."""
    await parts.desk.status(job_id)
    name = f"{''.join(sign if sign.isalnum() or sign in '._-' else '_' for sign in job_id)}.{export_format}"
    return Download(
        parts.desk.export(job_id, export_format),
        parts,
        config.stream_idle_timeout_s,
        media_type=_EXPORTS[export_format],
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@router.get("/capacity", responses=responses(), summary="What is used and what is free")
async def get_capacity(parts: TheParts) -> dict[str, Any]:
    """Return streams used and free, and what each model holds."""
    return parts.desk.capacity()


def _model_of(job: Job, parts: Parts) -> str | None:
    """Return ``name@version`` of who answers the job's questions now; None for a model that is gone."""
    try:
        info = parts.engine.describe(job.spec.model)
    except FreeroamError:
        return None
    return f"{info.name}@{info.version}"


def lowered(wish: Literal["HIGH", "NORMAL", "LOW"], highest: Priority) -> Literal["HIGH", "NORMAL", "LOW"]:
    """Return the wished priority, or the highest that the caller's key allows."""
    names: dict[Priority, Literal["HIGH", "NORMAL", "LOW"]] = {
        Priority.HIGH: "HIGH",
        Priority.NORMAL: "NORMAL",
        Priority.LOW: "LOW",
    }
    return names[max(Priority[wish], highest)]
