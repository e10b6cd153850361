"""A database that fails in the words of PostgreSQL's driver, most of whose errors have one class."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from freeroam.clock import SystemClock
from freeroam.results.hub import ResultHub
from freeroam.results.writer import ResultWriter
from freeroam.store import database
from freeroam.store.job_rows import end_job
from freeroam.store.records import Ending
from freeroam.store.store import Store
from freeroam.store.transactions import PostgresTransactions
from freeroam.vocabulary.errors import StoreError
from freeroam.vocabulary.job import JobStatus
from tests.stores import opened_store
from tests.unit.store.rows import LEASE, new_job, row
from tests.waiting import until


class ServerError(Exception):
    """As SQLAlchemy's driver of PostgreSQL tells what the server said."""

    def __init__(self, sqlstate: str | None, cause: Exception | None = None) -> None:
        super().__init__(f"the server says {sqlstate}")
        self.sqlstate = sqlstate
        self.__cause__ = cause


def said(sqlstate: str | None, kind: type[DBAPIError] = DBAPIError, cause: Exception | None = None) -> DBAPIError:
    return kind("UPDATE", {}, ServerError(sqlstate, cause))


def failing(errors: list[Exception]) -> Callable[[Connection], str]:
    """Return an operation that raises each of ``errors`` once, and then is done."""

    def operation(_: Connection) -> str:
        if errors:
            raise errors.pop(0)
        return "done"

    return operation


PASSING = [
    pytest.param(said("57P01"), id="the server shuts down"),
    pytest.param(said("57P03"), id="the server starts up"),
    pytest.param(said("53300"), id="too many connections"),
    pytest.param(said("53100"), id="disk full"),
    pytest.param(said("40P01"), id="deadlock"),
    pytest.param(said("08003"), id="connection gone"),
    pytest.param(said(None, InterfaceError), id="connection closed"),
    pytest.param(PoolTimeout(), id="no connection free"),
    pytest.param(ConnectionResetError("reset"), id="connection reset"),
]


@pytest.mark.parametrize("is_grouped", [False, True])
@pytest.mark.parametrize("error", PASSING)
async def test_a_write_waits_while_the_server_cannot_take_it(store: Store, error: Exception, is_grouped: bool) -> None:
    errors = [error, error]
    writes = [store._submit(failing(errors))]
    if is_grouped:
        writes.append(store._submit(lambda _: "other"))

    assert await asyncio.gather(*writes) == ["done", "other"][: len(writes)]
    assert errors == []
    assert store.health.is_writable


async def test_a_write_waits_while_another_program_holds_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a store whose connections do not wait for a lock themselves
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 0)
    async with opened_store(tmp_path, SystemClock()) as store:
        with contextlib.closing(sqlite3.connect(tmp_path / "freeroam.db", isolation_level=None)) as other:
            # When another program has begun to write
            other.execute("BEGIN IMMEDIATE")
            write = asyncio.ensure_future(store._submit(lambda _: "done"))
            await until(lambda: not store.health.is_writable)

            # Then the store says so, and goes on when that one has ended
            assert "locked" in (store.health.last_error or "")
            other.execute("ROLLBACK")
            assert await write == "done"
            assert store.health.is_writable


REFUSALS = [
    pytest.param(said("22021"), id="a value that it cannot take"),
    pytest.param(said("42501"), id="a right that is missing"),
    pytest.param(said(None, IntegrityError), id="integrity"),
    pytest.param(said(None, DataError), id="data"),
    pytest.param(said(None, ProgrammingError), id="statement"),
    pytest.param(said(None, InterfaceError, ValueError("not a str")), id="a value that the driver cannot send"),
]


@pytest.mark.parametrize("is_grouped", [False, True])
@pytest.mark.parametrize("error", REFUSALS)
async def test_what_the_server_refuses_fails_alone_and_at_once(
    store: Store, error: DBAPIError, is_grouped: bool
) -> None:
    await store.add_job(new_job("a"))
    refused = store._submit(failing([error] * 10))
    others = [store.append(row("a", "1"))] if is_grouped else []

    with pytest.raises(StoreError, match=f"refused a write: {error.orig}"):
        await refused
    assert [await other for other in others] == [1] * len(others)
    assert store.health.is_writable


@pytest.mark.parametrize("is_grouped", [False, True])
async def test_a_defect_of_ours_fails_alone_and_the_writer_goes_on(store: Store, is_grouped: bool) -> None:
    await store.add_job(new_job("a"))
    broken = store._submit(failing([TypeError("defect")] * 10))
    others = [store.append(row("a", "1"))] if is_grouped else []

    with pytest.raises(TypeError, match="defect"):
        await broken
    assert [await other for other in others] == [1] * len(others)
    assert await store.append(row("a", "2")) == len(others) + 1


async def test_a_connection_that_cannot_even_be_closed_does_not_end_the_writer(store: Store) -> None:
    await store.add_job(new_job("a"))

    class Unclosable:
        def begin(self) -> Any:
            raise said("57P01")

        def invalidate(self) -> None:
            raise RuntimeError("broken")

    store._transactions._connection = Unclosable()

    assert await store.append(row("a", "1")) == 1


async def test_what_the_driver_says_of_a_connection_that_cannot_be_opened_is_a_failure_of_the_way() -> None:
    # Given an SQLAlchemy that passes the driver's own errors on
    class CannotConnectNowError(Exception):
        pass

    CannotConnectNowError.__module__ = "asyncpg.exceptions"

    class StartingUp:
        def connect(self) -> Any:
            raise CannotConnectNowError("the database system is starting up")

    transactions = PostgresTransactions.__new__(PostgresTransactions)
    transactions._writing = transactions._reading = StartingUp()
    transactions._connection = None

    # Then both ways to the database tell it in words that are tried again
    with pytest.raises(OSError, match="starting up"):
        await transactions.write([])
    with pytest.raises(OSError, match="starting up"):
        await transactions.read(lambda _: None)


async def test_the_health_tells_what_the_server_said(store: Store) -> None:
    errors: list[Exception] = [said("53100")] * 1000
    write = store._submit(failing(errors))
    await until(lambda: not store.health.is_writable)

    assert store.health.last_error == "the server says 53100"
    errors.clear()
    assert await write == "done"


def lose_acknowledgements(store: Store, monkeypatch: pytest.MonkeyPatch, count: int) -> list[Exception]:
    """Let the next commits go through and yet look like failures; return the failures to come."""
    working, failures = store._transactions.write, [said("08006") for _ in range(count)]

    async def write(operations: Any) -> list[Any]:
        answers = await working(operations)
        if failures:
            raise failures.pop()
        return answers

    monkeypatch.setattr(store._transactions, "write", write)
    return failures


@pytest.mark.parametrize("lost", [1, 2])
async def test_results_whose_acknowledgement_is_lost_have_their_numbers_and_are_told(
    store: Store, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    await store.add_job(new_job("a"))
    hub = ResultHub(store)
    writer = ResultWriter(store, hub)
    listener = hub.listener()
    await listener.add("a")

    failures = lose_acknowledgements(store, monkeypatch, lost)
    numbers = await asyncio.gather(*(writer.write(row("a", key)) for key in ("1", "2", "2", "3")))

    assert failures == []
    assert numbers == [1, 2, None, 3]
    assert [(await anext(listener)).id for _ in range(3)] == [1, 2, 3]


async def test_every_change_whose_acknowledgement_is_lost_is_made_once_and_answered(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lose_one() -> None:
        monkeypatch.undo()
        lose_acknowledgements(store, monkeypatch, 1)

    lose_one()
    added, prompt = await store.add_job(new_job("a"))
    assert (added, added.epoch, prompt.version) == (await store.find_job("a"), 1, 1)
    lose_one()
    assert (await store.retake_job("a", LEASE, 1)).epoch == 2
    lose_one()
    assert (await store.update_prompt("y", "a", 2.0, preserve_previous=True)).version == 2
    lose_one()
    amended, prompt = await store.amend_job(added.job.spec, "z", 3.0)
    assert (amended, prompt.version) == (await store.find_job("a"), 3)
    lose_one()
    ended = await store.end_job("a", 2, Ending(JobStatus.COMPLETED, 4.0))
    assert (ended, ended.epoch) == (await store.find_job("a"), 3)
    monkeypatch.undo()
    assert await store.end_job("a", None, Ending(JobStatus.COMPLETED, 4.0)) is None
    lose_one()
    assert await store.erase_job("a")


async def test_an_end_that_another_process_came_before_is_not_taken_for_ones_own(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given an attempt that did not go through, after which somebody else ended the job
    await store.add_job(new_job("a"))
    working, attempts = store._transactions.write, []

    async def write(operations: Any) -> list[Any]:
        attempts.append(operations)
        if len(attempts) > 1:
            return await working(operations)
        with contextlib.suppress(ZeroDivisionError):
            await working([*operations, lambda _: 1 / 0])
        await working([lambda connection: end_job(connection, "a", None, Ending(JobStatus.CANCELLED, 3.0))])
        raise said("08006")

    monkeypatch.setattr(store._transactions, "write", write)

    assert await store.end_job("a", 1, Ending(JobStatus.COMPLETED, 4.0)) is None
    assert len(attempts) == 2
