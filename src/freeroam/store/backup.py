"""Copies an SQLite database while it is written, and puts a copy back."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from freeroam.store.database import is_sqlite, parse_url, sqlite_path
from freeroam.store.locking import FileLock
from freeroam.vocabulary.errors import ConfigurationError, InvalidInput, StoreError

PAGES_A_STEP = 1000
"""Pages copied at a time, so that a service that runs beside is never kept waiting for long."""


def back_up(url_text: str, target: Path) -> None:
    """Write one consistent copy of the database to ``target``, which appears only when it is complete.

    Works while the service runs, by SQLite's own online backup.

    Raises:
        ConfigurationError: The database is not SQLite, or there is none yet.
        StoreError: It could not be read or written.
    """
    source = _path(url_text)
    if not source.exists():
        raise ConfigurationError(f"there is no database at {source} yet (DATA_DIR, DATABASE_URL)")
    unfinished = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished.unlink(missing_ok=True)
        os.close(os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with closing(sqlite3.connect(source)) as reading, closing(sqlite3.connect(unfinished)) as writing:
            reading.backup(writing, pages=PAGES_A_STEP)
            writing.execute("PRAGMA journal_mode=DELETE")
        unfinished.replace(target)
    except (OSError, sqlite3.Error) as error:
        unfinished.unlink(missing_ok=True)
        raise StoreError(f"no backup was written to {target}: {error}") from error


def restore(url_text: str, copy: Path) -> Path | None:
    """Put ``copy`` in the place of the database, and return where the one before it was moved, if there was one.

    Raises:
        ConfigurationError: The database is not SQLite, or the service holds it.
        InvalidInput: ``copy`` is not a whole database of Freeroam.
        StoreError: It could not be copied.
    """
    place = _path(url_text)
    _check(copy)
    lock = FileLock(place)
    lock.acquire()
    try:
        arriving = place.with_name(place.name + ".arriving")
        arriving.unlink(missing_ok=True)
        os.close(os.open(arriving, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with closing(_open_to_read(copy)) as reading, closing(sqlite3.connect(arriving)) as writing:
            reading.backup(writing)
        before = _set_aside(place)
        arriving.replace(place)
    except (OSError, sqlite3.Error) as error:
        raise StoreError(f"{copy} was not restored: {error}") from error
    finally:
        lock.release()
    return before


def _path(url_text: str) -> Path:
    url = parse_url(url_text)
    if not is_sqlite(url):
        raise ConfigurationError("backup and restore are for SQLite; use pg_dump and pg_restore for PostgreSQL")
    return sqlite_path(url)


def _open_to_read(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)


def _check(copy: Path) -> None:
    try:
        with closing(_open_to_read(copy)) as reading:
            verdict = reading.execute("PRAGMA quick_check").fetchone()[0]
            tables = {row[0] for row in reading.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        raise InvalidInput(f"{copy} cannot be read as a database: {error}") from error
    if verdict != "ok":
        raise InvalidInput(f"{copy} is damaged: {verdict}")
    if not {"jobs", "results", "alembic_version"} <= tables:
        raise InvalidInput(f"{copy} is not a backup of Freeroam")


def _set_aside(place: Path) -> Path | None:
    """Move the database with what SQLite keeps beside it out of the way; the write-ahead log belongs to it."""
    if not place.exists():
        return None
    with closing(sqlite3.connect(place)) as old:
        old.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        old.execute("PRAGMA journal_mode=DELETE")
    before = place.with_name(place.name + ".before-restore")
    place.replace(before)
    for suffix in ("-wal", "-shm"):
        place.with_name(place.name + suffix).unlink(missing_ok=True)
    return before
