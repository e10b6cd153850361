"""A real Redis on loopback, that tests may stop, kill, restart and freeze."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis
from PIL import Image

from tests.servers import free_port, require_server


def jpeg(
    width_px: int = 64, height_px: int = 48, color: tuple[int, int, int] = (200, 30, 30), form: str = "JPEG"
) -> bytes:
    """A plain picture as a file."""
    out = io.BytesIO()
    Image.new("RGB", (width_px, height_px), color).save(out, form)
    return out.getvalue()


class RedisServer:
    """``redis-server`` with its data in a folder of its own, kept over restarts.

    Args:
        password: What clients must log in with.
        is_durable: Whether data survives a restart.
    """

    def __init__(self, password: str | None = None, *, is_durable: bool = True) -> None:
        self._program = require_server("redis-server")
        self._password = password
        self._is_durable = is_durable
        self._folder = tempfile.TemporaryDirectory(prefix="redis-", ignore_cleanup_errors=True)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._folder.cleanup()

    @property
    def url(self) -> str:
        """The address of its database 0."""
        login = f":{self._password}@" if self._password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    @property
    def client(self) -> redis.Redis:
        """A connection for the test itself."""
        return redis.Redis(port=self.port, password=self._password)

    def start(self) -> None:
        """Start and wait until it answers."""
        command = [self._program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self._folder.name]
        command += ["--save", "", "--appendonly", "yes" if self._is_durable else "no", "--appendfsync", "always"]
        if self._password:
            command += ["--requirepass", self._password]
        with Path(self._folder.name, "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        end_s = time.monotonic() + 20.0
        while True:
            try:
                self.client.ping()
                return
            except redis.exceptions.ConnectionError:
                if time.monotonic() > end_s:
                    raise
                time.sleep(0.02)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stop it from answering without closing anything."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def add(self, key: str, entry_id: str = "*", **fields: Any) -> str:
        """Add an entry and return its id."""
        return self.client.xadd(key, fields, id=entry_id).decode()

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)
