"""The lock that makes one main process the owner of an SQLite file; the kernel frees it when the process dies."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from freeroam.vocabulary.errors import ConfigurationError


class FileLock:
    """An exclusive ``flock`` on a file beside the database.

    Args:
        database: The SQLite file; the lock is ``<file>.lock``.
    """

    def __init__(self, database: Path) -> None:
        self.path = database.with_name(database.name + ".lock")
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            ConfigurationError: Another process holds it, or the folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"DATA_DIR: {self.path.parent} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            os.close(descriptor)
            raise ConfigurationError(
                f"another Freeroam process{f' (pid {holder})' if holder else ''} holds {self.path}; "
                "stop it, or set another DATA_DIR, or a PostgreSQL DATABASE_URL for several processes"
            ) from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._descriptor = descriptor

    def release(self) -> None:
        """Give it up; the file stays, because removing it would let two processes lock two files of one name."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
