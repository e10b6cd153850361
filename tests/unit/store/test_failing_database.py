"""A database that fails in the words of PostgreSQL's driver, most of whose errors have one class."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from freeroam.clock import SystemClock
from freeroam.store.store import Store, StoreConfig
from freeroam.store.transactions import PostgresTransactions
from freeroam.vocabulary.errors import StoreError
from tests.unit.store.rows import new_job, row
from tests.waiting import until


class ServerError(Exception):
    """As SQLAlchemy's driver of PostgreSQL tells what the server said."""

    def __init__(self, sqlstate: str | None, cause: Exception | None = None) -> None:
        super().__init__(f"the server says {sqlstate}")
        self.sqlstate = sqlstate
        self.__cause__ = cause


def said(sqlstate: str | None, kind: type[DBAPIError] = DBAPIError, cause: Exception | None = None) -> DBAPIError:
    return kind("UPDATE", {}, ServerError(sqlstate, cause))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = Store(StoreConfig(f"sqlite:///{tmp_path}/freeroam.db"), SystemClock())
    await opened.open()
    yield opened
    await opened.close()


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
