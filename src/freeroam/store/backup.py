"""Copies an SQLite database while it is in use, and puts a copy back while it is not."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from freeroam.store.database import is_sqlite, parse_url, sqlite_path
from freeroam.store.locking import FileLock
from freeroam.vocabulary.errors import ConfigurationError

PAGES_A_STEP = 1024
"""Pages copied under one read lock: 4 MiB, after which writers have a turn."""


def back_up(url: str, target: Path) -> None:
    """Write a consistent copy of the database to ``target``, by SQLite's online backup; the service may run.

    Raises:
        ConfigurationError: There is no such database, it is not SQLite's, or ``target`` is there or cannot be written.
    """
    database = _file(url)
    if not database.is_file():
        raise ConfigurationError(f"there is no database at {database}")
    if target.exists():
        raise ConfigurationError(f"{target} is there already; name another file")
    unfinished = target.with_name(target.name + ".part")
    try:
        _copy(database, unfinished)
        unfinished.replace(target)
    except (sqlite3.Error, OSError) as error:
        unfinished.unlink(missing_ok=True)
        raise ConfigurationError(f"{database} could not be copied to {target}: {error}") from error


def restore(url: str, source: Path) -> Path | None:
    """Put the copy at ``source`` in the database's place.

    Returns:
        Where the database that was there before is kept; None if there was none.

    Raises:
        ConfigurationError: The service runs, or ``source`` is not a sound copy of a Freeroam database.
    """
    database = _file(url)
    _check_copy(source)
    lock = FileLock(database)
    lock.acquire()
    try:
        unfinished = database.with_name(database.name + ".restoring")
        unfinished.unlink(missing_ok=True)
        _copy(source, unfinished)
        kept = None
        if database.exists():
            # What is still in the log goes into the file, so that the file alone is the whole database.
            with _connect(database) as connection:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            kept = _free_name(database)
            database.replace(kept)
        for side_file in ("-wal", "-shm"):
            database.with_name(database.name + side_file).unlink(missing_ok=True)
        unfinished.replace(database)
        return kept
    except (sqlite3.Error, OSError) as error:
        raise ConfigurationError(f"{source} could not be restored to {database}: {error}") from error
    finally:
        lock.release()


def _file(url: str) -> Path:
    parsed = parse_url(url)
    if not is_sqlite(parsed):
        raise ConfigurationError("DATABASE_URL is PostgreSQL; copy it with pg_dump and put it back with pg_restore")
    return sqlite_path(parsed)


def _check_copy(source: Path) -> None:
    if not source.is_file():
        raise ConfigurationError(f"there is no file {source}")
    try:
        with _connect(source) as connection:
            (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            connection.execute("SELECT version_num FROM alembic_version").fetchone()
            connection.execute("SELECT count(*) FROM jobs").fetchone()
    except sqlite3.Error as error:
        raise ConfigurationError(f"{source} is not a copy of a Freeroam database: {error}") from error
    if answer != "ok":
        raise ConfigurationError(f"{source} is damaged: {answer}")


def _copy(origin: Path, target: Path) -> None:
    os.close(os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600))
    with _connect(origin) as reader, _connect(target) as writer:
        reader.backup(writer, pages=PAGES_A_STEP, sleep=0.01)
        # A copy is one file: with a log of its own it would lose what stands there when it is moved.
        writer.execute("PRAGMA journal_mode = DELETE")


@contextlib.contextmanager
def _connect(path: Path) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(path, timeout=30.0)
    try:
        yield connection
    finally:
        connection.close()


def _free_name(database: Path) -> Path:
    number = 1
    while (name := database.with_name(f"{database.name}.before-restore-{number}")).exists():
        number += 1
    return name
