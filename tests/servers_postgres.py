"""A real PostgreSQL on a Unix socket and loopback, in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.servers import absent, free_port

PLACES = ("/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql*/bin")
"""Where systems keep the programs of PostgreSQL that are not on the path."""


def _program(name: str) -> str:
    if (found := shutil.which(name)) is not None:
        return found
    for place in PLACES:
        for folder in sorted(Path("/").glob(place.lstrip("/")), reverse=True):
            if (folder / name).exists():
                return str(folder / name)
    absent(name, "postgresql")
    raise AssertionError


class PostgresServer:
    """``postgres`` with one database; as root it runs as the user ``postgres``, because it refuses to be root."""

    def __init__(self) -> None:
        self._initdb, self._pg_ctl = _program("initdb"), _program("pg_ctl")
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._user = {}
        if os.geteuid() == 0:
            account = pwd.getpwnam("postgres")
            self._user = {"user": account.pw_uid, "group": account.pw_gid}
            os.chown(self._folder, account.pw_uid, account.pw_gid)
        self.port = free_port()

    @property
    def url(self) -> str:
        """The address of its database."""
        return f"postgresql://freeroam@127.0.0.1:{self.port}/postgres"

    def __enter__(self) -> Self:
        data = str(self._folder / "data")
        self._run([self._initdb, "-D", data, "-U", "freeroam", "-A", "trust", "--no-sync"])
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -k {self._folder} -c fsync=off"
        self._run([self._pg_ctl, "-D", data, "-o", options, "-l", str(self._folder / "log"), "-w", "start"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run([self._pg_ctl, "-D", str(self._folder / "data"), "-m", "immediate", "stop"])
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, command: list[str]) -> None:
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=self._folder, **self._user
        )
