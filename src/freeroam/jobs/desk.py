"""Where callers start, look at, change and end jobs."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Protocol, TypeVar

from freeroam.jobs.export import check_format, export_results
from freeroam.jobs.parts import JobConfig, JobParts
from freeroam.jobs.supervisor import Supervisor
from freeroam.observability.logs import get_logger
from freeroam.results.listener import Listener
from freeroam.security.redaction import redact_url
from freeroam.store.job_rows import NewJob
from freeroam.store.records import StoredJob
from freeroam.vocabulary.errors import Conflict, Draining, InvalidInput, NotFound
from freeroam.vocabulary.inference import InferenceParams
from freeroam.vocabulary.job import (
    ACTIVE_STATUSES,
    Job,
    JobPatch,
    JobSpec,
    JobStatus,
    Policy,
    SourceOptions,
    StartRequest,
)
from freeroam.vocabulary.result import Result, ResultsPage

GREATEST_PAGE = 1000

log = get_logger(__name__)

T = TypeVar("T")


class ClassifiedReference(Protocol):
    """What a reference turned out to be, see ``sources.references.Reference``."""

    @property
    def kind(self) -> str:
        """``hls``, ``redis``, ..."""
        ...

    @property
    def default_policy(self) -> Policy:
        """The policy of a job that does not say one."""
        ...


class Classifier(Protocol):
    """Tells what a reference is before anything is opened, see ``sources.opening.Opener``."""

    def classify(self, stream_ref: str, options: SourceOptions | None = None) -> ClassifiedReference:
        """Return what ``stream_ref`` is; raises ``InvalidInput`` or ``ForbiddenReference``."""
        ...


class JobDesk:
    """Does what callers ask about jobs.

    Args:
        parts: What jobs work with.
        opener: Checks references.
        supervisor: Runs jobs.
        config: Defaults and limits.
    """

    def __init__(self, parts: JobParts, opener: Classifier, supervisor: Supervisor, config: JobConfig) -> None:
        self._parts = parts
        self._opener = opener
        self._supervisor = supervisor
        self._config = config
        self._changing = asyncio.Lock()
        self._deeds: set[asyncio.Task[Any]] = set()

    async def start(self, wish: StartRequest, owner: str = "", limit_of_owner: int | None = None) -> Job:
        """Accept a job and begin to run it.

        Args:
            wish: What is asked for.
            owner: Name of the key that asks; empty without one.
            limit_of_owner: How many jobs of ``owner`` may be active; None is without a limit of its own.

        Raises:
            InvalidInput: Something in the wish cannot be; no prompt is given and none is set.
            ForbiddenReference: The address may not be opened.
            NotFound: No such model.
            Conflict: The name is taken.
            TooManyStreams: As many jobs as may run do, in all or of the owner.
            Draining: The service is stopping.
        """
        if self._supervisor.is_draining:
            raise Draining("The service is stopping and admits no new job")
        reference = self._opener.classify(wish.stream_ref, wish.source)
        self._check(wish.fps, wish.model, wish.params)
        own = self._parts.library.check(wish.prompt) if wish.prompt is not None else None
        followed = None if own is not None else self._parts.library.resolve(None)
        if own is None and followed is None:
            raise InvalidInput("No prompt is given and none is set; send prompt, or set one with /api/v1/prompt/update")
        spec = JobSpec(
            **wish.model_dump(exclude={"job_id", "fps", "prompt", "policy", "params", "source"}),
            job_id=wish.job_id or str(uuid.uuid4()),
            prompt=own,
            fps=wish.fps if wish.fps is not None else min(self._config.default_fps, self._config.max_fps),
            policy=wish.policy or reference.default_policy,
            policy_is_default=wish.policy is None,
            params=wish.params,
            source=wish.source,
            owner=owner,
        )
        limit = self._config.max_concurrent_streams
        new = NewJob(spec, self._parts.clock.epoch_s(), followed, limit, self._supervisor.lease, limit_of_owner)
        return await self._do(self._admit(new, reference.kind))

    async def status(self, job_id: str) -> Job:
        """Return a job with its live numbers.

        Raises:
            NotFound: No such job.
        """
        return self._supervisor.view((await self._find(job_id)).job)

    async def results(self, job_id: str, limit: int = 100, after: int | None = None) -> ResultsPage:
        """Return the newest results, or those that follow the result ``after``; oldest first.

        Raises:
            NotFound: No such job.
            InvalidInput: ``limit`` is not between 1 and 1000.
        """
        if not 1 <= limit <= GREATEST_PAGE:
            raise InvalidInput(f"limit must be between 1 and {GREATEST_PAGE}, not {limit}")
        store = self._parts.store
        # Results first: the total read after them is never less than what the page shows.
        if after is None:
            rows = await store.newest_results(job_id, limit)
        else:
            rows = await store.results_after(job_id, after, limit)
        job = self._supervisor.view((await self._find(job_id)).job)
        results = [Result.model_validate_json(body) for _, body in rows]
        return ResultsPage(job_id=job_id, status=job.status, results=results, total_results=job.results_count)

    async def list(self, status: str | None = None, limit: int = 100, offset: int = 0) -> tuple[list[Job], int]:
        """Return jobs, newest first, and how many match.

        Raises:
            InvalidInput: No such status; ``limit`` is not between 1 and 1000; ``offset`` is negative.
        """
        if status is not None and status not in {known.value for known in JobStatus}:
            raise InvalidInput(
                f"status {status!r} is unknown; use one of: {', '.join(known.value for known in JobStatus)}"
            )
        if not 1 <= limit <= GREATEST_PAGE:
            raise InvalidInput(f"limit must be between 1 and {GREATEST_PAGE}, not {limit}")
        if not 0 <= offset < 2**31:
            raise InvalidInput(f"offset must be between 0 and {2**31 - 1}, not {offset}")
        found, total = await self._parts.store.list_jobs(JobStatus(status) if status else None, limit, offset)
        return [self._supervisor.view(stored.job) for stored in found], total

    async def cancel(self, job_id: str) -> None:
        """End a job at once, also while its source is connecting.

        Raises:
            NotFound: No such job, or it is over.
        """
        if not await self._do(self._end(job_id)):
            raise NotFound(f"Job {job_id} not found or cannot be cancelled")

    async def patch(self, job_id: str, patch: JobPatch) -> Job:
        """Change a running job from its next question on.

        Raises:
            NotFound: No such job, or no such model.
            InvalidInput: A value cannot be.
            Conflict: The job is over.
        """
        self._check(patch.fps, patch.model, patch.params)
        own = self._parts.library.check(patch.prompt) if patch.prompt is not None else None
        return await self._do(self._amend(job_id, patch, own))

    async def erase(self, job_id: str) -> None:
        """Delete a job with its results and prompts; one that runs is cancelled first.

        Raises:
            NotFound: No such job.
        """
        await self._find(job_id)
        await self._do(self._erase(job_id))

    def export(self, job_id: str, name: str) -> AsyncIterator[bytes]:
        """Return all results of a job that exists as a stream of bytes: ``json``, ``jsonl`` or ``csv``.

        Raises:
            InvalidInput: No such format.
        """
        return export_results(self._parts.store, job_id, check_format(name))

    async def listen(self, job_id: str, after: int | None = None) -> Listener:
        """Return a listener of one job, which the caller closes.

        Args:
            job_id: The job.
            after: Id of the last result that is known; None begins with the first one kept.

        Raises:
            NotFound: No such job.
        """
        listener = self._parts.hub.listener()
        await listener.add(job_id, after)
        return listener

    @property
    def active_streams(self) -> int:
        """How many jobs this process runs."""
        return self._supervisor.running

    async def count_by_status(self) -> dict[str, int]:
        """Return how many jobs are kept, by status."""
        return await self._parts.store.count_by_status()

    def capacity(self) -> dict[str, Any]:
        """Return what is used and free, of streams and of each model."""
        used, limit = self._supervisor.running, self._config.max_concurrent_streams
        models = [
            {
                "name": model.name,
                "version": model.version,
                "state": model.state.value,
                "replicas_ready": model.replicas_ready,
                "replicas_wanted": model.replicas_wanted,
                "queued": model.queued,
            }
            for model in self._parts.engine.list_models()
        ]
        streams = {"used": used, "limit": limit, "free": max(0, limit - used)}
        return {
            "streams": streams,
            "models": models,
            "workers": [{"name": self._supervisor.lease.owner, "streams": used}],
        }

    def _check(self, fps: float | None, model: str | None, params: InferenceParams | None) -> None:
        if fps is not None and fps > self._config.max_fps:
            raise InvalidInput(f"fps must be at most {self._config.max_fps:g} (MAX_FPS), not {fps:g}")
        self._parts.engine.describe(model)
        if params is not None and (params.max_tokens or 0) > self._config.max_tokens:
            raise InvalidInput(f"max_tokens must be at most {self._config.max_tokens} (MAX_TOKENS)")
        if params is not None and (params.messages is not None or params.chat is not None):
            raise InvalidInput("a job asks its prompt: params.messages and params.chat belong to /v1/chat/completions")

    async def _find(self, job_id: str) -> StoredJob:
        stored = await self._parts.store.find_job(job_id)
        if stored is None:
            raise NotFound(f"Job {job_id} not found")
        return stored

    async def _do(self, deed: Coroutine[Any, Any, T]) -> T:
        """Do what has several steps to its end, even if the caller goes away between two of them."""
        task = asyncio.create_task(deed)
        self._deeds.add(task)
        task.add_done_callback(self._deeds.discard)
        return await asyncio.shield(task)

    async def _admit(self, new: NewJob, kind: str) -> Job:
        stored, own = await self._parts.store.add_job(new)
        if own is not None:
            self._parts.library.adopt(own)
        log.info(
            "job_started", job_id=new.spec.job_id, kind=kind, ref=redact_url(new.spec.stream_ref), fps=new.spec.fps
        )
        self._supervisor.launch(stored)
        return stored.job

    async def _end(self, job_id: str) -> bool:
        ending = self._supervisor.ending(job_id, JobStatus.CANCELLED)
        ended = await self._parts.store.end_job(job_id, None, ending)
        if ended is None:
            return False
        await self._supervisor.stop_job(job_id)
        self._parts.library.forget(job_id)
        self._parts.hub.publish_done(ended.job)
        log.info("job_cancelled", job_id=job_id)
        return True

    async def _amend(self, job_id: str, patch: JobPatch, own: str | None) -> Job:
        changes = {name: value for name, value in patch if value is not None}
        if own is not None:
            changes["prompt"] = own
        async with self._changing:
            stored = await self._find(job_id)
            if stored.job.status not in ACTIVE_STATUSES:
                raise Conflict(f"Job {job_id} is over and cannot be changed")
            spec = stored.job.spec.model_copy(update=changes)
            amended, prompt = await self._parts.store.amend_job(spec, own, self._parts.clock.epoch_s())
            if prompt is not None:
                self._parts.library.adopt(prompt)
            self._supervisor.amend(spec)
        return self._supervisor.view(amended.job)

    async def _erase(self, job_id: str) -> None:
        await self._end(job_id)
        if not await self._parts.store.erase_job(job_id):
            raise NotFound(f"Job {job_id} not found")
