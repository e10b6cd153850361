"""A job as its status shows it: what is stored, with what its runner knows now."""

from __future__ import annotations

from freeroam.jobs.runner import Runner
from freeroam.vocabulary.errors import FreeroamError
from freeroam.vocabulary.job import TERMINAL_STATUSES, Job, JobStatus, Policy, SourceState
from freeroam.vocabulary.prompt import Prompt


def explain(error: FreeroamError) -> str:
    """Return ``code: message``, as a job's ``error`` reads."""
    return f"{error.code}: {error.message}"


def trouble_of(runner: Runner, fault: str | None) -> tuple[str | None, str | None]:
    """Return ``error`` and ``error_code`` of a running job: nothing is stored, no video, no answer, or our defect."""
    if (stored := runner.report.store_trouble) is not None:
        return explain(stored), stored.code
    if (source := runner.report.source_trouble) is not None:
        code, message = source
        return f"{code}: {message}", code
    if (asked := runner.asker.trouble) is not None:
        return explain(asked), asked.code
    return (f"internal: {fault}", "internal") if fault and not runner.report.begun.is_set() else (None, None)


def live(job: Job, runner: Runner, prompt: Prompt | None, fault: str | None = None) -> Job:
    """Return ``job`` with what ``runner`` knows now.

    Args:
        job: As stored.
        runner: What runs it.
        prompt: What its next question is asked with.
        fault: Why its runner had to be started again; None unless it had.
    """
    report = runner.report
    error, code = trouble_of(runner, fault)
    source = report.source
    if runner.spec.paused:
        source = source.model_copy(update={"state": SourceState.PAUSED})
    policy = Policy.BLOCK if runner.waits else Policy.LATEST
    own_prompt = prompt.prompt if prompt is not None and prompt.job_id is not None else None
    return job.model_copy(
        update={
            "spec": runner.spec.model_copy(update={"policy": policy, "prompt": own_prompt}),
            "status": JobStatus.RUNNING if report.begun.is_set() else job.status,
            "started_at": report.started_at,
            "frames_dropped": report.dropped,
            "source": source,
            "latency_ms": report.latency_ms(),
            "error": error,
            "error_code": code,
            "prompt": prompt.prompt if prompt else job.prompt,
            "prompt_version": prompt.version if prompt else job.prompt_version,
        }
    )


def settled(job: Job) -> Job:
    """Return ``job``, which nothing runs here: what was open when it ended is closed."""
    is_open = job.source.state not in {SourceState.ENDED, SourceState.FAILED}
    if job.status not in TERMINAL_STATUSES or not is_open:
        return job
    state = SourceState.FAILED if job.status is JobStatus.FAILED else SourceState.ENDED
    return job.model_copy(update={"source": job.source.model_copy(update={"state": state})})
