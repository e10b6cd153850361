"""Statements about jobs; each function is one operation of the writer or one read."""

from __future__ import annotations

from dataclasses import dataclass

import orjson
from sqlalchemy import ColumnElement, Connection, case, delete, func, insert, or_, select, update

from freeroam.store.prompt_rows import add_prompt
from freeroam.store.records import Ending, Lease, Progress, StoredJob, job_of
from freeroam.store.statements import lock_jobs, now_s
from freeroam.store.tables import jobs, prompts, results
from freeroam.vocabulary.errors import Conflict, LeaseLost, TooManyStreams
from freeroam.vocabulary.job import ACTIVE_STATUSES, JobSpec, JobStatus
from freeroam.vocabulary.prompt import Prompt

ACTIVE = sorted(status.value for status in ACTIVE_STATUSES)


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to be stored.

    Attributes:
        spec: Complete.
        created_at: Epoch seconds.
        followed: The global prompt that it follows; None if ``spec.prompt`` becomes version 1 of its own scope.
        limit: Greatest number of active jobs, this one included.
        lease: The process that will run it.
        limit_of_owner: Greatest number of active jobs of ``spec.owner``, this one included; None is without.
    """

    spec: JobSpec
    created_at: float
    followed: Prompt | None
    limit: int
    lease: Lease
    limit_of_owner: int | None = None


def add_job(connection: Connection, new: NewJob) -> tuple[StoredJob, Prompt | None]:
    """Store a job and its own prompt.

    Returns:
        The job, and the prompt that was made for it (None if it follows the global one).

    Raises:
        Conflict: Its name is taken.
        TooManyStreams: As many jobs as may run do.
    """
    lock_jobs(connection)
    job_id = new.spec.job_id
    if connection.execute(select(jobs.c.id).where(jobs.c.id == job_id)).first():
        raise Conflict(f"Job {job_id} already exists")
    active = connection.execute(select(func.count()).select_from(jobs).where(jobs.c.status.in_(ACTIVE))).scalar_one()
    if active >= new.limit:
        raise TooManyStreams(f"Maximum concurrent streams ({new.limit}) reached", retry_after_s=5.0)
    _check_owner(connection, new)
    own = None
    if new.followed is None and new.spec.prompt is not None:
        # An erased job of the same name left no versions behind, so this is version 1.
        own = add_prompt(connection, new.spec.prompt, job_id, new.created_at)
    asked = own or new.followed
    row = {
        "id": job_id,
        "spec": new.spec.model_dump_json(),
        "status": JobStatus.PENDING.value,
        "created_at": new.created_at,
        "frames_processed": 0,
        "total": 0,
        "next_id": 1,
        "prompt": asked.prompt if asked else None,
        "prompt_version": asked.version if asked else None,
        "progress": "{}",
        "cursor": "{}",
        "epoch": 1,
        "lease_owner": new.lease.owner,
        "lease_until": now_s(connection) + new.lease.duration_s,
    }
    connection.execute(insert(jobs), row)
    stored = find_job(connection, job_id)
    assert stored is not None
    return stored, own


def _check_owner(connection: Connection, new: NewJob) -> None:
    if new.limit_of_owner is None:
        return
    specs = connection.execute(select(jobs.c.spec).where(jobs.c.status.in_(ACTIVE))).scalars()
    active = sum(orjson.loads(spec)["owner"] == new.spec.owner for spec in specs)
    if active >= new.limit_of_owner:
        message = f"Maximum concurrent streams ({new.limit_of_owner}) of the key {new.spec.owner!r} reached"
        raise TooManyStreams(message, retry_after_s=5.0)


def find_job(connection: Connection, job_id: str) -> StoredJob | None:
    """Return the job, or None."""
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).mappings().first()
    return job_of(row) if row else None


def list_jobs(connection: Connection, status: JobStatus | None, limit: int, offset: int) -> tuple[list[StoredJob], int]:
    """Return jobs, newest first, and how many match in all."""
    matching = jobs.c.status == status.value if status else jobs.c.status.is_not(None)
    total = connection.execute(select(func.count()).select_from(jobs).where(matching)).scalar_one()
    page = select(jobs).where(matching).order_by(jobs.c.created_at.desc(), jobs.c.id.desc()).limit(limit).offset(offset)
    return [job_of(row) for row in connection.execute(page).mappings()], total


def count_by_status(connection: Connection) -> dict[str, int]:
    """Return how many jobs are kept, by status."""
    query = select(jobs.c.status, func.count().label("amount")).group_by(jobs.c.status)
    return {row.status: row.amount for row in connection.execute(query)}


def claim_jobs(connection: Connection, lease: Lease, *, everything: bool) -> list[StoredJob]:
    """Take over active jobs and return them; their epoch grows, which fences off an earlier holder.

    Args:
        connection: Inside a transaction.
        lease: Who takes them, and for how long.
        everything: True voids every lease at once: right only for the holder of the lock of an SQLite file. Else
            only jobs whose lease has run out on the database's clock are taken.
    """
    now = now_s(connection)
    free: list[ColumnElement[bool]] = [jobs.c.status.in_(ACTIVE)]
    if not everything:
        free.append(or_(jobs.c.lease_until.is_(None), jobs.c.lease_until < now))
    taken = (
        update(jobs)
        .where(*free)
        .values(epoch=jobs.c.epoch + 1, lease_owner=lease.owner, lease_until=now + lease.duration_s)
        .returning(*jobs.c)
    )
    return [job_of(row) for row in connection.execute(taken).mappings().all()]


def retake_job(connection: Connection, job_id: str, lease: Lease, epoch: int) -> StoredJob | None:
    """Begin a job anew under the next epoch, after its runner failed; None if it is not ours or over."""
    taken = (
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.epoch == epoch, jobs.c.status.in_(ACTIVE))
        .values(epoch=epoch + 1, lease_owner=lease.owner, lease_until=now_s(connection) + lease.duration_s)
        .returning(*jobs.c)
    )
    row = connection.execute(taken).mappings().first()
    return job_of(row) if row else None


def renew_leases(connection: Connection, lease: Lease) -> dict[str, int]:
    """Prolong every lease of ``lease.owner`` and return the epochs of the jobs that it still holds."""
    renewed = (
        update(jobs)
        .where(jobs.c.lease_owner == lease.owner, jobs.c.status.in_(ACTIVE))
        .values(lease_until=now_s(connection) + lease.duration_s)
        .returning(jobs.c.id, jobs.c.epoch)
    )
    return {row.id: row.epoch for row in connection.execute(renewed)}


def release_leases(connection: Connection, owner: str) -> None:
    """Give every lease of ``owner`` up, so that another process need not wait for it to run out."""
    connection.execute(update(jobs).where(jobs.c.lease_owner == owner).values(lease_owner=None, lease_until=None))


def begin_job(connection: Connection, job_id: str, epoch: int, started_at: float) -> None:
    """Note the first frame.

    Raises:
        LeaseLost: The job is not ours any more, or over.
    """
    begun = (
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.epoch == epoch, jobs.c.status.in_(ACTIVE))
        .values(status=JobStatus.RUNNING.value, started_at=func.coalesce(jobs.c.started_at, started_at))
    )
    if connection.execute(begun).rowcount != 1:
        raise LeaseLost(f"job {job_id} is not run by this process any more")


def save_progress(connection: Connection, job_id: str, epoch: int, progress: Progress) -> None:
    """Store progress without a result; a lost lease is no error here."""
    saved = update(jobs).where(jobs.c.id == job_id, jobs.c.epoch == epoch).values(progress=progress.to_json())
    connection.execute(saved)


def end_job(connection: Connection, job_id: str, epoch: int | None, ending: Ending) -> StoredJob | None:
    """End an active job; later writes under its epoch are refused.

    Args:
        connection: Inside a transaction.
        job_id: The job.
        epoch: Only if this lease still holds; None whoever holds it (a user's cancel).
        ending: How it ends.

    Returns:
        The ended job, or None if it was not active or not ours.
    """
    mine = [jobs.c.id == job_id, jobs.c.status.in_(ACTIVE)]
    if epoch is not None:
        mine.append(jobs.c.epoch == epoch)
    values = {
        "status": ending.status.value,
        "completed_at": ending.at,
        "error": ending.error,
        "error_code": ending.error_code,
        "epoch": jobs.c.epoch + 1,
        "lease_owner": None,
        "lease_until": None,
    }
    if ending.progress is not None:
        values["progress"] = ending.progress.to_json()
        values["prompt"] = func.coalesce(ending.progress.prompt, jobs.c.prompt)
        values["prompt_version"] = func.coalesce(ending.progress.prompt_version, jobs.c.prompt_version)
    row = connection.execute(update(jobs).where(*mine).values(values).returning(*jobs.c)).mappings().first()
    return job_of(row) if row else None


def amend_job(
    connection: Connection, spec: JobSpec, own_prompt: str | None, at: float
) -> tuple[StoredJob, Prompt | None]:
    """Store a changed wish, and a new version of the job's own prompt if one is given.

    Raises:
        Conflict: The job is over.
    """
    own = add_prompt(connection, own_prompt, spec.job_id, at) if own_prompt is not None else None
    values: dict[str, object] = {"spec": spec.model_dump_json()}
    if own is not None:
        values |= {"prompt": own.prompt, "prompt_version": own.version}
    changed = update(jobs).where(jobs.c.id == spec.job_id, jobs.c.status.in_(ACTIVE)).values(values).returning(*jobs.c)
    row = connection.execute(changed).mappings().first()
    if row is None:
        raise Conflict(f"Job {spec.job_id} is over and cannot be changed")
    return job_of(row), own


def ended_before(connection: Connection, cutoff: float, limit: int) -> list[str]:
    """Return ids of jobs that ended before ``cutoff`` (epoch seconds)."""
    query = select(jobs.c.id).where(jobs.c.status.not_in(ACTIVE), jobs.c.completed_at < cutoff).limit(limit)
    return list(connection.execute(query).scalars())


def jobs_with_results(connection: Connection) -> list[str]:
    """Return ids of jobs that have results stored."""
    return list(connection.execute(select(jobs.c.id).where(jobs.c.total > 0)).scalars())


def prune_results(connection: Connection, job_id: str, cutoff: float | None, limit: int) -> int:
    """Delete up to ``limit`` of a job's oldest results that are older than ``cutoff`` (None: of any age).

    The total stays true in the same transaction; ids are not used again.
    """
    oldest = select(results.c.id, results.c.created_at).where(results.c.job_id == job_id).order_by(results.c.id)
    rows = connection.execute(oldest.limit(limit)).all()
    last = max((row.id for row in rows if cutoff is None or row.created_at < cutoff), default=None)
    if last is None:
        return 0
    gone = connection.execute(delete(results).where(results.c.job_id == job_id, results.c.id <= last)).rowcount
    remaining = case((jobs.c.total > gone, jobs.c.total - gone), else_=0)
    connection.execute(update(jobs).where(jobs.c.id == job_id).values(total=remaining))
    return gone


def remove_job(connection: Connection, job_id: str) -> bool:
    """Delete a job that is over and has no results left, with its prompts; return whether it was there.

    Between the calls of an erasure another one may have ended, and a new job may have got the name: it stays.
    """
    is_over = jobs.c.status.not_in(ACTIVE)
    if connection.execute(delete(jobs).where(jobs.c.id == job_id, is_over)).rowcount != 1:
        return False
    connection.execute(delete(prompts).where(prompts.c.scope == job_id))
    return True
