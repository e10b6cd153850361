"""The measured subject: a real `freeroam serve` process tree on loopback, and what it costs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

OUT = Path(__file__).parent / "out"


def free_port() -> int:
    """Return a loopback TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process tree holds and has used.

    Attributes:
        cpu_s: User and system seconds of all living processes and of children already waited for.
        pss_bytes: Proportional set size summed over the tree.
        own_bytes: The part of it that is no file (heaps, shared frames), so that other programs on the machine, which
            come and go with the same libraries mapped, do not move it.
        descriptors: Open file descriptors summed over the tree.
        processes: How many processes.
    """

    cpu_s: float
    pss_bytes: int
    own_bytes: int
    descriptors: int
    processes: int


def tree_cost(pid: int) -> Cost:
    """Measure the tree below (and with) ``pid``."""
    root = psutil.Process(pid)
    cpu_s, pss, own, descriptors, processes = 0.0, 0, 0, 0, 0
    for process in [root, *root.children(recursive=True)]:
        try:
            times = process.cpu_times()
            cpu_s += times.user + times.system + times.children_user + times.children_system
            memory = memory_bytes(process.pid)
            pss += memory["Pss"]
            own += memory["Pss_Anon"] + memory["Pss_Shmem"]
            descriptors += process.num_fds()
            processes += 1
        except (psutil.NoSuchProcess, FileNotFoundError):
            continue
    return Cost(cpu_s, pss, own, descriptors, processes)


def memory_bytes(pid: int) -> dict[str, int]:
    """Read what the system says of a process's memory, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}


def pss_bytes(pid: int) -> int:
    """Read the proportional set size of one process, in bytes."""
    return memory_bytes(pid)["Pss"]


class Service:
    """`freeroam serve` with its own data folder, started by ``with``."""

    def __init__(self, **settings: str) -> None:
        self.port = free_port()
        self.folder = tempfile.TemporaryDirectory(prefix="freeroam-bench-")
        self.environment = {
            **os.environ,
            "PORT": str(self.port),
            "DATA_DIR": self.folder.name,
            "ALLOW_PRIVATE_SOURCES": "127.0.0.0/8",
            "RATE_LIMIT_PER_MINUTE": "1000000",
            "LOG_LEVEL": "WARNING",
            "GRPC_PORT": str(free_port()),
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Service:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.folder.cleanup()

    @property
    def pid(self) -> int:
        """Process id of the main process."""
        assert self.process is not None
        return self.process.pid

    def start(self, limit_s: float = 120.0) -> None:
        """Start and wait until it says that it is ready."""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "freeroam", "serve"], env=self.environment, stdout=subprocess.DEVNULL
        )
        end_s = time.monotonic() + limit_s
        while time.monotonic() < end_s:
            if self.process.poll() is not None:
                raise RuntimeError(f"the service ended at its start with {self.process.returncode}")
            try:
                if self.call("GET", "/health/ready")["ready"]:
                    return
            except (OSError, urllib.error.HTTPError):
                time.sleep(0.1)
        raise RuntimeError("the service did not become ready")

    def stop(self) -> None:
        """Ask it to stop, insist after 40 s."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call the API with JSON in and out."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer: dict[str, Any] = json.loads(response.read())
            return answer

    def begin(self, stream_ref: str, **wishes: Any) -> str:
        """Start a job and return its id."""
        body = {"stream_ref": stream_ref, "prompt": "Detect everything", **wishes}
        return str(self.call("POST", "/api/v1/inference/start", body)["job_id"])

    def status(self, job_id: str) -> dict[str, Any]:
        """Return a job's status."""
        return self.call("GET", f"/api/v1/inference/status/{job_id}")

    def cost(self) -> Cost:
        """Measure the whole tree now."""
        return tree_cost(self.pid)


def write_json(name: str, figures: dict[str, Any]) -> None:
    """Keep ``figures`` under benchmarks/out."""
    OUT.mkdir(exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
