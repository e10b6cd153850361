"""Statements about results; the page of a job is found by the index of its number, however many there are."""

from __future__ import annotations

import orjson
from sqlalchemy import Connection, bindparam, func, select, update

from freeroam.store.job_rows import ACTIVE
from freeroam.store.records import ResultRow, with_id
from freeroam.store.statements import insert_unless_there
from freeroam.store.tables import jobs, results
from freeroam.vocabulary.errors import Conflict, LeaseLost
from freeroam.vocabulary.job import JobStatus

_COUNT = (
    update(jobs)
    .where(jobs.c.id == bindparam("of_job"), jobs.c.epoch == bindparam("of_epoch"), jobs.c.status.in_(ACTIVE))
    .values(
        next_id=jobs.c.next_id + 1,
        total=jobs.c.total + 1,
        frames_processed=jobs.c.frames_processed + bindparam("frames"),
        status=JobStatus.RUNNING.value,
        started_at=func.coalesce(jobs.c.started_at, bindparam("at")),
        cursor=bindparam("new_cursor"),
        progress=bindparam("new_progress"),
        prompt=bindparam("new_prompt"),
        prompt_version=bindparam("new_prompt_version"),
    )
    .returning(jobs.c.next_id)
)
"""Takes a number and moves the cursor; built once, because building a statement takes longer than running it."""


class AlreadyStored(Conflict):
    """This entry of the source has its result; nothing was changed."""

    default_code = "already_stored"


def append_result(connection: Connection, row: ResultRow) -> int:
    """Store a result with the cursor and the progress that belong to it, and return its number.

    Raises:
        LeaseLost: Another process runs the job now, or it is over.
        AlreadyStored: The entry was answered before. The caller's transaction must be rolled back, so that the
            number taken here is free again and the numbers have no gap.
    """
    counted = {
        "of_job": row.job_id,
        "of_epoch": row.epoch,
        "frames": row.frames,
        "at": row.created_at,
        "new_cursor": orjson.dumps(row.cursor).decode(),
        "new_progress": row.progress.to_json(),
        "new_prompt": row.progress.prompt,
        "new_prompt_version": row.progress.prompt_version,
    }
    following = connection.execute(_COUNT, counted).scalar_one_or_none()
    if following is None:
        raise LeaseLost(f"job {row.job_id} is not run by this process any more")
    result_id = int(following) - 1
    values = {
        "job_id": row.job_id,
        "id": result_id,
        "entry_key": row.entry_key,
        "created_at": row.created_at,
        "body": row.body,
    }
    if not insert_unless_there(connection, results, values, ("job_id", "entry_key")):
        raise AlreadyStored(f"entry {row.entry_key} of job {row.job_id} has its result")
    return result_id


def number_of(connection: Connection, row: ResultRow) -> int | None:
    """Return the number of the result that answers the row's entry; None if there is none."""
    query = select(results.c.id).where(results.c.job_id == row.job_id, results.c.entry_key == row.entry_key)
    found = connection.execute(query).scalar_one_or_none()
    return None if found is None else int(found)


def results_after(connection: Connection, job_id: str, after: int, limit: int) -> list[tuple[int, bytes]]:
    """Return ``(id, JSON)`` of the results that follow ``after``, oldest first."""
    query = (
        select(results.c.id, results.c.body)
        .where(results.c.job_id == job_id, results.c.id > after)
        .order_by(results.c.id)
        .limit(limit)
    )
    return [(row.id, with_id(row.id, row.body)) for row in connection.execute(query)]


def newest_results(connection: Connection, job_id: str, limit: int) -> list[tuple[int, bytes]]:
    """Return ``(id, JSON)`` of the newest results, oldest first."""
    query = (
        select(results.c.id, results.c.body)
        .where(results.c.job_id == job_id)
        .order_by(results.c.id.desc())
        .limit(limit)
    )
    rows = connection.execute(query).all()
    return [(row.id, with_id(row.id, row.body)) for row in reversed(rows)]
