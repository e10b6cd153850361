"""Opens the database: addresses, engines, and what each new connection is told."""

from __future__ import annotations

import importlib.util
import sqlite3
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from freeroam.vocabulary.errors import ConfigurationError, MissingExtra

BUSY_TIMEOUT_MS = 5000
READERS = 4
"""Connections that read at once; more would only take turns on the same cores."""

_BEGIN = "BEGIN IMMEDIATE"
_DRIVERS = {"sqlite": "sqlite+pysqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}


def parse_url(text: str) -> URL:
    """Return ``DATABASE_URL`` with the driver that Freeroam uses.

    Raises:
        ConfigurationError: It is not an address of SQLite (in a file) or PostgreSQL.
        MissingExtra: The driver of PostgreSQL is not installed.
    """
    try:
        url = make_url(text)
    except ArgumentError as error:
        raise ConfigurationError(
            "DATABASE_URL is not a database address; write sqlite:///path or postgresql://..."
        ) from error
    driver = _DRIVERS.get(url.drivername.partition("+")[0])
    if driver is None:
        raise ConfigurationError(f"DATABASE_URL: {url.drivername!r} is not supported; use sqlite:/// or postgresql://")
    url = url.set(drivername=driver)
    if is_sqlite(url) and (not url.database or url.database == ":memory:"):
        raise ConfigurationError("DATABASE_URL: SQLite needs a file, as in sqlite:///data/freeroam.db")
    if not is_sqlite(url) and importlib.util.find_spec("asyncpg") is None:
        raise MissingExtra("asyncpg", "postgres")
    return url


def is_sqlite(url: URL) -> bool:
    """Return whether ``url`` names an SQLite file."""
    return url.get_backend_name() == "sqlite"


def sqlite_path(url: URL) -> Path:
    """Return the file of an SQLite ``url``."""
    assert url.database
    return Path(url.database)


def sqlite_engine(url: URL, *, writes: bool) -> Engine:
    """Return an engine on an SQLite file.

    Args:
        url: The file.
        writes: True takes the write lock at the start of each transaction; False holds nothing between statements.
    """
    pool: dict[str, Any] = {"poolclass": NullPool} if writes else {"pool_size": READERS, "pool_reset_on_return": None}
    engine = create_engine(url, **pool)
    event.listen(engine, "connect", _prepare_sqlite)
    if writes:
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def postgres_engine(url: URL, *, writes: bool) -> AsyncEngine:
    """Return an engine on a PostgreSQL server; one that does not write commits each statement by itself."""
    if writes:
        return create_async_engine(url, pool_size=1, max_overflow=1, pool_pre_ping=True)
    return create_async_engine(url, pool_size=READERS, isolation_level="AUTOCOMMIT", pool_pre_ping=True)


def _prepare_sqlite(connection: Any, _: Any) -> None:
    # Without this the driver opens transactions by itself, later than asked (SQLAlchemy documents it for savepoints).
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = NORMAL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA journal_size_limit = 67108864")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    driver = connection.connection.driver_connection
    assert isinstance(driver, sqlite3.Connection)
    try:
        # By the driver, because a statement by way of SQLAlchemy costs as much as storing a result.
        driver.execute(_BEGIN)
    except sqlite3.Error as error:
        raise DBAPIError.instance(_BEGIN, None, error, sqlite3.Error) from error
