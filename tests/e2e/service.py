"""The real service as a process of its own, for tests that send it real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.servers import free_port

LIMIT_S = 60.0
ROOT = Path(__file__).parents[2]


class Service:
    """One ``freeroam serve`` (or another command) on a loopback port, with its data in ``folder``."""

    def __init__(self, folder: Path, command: tuple[str, ...] = ("-m", "freeroam", "serve"), **settings: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = command
        self._settings = {"MODEL_TYPE": "fake", "DRAIN_TIMEOUT": "20", "RATE_LIMIT_PER_MINUTE": "0", **settings}
        self.client = httpx.Client(base_url=self.url, timeout=30.0)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process and wait until it answers."""
        clean = {
            name: value for name, value in os.environ.items() if name.upper() in {"PATH", "HOME", "TMPDIR", "LANG"}
        }
        environment = {
            **clean,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
            "DATA_DIR": str(self.folder / "data"),
            "PORT": str(self.port),
            "GRPC_PORT": "0",
            **self._settings,
        }
        with (self.folder / "log").open("ab") as log, (self.folder / "out").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, *self._command], cwd=self.folder, env=environment, stdout=out, stderr=log
            )
        self.wait(self.is_answering)

    def is_answering(self) -> bool:
        """Whether /health/live answers; an ended process is an error."""
        assert self.process is not None
        assert self.process.poll() is None, f"the service ended with {self.process.returncode}:\n{self.log()}"
        try:
            return self.client.get("/health/live").status_code == 200
        except httpx.TransportError:
            return False

    def wait_ready(self) -> None:
        """Wait until the model is loaded."""
        self.wait(lambda: self.client.get("/health/ready").status_code == 200)

    def wait_models_ready(self) -> None:
        """Wait until every model is loaded."""
        self.wait(
            lambda: {model["state"] for model in self.client.get("/models").json()["models"].values()} == {"ready"}
        )

    def wait(self, condition: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
        """Return the first true value of ``condition``."""
        end_s = time.monotonic() + limit_s
        while not (value := condition()):
            assert time.monotonic() < end_s, f"not true within {limit_s} s; the log:\n{self.log()[-4000:]}"
            time.sleep(0.05)
        return value

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the main process alone."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait_ended(self, limit_s: float = LIMIT_S) -> int:
        """Wait for the process's end and return its exit code."""
        assert self.process is not None
        return self.process.wait(limit_s)

    def children(self, module: str = "") -> list[psutil.Process]:
        """Child processes whose command line names ``module``."""
        assert self.process is not None
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if module in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    def log(self) -> str:
        """Everything logged so far."""
        return (self.folder / "log").read_text(errors="replace")

    def out(self) -> str:
        """Everything printed so far."""
        return (self.folder / "out").read_text(errors="replace")

    def start_job(self, **wish: Any) -> str:
        """Start a job and return its id."""
        answer = self.client.post("/api/v1/inference/start", json=wish)
        assert answer.status_code == 202, answer.text
        return str(answer.json()["job_id"])

    def total(self, job_id: str) -> int:
        """How many results a job has."""
        answer = self.client.get(f"/api/v1/inference/results/{job_id}", params={"limit": 1})
        assert answer.status_code == 200, answer.text
        return int(answer.json()["total_results"])

    def end(self) -> None:
        """Make sure that nothing of it is left."""
        self.client.close()
        if self.process is not None and self.process.poll() is None:
            children = self.children()
            self.process.kill()
            self.process.wait(10)
            for child in psutil.wait_procs(children, timeout=5)[1]:
                child.kill()


@contextmanager
def running(folder: Path, **settings: str) -> Iterator[Service]:
    """A service that runs while the block does."""
    service = Service(folder, **settings)
    try:
        service.start()
        yield service
    finally:
        service.end()
