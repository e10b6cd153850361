"""Operations that may run again after their commit went through: a lost acknowledgement looks like a failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection

from freeroam.store import job_rows
from freeroam.store.records import StoredJob
from freeroam.store.transactions import Operation

T = TypeVar("T")


def repeatable(operation: Operation[T], stands: Callable[[Connection, T], bool]) -> Operation[T]:
    """Return ``operation``, but one that answers again as it did where what it wrote before stands.

    Without this the second run would find its own work in its way, and tell its caller that it was refused.

    Args:
        operation: What is run.
        stands: Whether what an earlier run answered is in the database, exactly as that run left it. It is asked at a
            second run only.
    """
    before: list[T] = []

    def run(connection: Connection) -> T:
        if before and stands(connection, before[-1]):
            return before[-1]
        before.append(operation(connection))
        return before[-1]

    return run


def job_stands(connection: Connection, answered: StoredJob | None) -> bool:
    """Return whether the job is stored exactly as a run answered it."""
    return answered is not None and job_rows.find_job(connection, answered.job.spec.job_id) == answered
