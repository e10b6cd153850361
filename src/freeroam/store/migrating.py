"""Takes a database to the newest form, at every start and by ``freeroam migrate``."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from freeroam.store.database import is_sqlite, make_writer, parse_url, sqlite_path
from freeroam.store.locking import FileLock
from freeroam.vocabulary.errors import ConfigurationError

_ADVISORY_KEY = 0x46524545
"""Several processes that start at once on PostgreSQL migrate one after the other."""


async def migrate(url_text: str) -> str:
    """Migrate the database at ``url_text`` and return its revision.

    Raises:
        ConfigurationError: The service runs on this SQLite file, or the database is newer than this program.
    """
    url = parse_url(url_text)
    lock = FileLock(sqlite_path(url)) if is_sqlite(url) else None
    if lock:
        lock.acquire()
    engine = make_writer(url)
    try:
        return await migrate_engine(engine)
    finally:
        await engine.dispose()
        if lock:
            lock.release()


async def migrate_engine(engine: AsyncEngine) -> str:
    """Migrate through an engine that is open already and return the revision."""
    async with engine.begin() as connection:
        return await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> str:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_KEY})
    config = Config()
    config.set_main_option("script_location", "freeroam.store:migrations")
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head()
    assert head
    present = MigrationContext.configure(connection).get_current_revision()
    if present == head:
        return head
    if present is not None and present not in {script.revision for script in scripts.walk_revisions()}:
        raise ConfigurationError(f"DATABASE_URL: the database has form {present}, which is newer than this Freeroam")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
    return head
