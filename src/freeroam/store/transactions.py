"""Runs operations in transactions: SQLite on threads of our own, PostgreSQL on the event loop; above, none can tell.

An operation is a plain function over a SQLAlchemy ``Connection``, so both databases run the same code. SQLite's calls
are made in one go on a thread, because a driver that hops to a thread and back for every cursor, statement and fetch
(a dozen times a result) took four times the CPU of the statements themselves.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from sqlalchemy import URL, Connection, Engine, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from freeroam.store.database import READERS, is_sqlite, postgres_engine, sqlite_engine

T = TypeVar("T")
Operation = Callable[[Connection], T]
"""Statements of one transaction. It may run again after a failure, so it must have no effect but on the database, and
be ``repeating.repeatable`` where its answer depends on what it wrote: it may run again after a commit, too."""

_ANY_READ = text("SELECT count(*) FROM sqlite_master")


class Transactions(Protocol):
    """A database that is open. ``write`` and ``drop`` are for one task at a time; ``read`` for any number."""

    async def write(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        """Run all in one transaction and commit it; when one raises, nothing of any of them is kept."""
        ...

    async def read(self, operation: Operation[T]) -> T:
        """Run ``operation``, each statement of which sees what is committed at that moment."""
        ...

    async def warm_up(self) -> None:
        """Open every reading connection, so that a first busy moment opens none: what is held is held from here on."""
        ...

    async def drop(self) -> None:
        """Close the writing connection, after a failure of the database; the next write opens another."""
        ...

    async def close(self) -> None:
        """Close every connection; to be called when nothing runs any more."""
        ...


def open_transactions(url: URL) -> Transactions:
    """Return the transactions of ``url``; connections are made when they are needed."""
    return SqliteTransactions(url) if is_sqlite(url) else PostgresTransactions(url)


class SqliteTransactions:
    """One thread with the writing connection, a few with reading ones.

    Args:
        url: The file.
    """

    def __init__(self, url: URL) -> None:
        self._writing: Engine = sqlite_engine(url, writes=True)
        self._reading: Engine = sqlite_engine(url, writes=False)
        self._writer = ThreadPoolExecutor(1, "store-writer")
        self._readers = ThreadPoolExecutor(READERS, "store-reader")
        self._connection: Connection | None = None

    async def write(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        """Run all in one transaction on the writer's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._write_now, operations)

    async def read(self, operation: Operation[T]) -> T:
        """Run ``operation`` on one of the readers' threads."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read_now, operation)

    async def warm_up(self) -> None:
        """Open every reading connection on one of their threads."""
        await asyncio.get_running_loop().run_in_executor(self._readers, self._warm_up_now)

    async def drop(self) -> None:
        """Close the writing connection on its thread."""
        await asyncio.get_running_loop().run_in_executor(self._writer, self._drop_now)

    async def close(self) -> None:
        """End the threads and close the connections."""
        await self.drop()
        self._writer.shutdown()
        self._readers.shutdown()
        self._reading.dispose()
        self._writing.dispose()

    def _write_now(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        if self._connection is None:
            self._connection = self._writing.connect()
        with self._connection.begin():
            return _run_all(self._connection, operations)

    def _read_now(self, operation: Operation[T]) -> T:
        with self._reading.connect() as connection:
            return operation(connection)

    def _warm_up_now(self) -> None:
        with contextlib.ExitStack() as stack:
            for _ in range(READERS):
                # SQLite opens its files with the first statement that reads.
                stack.enter_context(self._reading.connect()).execute(_ANY_READ)

    def _drop_now(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # it is given up because it is broken, in whatever way
                connection.invalidate()
                connection.close()


class PostgresTransactions:
    """Connections of asyncpg on the event loop.

    Args:
        url: The server and database.
    """

    def __init__(self, url: URL) -> None:
        self._writing: AsyncEngine = postgres_engine(url, writes=True)
        self._reading: AsyncEngine = postgres_engine(url, writes=False)
        self._connection: AsyncConnection | None = None

    async def write(self, operations: Sequence[Operation[Any]]) -> list[Any]:
        """Run all in one transaction."""
        with _driver_errors_as_network_errors():
            if self._connection is None:
                self._connection = await self._writing.connect()
            async with self._connection.begin():
                return await self._connection.run_sync(_run_all, operations)

    async def read(self, operation: Operation[T]) -> T:
        """Run ``operation`` on a connection of the pool."""
        with _driver_errors_as_network_errors():
            async with self._reading.connect() as connection:
                return await connection.run_sync(operation)

    async def warm_up(self) -> None:
        """Open every reading connection."""
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(READERS):
                await stack.enter_async_context(self._reading.connect())

    async def drop(self) -> None:
        """Close the writing connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # it is given up because it is broken, in whatever way
                await connection.invalidate()
                await connection.close()

    async def close(self) -> None:
        """Close the connections."""
        await self.drop()
        await self._reading.dispose()
        await self._writing.dispose()


def _run_all(connection: Connection, operations: Sequence[Operation[Any]]) -> list[Any]:
    return [operation(connection) for operation in operations]


@contextlib.contextmanager
def _driver_errors_as_network_errors() -> Iterator[None]:
    """Tell as a failure of the way to the database what the driver says of a connection that it cannot open.

    SQLAlchemy before 2.1 passes it on as it is, so that a server that starts up or is full would look like a defect.
    """
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] == "asyncpg":
            raise ConnectionError(str(error)) from error
        raise
