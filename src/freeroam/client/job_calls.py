"""The calls of jobs and prompts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

from freeroam.client.calls import API, Call, Flow, body_of, call_for, json_call
from freeroam.client.job_streams import download, follow, page_results
from freeroam.client.steps import Request
from freeroam.vocabulary.inference import InferenceParams
from freeroam.vocabulary.job import JobPatch, JobStatus, Policy, SourceOptions, StartRequest
from freeroam.vocabulary.job_status import (
    JobChange,
    JobEnd,
    JobList,
    JobMessage,
    JobStatusDocument,
    JobToken,
    StartedJob,
)
from freeroam.vocabulary.prompt import Prompt, PromptHistory, PromptUpdate
from freeroam.vocabulary.result import Result, ResultsPage

Level = Literal["HIGH", "NORMAL", "LOW"]
Tuning = InferenceParams | Mapping[str, Any]
JobEvent = Result | JobToken | JobChange | JobEnd
"""What a job tells those who follow it."""


def start_job(  # noqa: PLR0913 - the fields of a job, by name
    stream_ref: str,
    prompt: str | None = None,
    *,
    fps: float | None = None,
    job_id: str | None = None,
    model: str | None = None,
    window: int | None = None,
    policy: Policy | Literal["latest", "block"] | None = None,
    priority: Level | None = None,
    params: Tuning | None = None,
    max_frames: int | None = None,
    max_seconds: float | None = None,
    tags: Mapping[str, str] | None = None,
    source: SourceOptions | Mapping[str, Any] | None = None,
) -> Call[StartedJob]:
    """Put a question to a stream; answers come until it ends, a limit is reached or the job is cancelled.

    Args:
        stream_ref: What to watch.
        prompt: The question; None takes the current prompt, and follows it.
        fps: Samples per second of stream time.
        job_id: None makes a UUID.
        model: ``name`` or ``name@version``.
        window: Frames a question.
        policy: What happens to frames while the model is busy.
        priority: Who goes first.
        params: Tuning.
        max_frames: Ends the job after questions about this many frames.
        max_seconds: Ends the job this long after its first frame.
        tags: Free words.
        source: How the stream is opened.

    Raises:
        InvalidInput: Something that cannot be.
        Conflict: There is a job of that id.
        TooManyStreams: As many run as may.
    """
    body = body_of(
        StartRequest,
        stream_ref=stream_ref,
        prompt=prompt,
        fps=fps,
        job_id=job_id,
        model=model,
        window=window,
        policy=policy,
        priority=priority,
        params=params,
        max_frames=max_frames,
        max_seconds=max_seconds,
        tags=tags,
        source=source,
    )
    return call_for(StartedJob, Request("POST", f"{API}/inference/start", body=body))


def job_status(job_id: str) -> Call[JobStatusDocument]:
    """Return where a job stands: progress, the state of its source, drops by reason, latencies.

    Raises:
        NotFound: No such job.
    """
    return call_for(JobStatusDocument, Request("GET", _job(job_id, "status")))


def results(job_id: str, *, limit: int = 100, after: int | None = None) -> Call[ResultsPage]:
    """Return the newest results of a job in order of time, or those that follow the result ``after``.

    Raises:
        NotFound: No such job.
    """
    return call_for(ResultsPage, Request("GET", _job(job_id, "results"), {"limit": limit, "after": after}))


def iterate_results(job_id: str, *, after: int = 0, page: int = 500) -> Flow[Result]:
    """Give all results that are stored now, oldest first, after the result ``after``; read ``page`` at a time."""

    def page_of(position: int) -> Request:
        return Request("GET", _job(job_id, "results"), {"limit": page, "after": position})

    return Flow(lambda retries: page_results(page_of, after, page, retries))


def stream_results(job_id: str, *, after: int | None = None) -> Flow[Result]:
    """Give results as they are committed, until the job is over.

    When the connection is lost, it is opened again and goes on after the last result: none is doubled, none is lost.

    Args:
        job_id: The job.
        after: Begin after this result; None begins with the first one kept.

    Raises:
        NotFound: No such job, or not any more.
        Unreachable: The connection could not be opened again.
    """
    request = Request("GET", _job(job_id, "stream"))
    return Flow(lambda retries: follow(request, after, retries, Result))


def stream_events(job_id: str, *, after: int | None = None) -> Flow[JobEvent]:
    """Give everything that a job tells: results as ``stream_results`` does, text as it is spoken, changes, the end."""
    request = Request("GET", _job(job_id, "stream"))
    return Flow(lambda retries: follow(request, after, retries, Result, JobToken, JobChange, JobEnd))


def cancel_job(job_id: str) -> Call[JobMessage]:
    """Stop a pending or running job; its results stay.

    Raises:
        NotFound: No such job, or it is over.
    """
    return call_for(JobMessage, Request("DELETE", _job(job_id, "cancel")))


def list_jobs(*, status: JobStatus | str | None = None, limit: int = 100, offset: int = 0) -> Call[JobList]:
    """Return jobs, newest first."""
    query = {"status": None if status is None else str(status), "limit": limit, "offset": offset}
    return call_for(JobList, Request("GET", f"{API}/inference/jobs", query))


def change_job(
    job_id: str,
    *,
    fps: float | None = None,
    prompt: str | None = None,
    model: str | None = None,
    params: Tuning | None = None,
    paused: bool | None = None,
) -> Call[JobStatusDocument]:
    """Change a job from its next question on; None leaves a field as it is.

    Raises:
        NotFound: No such job.
        Conflict: It is over.
    """
    body = body_of(JobPatch, fps=fps, prompt=prompt, model=model, params=params, paused=paused)
    return call_for(JobStatusDocument, Request("PATCH", _job(job_id), body=body))


def erase_job(job_id: str) -> Call[JobMessage]:
    """Cancel a job if it runs, and delete it with its results.

    Raises:
        NotFound: No such job.
    """
    return call_for(JobMessage, Request("DELETE", _job(job_id)))


def export_job(job_id: str, form: Literal["json", "csv", "jsonl"] = "json") -> Flow[bytes]:
    """Give the bytes of a file of all results, as they come.

    Raises:
        NotFound: No such job.
        Unreachable: The file broke off.
    """
    request = Request("GET", _job(job_id, after="/export"), {"format": form})
    return Flow(lambda retries: download(request, retries))


def capacity() -> Call[dict[str, Any]]:
    """Return what is used and what is free: streams, and what each model holds."""
    return json_call(Request("GET", f"{API}/capacity"))


# Prompts


def update_prompt(prompt: str, *, job_id: str | None = None, preserve_previous: bool = True) -> Call[Prompt]:
    """Store the next version of the global prompt, or of a job's own; running jobs use it from the next question on.

    Args:
        prompt: The question.
        job_id: None is the global prompt, which jobs without their own follow.
        preserve_previous: False takes the previous text out of the history.

    Raises:
        NotFound: No such job.
    """
    body = body_of(PromptUpdate, prompt=prompt, job_id=job_id, preserve_previous=preserve_previous)
    return call_for(Prompt, Request("POST", f"{API}/prompt/update", body=body))


def current_prompt(job_id: str | None = None) -> Call[Prompt]:
    """Return the newest version of a job's own prompt, or of the global one if it has none.

    Raises:
        NotFound: None is set.
    """
    return call_for(Prompt, Request("GET", f"{API}/prompt/current", {"job_id": job_id}))


def prompt_history(job_id: str | None = None, *, limit: int = 10) -> Call[PromptHistory]:
    """Return the versions of one scope, newest first."""
    return call_for(PromptHistory, Request("GET", f"{API}/prompt/history", {"limit": limit, "job_id": job_id}))


def _job(job_id: str, deed: str = "jobs", after: str = "") -> str:
    return f"{API}/inference/{deed}/{quote(job_id, safe='')}{after}"
