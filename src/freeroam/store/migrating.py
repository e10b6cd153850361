"""Takes a database to the newest form, at every start and by ``freeroam migrate``."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from freeroam.store.database import is_sqlite, parse_url, sqlite_path
from freeroam.store.locking import FileLock
from freeroam.store.transactions import Transactions, open_transactions
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
    transactions = open_transactions(url)
    try:
        return await migrate_open(transactions)
    finally:
        await transactions.close()
        if lock:
            lock.release()


async def migrate_open(transactions: Transactions) -> str:
    """Migrate a database that is open already, in one transaction, and return its revision."""
    (revision,) = await transactions.write([_upgrade])
    return str(revision)


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
