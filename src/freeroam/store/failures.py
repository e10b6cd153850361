"""What a failure of the database means: that it takes nothing now, or that it will never take this one write."""

from __future__ import annotations

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

REFUSED_CLASSES = frozenset({"22", "23", "42"})
"""Classes of SQLSTATE codes that tell of the statement or its values, not of the server (PostgreSQL, appendix A)."""


def may_pass(error: Exception) -> bool:
    """Return whether the same write may succeed later, on another connection.

    The driver of PostgreSQL has one class for most of what a server says (that it shuts down, has a full disk, saw a
    deadlock, or cannot take a value), so that its code decides.
    """
    if isinstance(error, OSError | PoolTimeout):
        return True
    if not isinstance(error, DBAPIError) or isinstance(error, IntegrityError | DataError | ProgrammingError):
        return False
    code = getattr(error.orig, "sqlstate", None) or ""
    # A value that the driver cannot send is an error of its interface, as a lost connection is, but also a ValueError.
    is_of_value = error.orig is not None and isinstance(error.orig.__cause__, ValueError)
    return code[:2] not in REFUSED_CLASSES and not is_of_value


def is_of_database(error: Exception) -> bool:
    """Return whether the database, or the way to it, failed; False is a defect or an answer of our own."""
    return isinstance(error, SQLAlchemyError | OSError)


def words_of(error: Exception) -> str:
    """Say what the driver said, without the statement and its values."""
    return str(getattr(error, "orig", None) or error)
