"""Alembic's scripts: each takes a database from one form to the next."""
