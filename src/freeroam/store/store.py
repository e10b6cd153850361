"""The store: the truth about jobs, results and prompts, from which everything that runs follows."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from freeroam.clock import Clock
from freeroam.observability.logs import get_logger
from freeroam.store import job_rows, prompt_rows, result_rows
from freeroam.store.database import is_sqlite, parse_url, sqlite_path
from freeroam.store.failures import words_of
from freeroam.store.locking import FileLock
from freeroam.store.migrating import migrate_open
from freeroam.store.records import Ending, Lease, Progress, ResultRow, StoredJob
from freeroam.store.repeating import job_stands, repeatable
from freeroam.store.transactions import Operation, Transactions, open_transactions
from freeroam.store.writing import WritingTask
from freeroam.vocabulary.errors import ConfigurationError, StoreError
from freeroam.vocabulary.job import JobSpec, JobStatus
from freeroam.vocabulary.prompt import Prompt

log = get_logger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoreConfig:
    """Where the store is.

    Attributes:
        url: ``sqlite:///path/to/file`` or ``postgresql://...``.
        operation_timeout_s: Longest wait of a caller for a write or a read other than a result's.
    """

    url: str
    operation_timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """How the store is.

    Attributes:
        is_writable: Whether the last commit went through.
        waiting: Operations not committed yet.
        last_error: Why not.
    """

    is_writable: bool
    waiting: int
    last_error: str | None


class Store:
    """One database, opened by one process (SQLite) or several (PostgreSQL).

    Life: construct (no work), ``await open()``, use, ``await close()``. No method holds a connection longer than one
    statement or one transaction, and cancelling a caller never interrupts a statement, so no connection leaks.

    Args:
        config: Where.
        clock: For the pauses when the database fails.
    """

    def __init__(self, config: StoreConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._url = parse_url(config.url)
        self._lock = FileLock(sqlite_path(self._url)) if is_sqlite(self._url) else None
        self._writer: WritingTask | None = None
        self._transactions: Transactions | None = None
        self._reads: set[asyncio.Task[object]] = set()

    @property
    def is_shared(self) -> bool:
        """Whether other processes may use the same database, so that leases must be renewed and may be lost."""
        return self._lock is None

    @property
    def health(self) -> StoreHealth:
        """How the store is now."""
        if self._writer is None:
            return StoreHealth(is_writable=False, waiting=0, last_error="the store is not open")
        error = self._writer.last_error
        return StoreHealth(is_writable=error is None, waiting=self._writer.waiting, last_error=error)

    async def open(self) -> None:
        """Take the lock, migrate, and start to write.

        Raises:
            ConfigurationError: Another process holds the database, or it cannot be opened.
        """
        if self._lock:
            self._lock.acquire()
            _keep_private(sqlite_path(self._url))
        try:
            self._transactions = open_transactions(self._url)
            revision = await migrate_open(self._transactions)
            await self._transactions.warm_up()
        except (DBAPIError, OSError) as error:
            await self.close()
            raise ConfigurationError(f"DATABASE_URL: the database cannot be opened: {words_of(error)}") from error
        except BaseException:
            await self.close()
            raise
        self._writer = WritingTask(self._transactions, self._clock)
        self._writer.start()
        log.info("store_opened", database=self._url.get_backend_name(), revision=revision)

    async def close(self) -> None:
        """Commit what waits, close every connection and give the lock up."""
        if self._writer:
            await self._writer.close(self._config.operation_timeout_s)
        if self._reads:
            await asyncio.wait(self._reads)
        if self._transactions:
            transactions, self._transactions = self._transactions, None
            await transactions.close()
        if self._lock:
            self._lock.release()

    async def check(self) -> None:
        """Return if the database answers and takes writes.

        Raises:
            StoreError: It does not.
        """
        if self.health.last_error:
            raise StoreError(f"the database does not take writes: {self.health.last_error}")
        await self._read(lambda connection: connection.execute(text("SELECT 1")).scalar_one())

    # Jobs

    async def add_job(self, new: job_rows.NewJob) -> tuple[StoredJob, Prompt | None]:
        """Store a job; see ``job_rows.add_job``."""
        operation = repeatable(
            lambda connection: job_rows.add_job(connection, new),
            lambda connection, answered: job_stands(connection, answered[0]),
        )
        return await self._write(operation)

    async def find_job(self, job_id: str) -> StoredJob | None:
        """Return a job, or None."""
        return await self._read(lambda connection: job_rows.find_job(connection, job_id))

    async def list_jobs(self, status: JobStatus | None, limit: int, offset: int) -> tuple[list[StoredJob], int]:
        """Return jobs, newest first, and how many match in all."""
        return await self._read(lambda connection: job_rows.list_jobs(connection, status, limit, offset))

    async def count_by_status(self) -> dict[str, int]:
        """Return how many jobs are kept, by status."""
        return await self._read(job_rows.count_by_status)

    async def claim_jobs(self, lease: Lease, *, everything: bool = False) -> list[StoredJob]:
        """Take over active jobs that nobody runs; see ``job_rows.claim_jobs``."""
        return await self._write(lambda connection: job_rows.claim_jobs(connection, lease, everything=everything))

    async def retake_job(self, job_id: str, lease: Lease, epoch: int) -> StoredJob | None:
        """Begin a job anew under the next epoch."""
        return await self._write(
            repeatable(lambda connection: job_rows.retake_job(connection, job_id, lease, epoch), job_stands)
        )

    async def renew_leases(self, lease: Lease) -> dict[str, int]:
        """Prolong this process's leases and return the epochs of the jobs that it still holds."""
        return await self._write(lambda connection: job_rows.renew_leases(connection, lease))

    async def release_leases(self, owner: str) -> None:
        """Give every lease of ``owner`` up."""
        await self._write(lambda connection: job_rows.release_leases(connection, owner))

    async def begin_job(self, job_id: str, epoch: int, started_at: float) -> None:
        """Note the first frame; raises ``LeaseLost``."""
        await self._write(lambda connection: job_rows.begin_job(connection, job_id, epoch, started_at))

    async def save_progress(self, job_id: str, epoch: int, progress: Progress) -> None:
        """Store progress without a result."""
        await self._write(lambda connection: job_rows.save_progress(connection, job_id, epoch, progress))

    async def end_job(self, job_id: str, epoch: int | None, ending: Ending) -> StoredJob | None:
        """End an active job; None if it was not active, or not under this epoch."""
        return await self._write(
            repeatable(lambda connection: job_rows.end_job(connection, job_id, epoch, ending), job_stands)
        )

    async def amend_job(self, spec: JobSpec, own_prompt: str | None, at: float) -> tuple[StoredJob, Prompt | None]:
        """Store a changed wish; raises ``Conflict`` if the job is over."""
        operation = repeatable(
            lambda connection: job_rows.amend_job(connection, spec, own_prompt, at),
            lambda connection, answered: job_stands(connection, answered[0]),
        )
        return await self._write(operation)

    async def erase_job(self, job_id: str) -> bool:
        """Delete a job that is over with all that belongs to it, in short transactions; return whether it was there."""
        while await self.prune_results(job_id, None):
            pass
        operation = repeatable(
            lambda connection: job_rows.remove_job(connection, job_id),
            lambda connection, was_there: was_there and job_rows.find_job(connection, job_id) is None,
        )
        return await self._write(operation)

    # Results

    def append(self, row: ResultRow) -> asyncio.Future[int]:
        """Queue a result; the future gives its number after the commit, in the order of calls.

        It waits as long as the database fails. Raises through the future ``LeaseLost`` and ``AlreadyStored``.
        """
        operation = repeatable(
            lambda connection: result_rows.append_result(connection, row),
            lambda connection, result_id: result_rows.number_of(connection, row) == result_id,
        )
        return self._submit(operation)

    async def results_after(self, job_id: str, after: int, limit: int) -> list[tuple[int, bytes]]:
        """Return ``(id, JSON)`` of the results that follow ``after``, oldest first."""
        return await self._read(lambda connection: result_rows.results_after(connection, job_id, after, limit))

    async def newest_results(self, job_id: str, limit: int) -> list[tuple[int, bytes]]:
        """Return ``(id, JSON)`` of the newest results, oldest first."""
        return await self._read(lambda connection: result_rows.newest_results(connection, job_id, limit))

    async def prune_results(self, job_id: str, cutoff: float | None, limit: int = 1000) -> int:
        """Delete up to ``limit`` of a job's oldest results older than ``cutoff`` (epoch seconds; None: of any age)."""
        return await self._write(lambda connection: job_rows.prune_results(connection, job_id, cutoff, limit))

    async def jobs_with_results(self) -> list[str]:
        """Return ids of jobs that have results stored."""
        return await self._read(job_rows.jobs_with_results)

    async def ended_before(self, cutoff: float, limit: int = 100) -> list[str]:
        """Return ids of jobs that ended before ``cutoff`` (epoch seconds)."""
        return await self._read(lambda connection: job_rows.ended_before(connection, cutoff, limit))

    # Prompts

    async def update_prompt(self, prompt: str, job_id: str | None, at: float, *, preserve_previous: bool) -> Prompt:
        """Store a scope's next version; raises ``NotFound`` if there is no such job."""
        operation = partial(
            prompt_rows.update_prompt, text=prompt, job_id=job_id, at=at, preserve_previous=preserve_previous
        )
        return await self._write(
            repeatable(operation, lambda connection, added: prompt_rows.own_prompt(connection, job_id) == added)
        )

    async def find_prompt(self, job_id: str | None) -> Prompt | None:
        """Return the newest prompt of the job's scope, else of the global one."""
        return await self._read(lambda connection: prompt_rows.find_prompt(connection, job_id))

    async def own_prompt(self, job_id: str | None) -> Prompt | None:
        """Return the newest prompt of exactly this scope."""
        return await self._read(lambda connection: prompt_rows.own_prompt(connection, job_id))

    async def list_prompts(self, job_id: str | None, limit: int) -> tuple[list[Prompt], int]:
        """Return a scope's prompts, newest first, and how many there are."""
        return await self._read(lambda connection: prompt_rows.list_prompts(connection, job_id, limit))

    # How it is done

    def _submit(self, operation: Operation[T]) -> asyncio.Future[T]:
        if self._writer is None:
            raise StoreError("the store is not open")
        return self._writer.submit(operation)

    async def _write(self, operation: Operation[T]) -> T:
        future = self._submit(operation)
        try:
            # ``asyncio.wait_for`` would lose a cancellation that comes with the answer, before Python 3.12.
            async with asyncio.timeout(self._config.operation_timeout_s):
                # Shielded: a caller that goes away must not take out of the queue what it was told to do.
                return await asyncio.shield(future)
        except TimeoutError as error:
            future.cancel()
            raise StoreError(
                f"the database did not take a write: {self.health.last_error or 'it is too slow'}"
            ) from error

    async def _read(self, operation: Callable[[Connection], T]) -> T:
        task = asyncio.create_task(self._read_now(operation))
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)
        return await asyncio.shield(task)

    async def _read_now(self, operation: Callable[[Connection], T]) -> T:
        if self._transactions is None:
            raise StoreError("the store is not open")
        try:
            return await self._transactions.read(operation)
        except (DBAPIError, PoolTimeout, OSError) as error:
            raise StoreError(f"the database did not answer: {words_of(error)}") from error


def _keep_private(path: os.PathLike[str]) -> None:
    """Make the file readable by its owner alone, because references in it may hold credentials."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
