"""What the two databases say differently."""

from __future__ import annotations

from functools import cache
from typing import Any

from sqlalchemy import Connection, Insert, Table, text
from sqlalchemy.dialects import postgresql, sqlite


def insert_unless_there(connection: Connection, table: Table, values: dict[str, Any], unique: tuple[str, ...]) -> bool:
    """Insert a row and return True, or False if one with the same ``unique`` columns is there."""
    statement = _insert_unless_there(connection.dialect.name, table, unique)
    return connection.execute(statement, values).rowcount == 1


@cache
def _insert_unless_there(dialect: str, table: Table, unique: tuple[str, ...]) -> Insert:
    """Return the statement, built once: to build one takes longer than to run it."""
    if dialect == "postgresql":
        return postgresql.insert(table).on_conflict_do_nothing(index_elements=unique)
    return sqlite.insert(table).on_conflict_do_nothing(index_elements=unique)


def now_s(connection: Connection) -> float:
    """Return the database's own epoch seconds, the only clock that several processes share."""
    if connection.dialect.name == "postgresql":
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    return float(connection.execute(text("SELECT (julianday('now') - 2440587.5) * 86400.0")).scalar_one())


def lock_jobs(connection: Connection) -> None:
    """Let one transaction at a time admit jobs, so that a limit counted in it holds; SQLite does so by itself."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(1179796293)"))
