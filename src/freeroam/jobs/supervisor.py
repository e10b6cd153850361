"""Makes what runs equal to what is stored: takes up, keeps up, stops and drains the runners of this process.

A start, a restart and a crash are one case: active jobs that nobody holds a lease on are claimed, under a new epoch
that fences off whoever held them before, and go on at their cursor.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from freeroam.jobs.control import Outcome
from freeroam.jobs.parts import JobConfig, JobParts
from freeroam.jobs.runner import Runner
from freeroam.jobs.view import explain, live, settled, trouble_of
from freeroam.observability.logs import get_logger
from freeroam.store.records import Ending, Lease, StoredJob
from freeroam.vocabulary.errors import Draining, FreeroamError, LeaseLost, StoreError
from freeroam.vocabulary.job import ACTIVE_STATUSES, Job, JobSpec, JobStatus

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
GOOD_RUN_S = 60.0
"""A run of this length begins the pauses anew."""

STOP_S = 1.0
"""How long a caller waits for a cancelled runner; it is owned and awaited further if it takes longer."""

LOOK_S = 1.0
"""Between two looks for changes that listeners are told."""

log = get_logger(__name__)

T = TypeVar("T")


@dataclass(slots=True)
class _Running:
    """A job that this process runs.

    Attributes:
        stored: As it was taken up last.
        since_s: Monotonic time when it was taken up.
        runner: What runs it now; None between two attempts.
        task: Owns the runner.
        fault: Why the last attempt failed by a defect.
        told: Status and trouble that listeners know of.
        is_ending: Whether its end is being stored.
    """

    stored: StoredJob
    since_s: float
    runner: Runner | None = None
    task: asyncio.Task[None] | None = None
    fault: str | None = None
    told: tuple[Any, ...] = ()
    is_ending: bool = False


class Supervisor:
    """Owns the runners of this process.

    Life: construct (no work), ``await start()``, use, ``await drain(...)`` (optional), ``await stop()``.

    Args:
        parts: What runners work with.
        config: Limits.
        node: Name of this process, unique among those that share the store.
    """

    def __init__(self, parts: JobParts, config: JobConfig, node: str) -> None:
        self._parts = parts
        self._config = config
        self.lease = Lease(node, config.lease_timeout_s)
        self._running: dict[str, _Running] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._upkeep: list[asyncio.Task[None]] = []
        self.is_draining = False

    @property
    def running(self) -> int:
        """How many jobs this process runs."""
        return len(self._running)

    async def start(self) -> None:
        """Take up every active job that nobody runs; on SQLite, whose file this process alone holds, that is each."""
        store = self._parts.store
        claimed = await store.claim_jobs(self.lease, everything=not store.is_shared)
        for stored in claimed:
            self.launch(stored)
        if claimed:
            log.info("jobs_taken_up", jobs=len(claimed))
        self._upkeep = [
            asyncio.create_task(self._keep_leases(), name="leases"),
            asyncio.create_task(self._tell_changes(), name="job changes"),
        ]

    def launch(self, stored: StoredJob) -> None:
        """Run a job whose lease this process holds."""
        job_id = stored.job.spec.job_id
        if job_id in self._running or self.is_draining:
            return
        running = _Running(stored, self._parts.clock.monotonic_s())
        self._running[job_id] = running
        running.task = asyncio.create_task(self._keep(running), name=f"job {job_id}")
        running.task.add_done_callback(lambda _: self._forget(job_id, running))

    def amend(self, spec: JobSpec) -> None:
        """Give a running job its changed wish."""
        running = self._running.get(spec.job_id)
        if running is not None:
            running.stored.job.spec = spec
            if running.runner is not None:
                running.runner.amend(spec)

    def view(self, job: Job) -> Job:
        """Return ``job`` with what its runner knows now."""
        running = self._running.get(job.spec.job_id)
        if running is None:
            return settled(job)
        if running.runner is None:
            fault = f"internal: {running.fault}" if running.fault else None
            return job.model_copy(update={"error": fault, "error_code": "internal" if fault else None})
        return live(job, running.runner, self._parts.library.resolve(job.spec.job_id), running.fault)

    def ending(self, job_id: str, status: JobStatus) -> Ending:
        """Return how a job ends that is ended from outside, with what its runner counted."""
        running = self._running.get(job_id)
        progress = running.runner.report.progress() if running and running.runner else None
        return Ending(status, self._parts.clock.epoch_s(), progress=progress)

    async def stop_job(self, job_id: str) -> None:
        """Stop a runner at once; returns when it has gone, or after a second, when it is still watched until it has."""
        running = self._running.pop(job_id, None)
        if running is not None and running.task is not None:
            await self._cancel({running.task}, STOP_S)

    async def drain(self, timeout_s: float) -> None:
        """Take up nothing, stop every source, let what is in flight be stored, and tell listeners.

        Jobs stay active in the store, so that the next start goes on with them.
        """
        self.is_draining = True
        tasks = {running.task for running in self._running.values() if running.task is not None}
        for running in self._running.values():
            if running.runner is not None:
                running.runner.drain()
            elif running.task is not None:
                running.task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            log.info("jobs_drained", jobs=len(tasks), late=len(late))
            await self._cancel(late, STOP_S)
        self._parts.hub.close(lambda _: JobStatus.RUNNING.value)

    async def stop(self) -> None:
        """End every task of this process's jobs, and give their leases up."""
        self.is_draining = True
        tasks = {running.task for running in self._running.values() if running.task is not None}
        self._ending |= tasks | set(self._upkeep)
        while self._ending:
            for task in self._ending:
                task.cancel()
            await asyncio.wait(self._ending)
            self._ending = {task for task in self._ending if not task.done()}
        try:
            await self._parts.store.release_leases(self.lease.owner)
        except StoreError as error:
            log.info("leases_not_released", error=error.message)

    def _forget(self, job_id: str, running: _Running) -> None:
        if self._running.get(job_id) is running:
            del self._running[job_id]
        if running.task is not None and not running.task.cancelled() and (error := running.task.exception()):
            log.error("job_task_failed", job_id=job_id, error=repr(error))

    async def _cancel(self, tasks: set[asyncio.Task[None]], timeout_s: float) -> None:
        for task in tasks:
            task.cancel()
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    async def _keep(self, running: _Running) -> None:
        """Run a job until it is over; start it again, ever later, when its runner fails by a defect of ours."""
        clock, pause_s = self._parts.clock, FIRST_PAUSE_S
        job_id = running.stored.job.spec.job_id
        while True:
            began_s = clock.monotonic_s()
            try:
                await self._run_once(running)
                return
            except (LeaseLost, Draining) as error:
                log.info("job_let_go", job_id=job_id, reason=error.code)
                if isinstance(error, LeaseLost):
                    await self._insist(job_id, lambda: self._tell_if_over(job_id))
                return
            except Exception as error:  # a defect costs this job a pause, and no other job anything
                running.fault = f"{type(error).__name__}; the job is started again"
                log.exception("runner_failed", job_id=job_id)
            running.runner = None
            pause_s = FIRST_PAUSE_S if clock.monotonic_s() - began_s > GOOD_RUN_S else pause_s
            while True:
                await clock.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                try:
                    again = await self._parts.store.retake_job(job_id, self.lease, running.stored.epoch)
                    break
                except Exception as error:  # also a defect must not leave the job active with nobody who runs it
                    log.warning("job_not_retaken", job_id=job_id, **_why(error))
            if again is None:
                return
            running.stored = again

    async def _run_once(self, running: _Running) -> None:
        """Run the job under its present lease, and store its end if it comes to one."""
        stored = running.stored
        job_id = stored.job.spec.job_id
        await self._parts.library.follow(job_id)
        try:
            running.runner = runner = Runner(stored, self._parts, self._config)
            outcome, failure = await runner.run(), runner.failure
        except (StoreError, Draining):
            raise
        except FreeroamError as error:
            outcome, failure = Outcome.VIDEO_FAILED, error
        progress = running.runner.report.progress() if running.runner else None
        if outcome is Outcome.DRAINED:
            if progress:
                await self._parts.store.save_progress(job_id, stored.epoch, progress)
            return
        ending = Ending(JobStatus.COMPLETED, self._parts.clock.epoch_s(), progress=progress)
        if outcome is Outcome.VIDEO_FAILED and failure is not None:
            ending = Ending(JobStatus.FAILED, ending.at, explain(failure), failure.code, progress)
        running.is_ending = True
        await self._end(stored, ending)

    async def _end(self, stored: StoredJob, ending: Ending) -> None:
        job_id = stored.job.spec.job_id
        ended = await self._insist(job_id, lambda: self._parts.store.end_job(job_id, stored.epoch, ending))
        if ended is None:
            await self._insist(job_id, lambda: self._tell_if_over(job_id))
            return
        self._parts.library.forget(job_id)
        self._parts.hub.publish_done(ended.job)
        log.info("job_ended", job_id=job_id, status=ending.status.value, error=ending.error)

    async def _insist(self, job_id: str, deed: Callable[[], Awaitable[T]]) -> T:
        """Do the last deed for a job, again and again and ever later while the store fails."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                return await deed()
            except StoreError as error:
                log.warning("job_end_not_stored", job_id=job_id, error=error.message)
            await self._parts.clock.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _tell_if_over(self, job_id: str) -> None:
        """Tell the end of a job that somebody else ended, maybe through another process; one that goes on is theirs."""
        found = await self._parts.store.find_job(job_id)
        if found is not None and found.job.status not in ACTIVE_STATUSES:
            self._parts.library.forget(job_id)
            self._parts.hub.publish_done(found.job)

    async def _tell_changes(self) -> None:
        """Tell listeners when a job's trouble or its source's state changes; one task for all jobs."""
        while True:
            for job_id, running in list(self._running.items()):
                if (runner := running.runner) is None or not self._parts.hub.is_heard(job_id):
                    continue
                error, code = trouble_of(runner, running.fault)
                state = runner.report.source.state.value
                status = JobStatus.RUNNING if runner.report.begun.is_set() else running.stored.job.status
                if running.told != (status, state, error):
                    running.told = (status, state, error)
                    self._parts.hub.publish_status(
                        job_id, status.value, error=error, error_code=code, source_state=state
                    )
            await self._parts.clock.sleep(LOOK_S)

    async def _keep_leases(self) -> None:
        """Renew leases, take up jobs without a holder, and stop what is no longer ours, three times a lease."""
        clock = self._parts.clock
        held_until_s = clock.monotonic_s() + self.lease.duration_s
        while True:
            await clock.sleep(self.lease.duration_s / 3.0)
            # Taken before the renewal is sent: the database counts from when it arrives, which is later.
            asked_s = clock.monotonic_s()
            try:
                await self._reconcile(asked_s)
                held_until_s = asked_s + self.lease.duration_s
            except Exception as error:  # also a defect must not leave every lease to run out
                log.warning("leases_not_renewed", **_why(error))
                if self._parts.store.is_shared and clock.monotonic_s() > held_until_s:
                    for job_id in list(self._running):
                        await self.stop_job(job_id)

    async def _reconcile(self, asked_s: float) -> None:
        store = self._parts.store
        held = await store.renew_leases(self.lease)
        for job_id, running in list(self._running.items()):
            is_settled = running.runner is not None and not running.is_ending and running.since_s < asked_s
            if is_settled and held.get(job_id) != running.stored.epoch:
                log.warning("job_lost", job_id=job_id)
                await self.stop_job(job_id)
                await self._tell_if_over(job_id)
        if self.is_draining:
            return
        for job_id in held.keys() - self._running.keys():
            found = await store.find_job(job_id)
            if found is not None and found.epoch == held[job_id] and found.job.status in ACTIVE_STATUSES:
                self.launch(found)
        if store.is_shared:
            for stored in await store.claim_jobs(self.lease):
                self.launch(stored)


def _why(error: Exception) -> dict[str, Any]:
    """Return what the log is told of an error: its words, and where it was raised if it is none of ours."""
    if isinstance(error, FreeroamError):
        return {"error": error.message}
    return {"error": repr(error), "exc_info": error}
