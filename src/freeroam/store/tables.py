"""The tables, as SQLAlchemy sees them; migrations make them."""

from __future__ import annotations

import re

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
"""Constraints have names, so that a batch migration can find them on SQLite."""

metadata = MetaData(naming_convention=NAMES)


class Name(TypeDecorator[str]):
    """A job's name; one that no database can hold (callers may ask for any) is looked for as one that no job has."""

    impl = String(128)
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Return ``value``, or the replacement character if it holds a NUL or half of a surrogate pair."""
        if value is None or not _UNSTORABLE.search(value):
            return value
        return "\ufffd"


jobs = Table(
    "jobs",
    metadata,
    Column("id", Name, primary_key=True),
    Column("spec", Text, nullable=False),
    Column("status", String(16), nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("started_at", Float(53)),
    Column("completed_at", Float(53)),
    Column("frames_processed", BigInteger, nullable=False, default=0),
    # The total stands here because counting a million rows takes 80 ms, and the next id because retention deletes rows.
    Column("total", BigInteger, nullable=False, default=0),
    Column("next_id", BigInteger, nullable=False, default=1),
    Column("error", Text),
    Column("error_code", String(64)),
    Column("prompt", Text),
    Column("prompt_version", Integer),
    Column("progress", Text, nullable=False, default="{}"),
    Column("cursor", Text, nullable=False, default="{}"),
    # Whoever holds the lease runs the job; a greater epoch fences off an earlier holder.
    Column("epoch", BigInteger, nullable=False, default=1),
    Column("lease_owner", String(128)),
    Column("lease_until", Float(53)),
    Index(None, "status", "created_at"),
    Index(None, "created_at"),
)

results = Table(
    "results",
    metadata,
    Column("job_id", Name, ForeignKey("jobs.id"), primary_key=True),
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("entry_key", String(256), nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("job_id", "entry_key"),
)

prompts = Table(
    "prompts",
    metadata,
    Column("scope", Name, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("prompt", Text, nullable=False),
    Column("created_at", Float(53), nullable=False),
    Column("scope_created_at", Float(53), nullable=False),
)
