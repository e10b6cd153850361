"""What Alembic runs for each command: it works on the connection that ``store/migrating.py`` hands it."""

from __future__ import annotations

from alembic import context

from freeroam.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
