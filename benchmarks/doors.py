"""What the doors' benchmarks share: servers as processes, the settings that are measured, wrk and the reader."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from benchmarks.service import free_port, tree_cost

ROOT = Path(__file__).resolve().parents[1]
KEY = "a-key-for-the-benchmark-0123456789"
RAISED = {
    "API_KEY": KEY,
    "RATE_LIMIT_PER_MINUTE": "100000000",
    "MAX_CONNECTIONS": "4096",
    "MAX_QUEUE": "4096",
    "MAX_BATCH_SIZE": "64",
    "ENABLE_METRICS": "true",
    "LOG_LEVEL": "INFO",
    "LOG_FORMAT": "json",
    "GRPC_PORT": "0",
}
"""Limits out of the way but in force: every request is still judged, counted and logged."""


class Server:
    """One server process with its children."""

    def __init__(self, name: str, command: list[str], port: int, settings: Mapping[str, str]) -> None:
        self.name = name
        self.port = port
        self.folder = tempfile.TemporaryDirectory(prefix="freeroam-bench-")
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
            "OMP_NUM_THREADS": "1",
            "DATA_DIR": self.folder.name,
            "PORT": str(port),
            **settings,
        }
        with (Path(self.folder.name) / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command], env=environment, stdout=log, stderr=log, cwd=self.folder.name
            )

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def get(self, path: str) -> Any:
        """Ask it for JSON."""
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.loads(response.read())

    def ask(self, path: str, prompt: str) -> bytes:
        """Put one question to it."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            data=json.dumps({"prompt": prompt}).encode(),
            headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            return bytes(response.read())

    def wait(self, path: str, limit_s: float = 120.0) -> None:
        """Wait until it answers a question at ``path``."""
        end_s = time.monotonic() + limit_s
        while True:
            if self.process.poll() is not None or time.monotonic() > end_s:
                raise RuntimeError(f"{self.name} did not come up:\n{self.log()[-3000:]}")
            try:
                self.ask(path, "hello")
                return
            except (OSError, urllib.error.HTTPError):
                time.sleep(0.2)

    def log(self) -> str:
        """What it wrote."""
        return (Path(self.folder.name) / "log").read_text(errors="replace")

    def cpu_s(self) -> float:
        """Seconds of CPU that its processes have used."""
        return tree_cost(self.process.pid).cpu_s

    def rss_bytes(self) -> int:
        """Resident memory of its main process."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def end(self) -> None:
        """End the process and its children."""
        children = psutil.Process(self.process.pid).children(recursive=True) if self.process.poll() is None else []
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for child in psutil.wait_procs(children, timeout=3)[1]:
            child.kill()
        self.folder.cleanup()


@contextmanager
def freeroam(model: str, path: str, **settings: str) -> Iterator[Server]:
    """A `freeroam serve` with a stub of ``benchmarks.stubs`` in a replica process."""
    chosen = {**RAISED, "MODEL_TYPE": f"benchmarks.stubs:{model}", **settings}
    server = Server("freeroam", ["-m", "freeroam", "serve"], free_port(), chosen)
    try:
        server.wait(path)
        while not _is_complete(server):
            time.sleep(0.2)
        yield server
    finally:
        server.end()


def _is_complete(server: Server) -> bool:
    """Whether every replica is ready, so that none of them starts while something is measured."""
    versions = [info for model in server.get("/models")["models"].values() for info in model["versions"].values()]
    return all(info["replicas_ready"] >= info["replicas_wanted"] for info in versions)


@contextmanager
def peer(kind: str, path: str, *options: str) -> Iterator[Server]:
    """A peer: ``benchmarks/peer_<kind>.py``."""
    port = free_port()
    command = [str(ROOT / "benchmarks" / f"peer_{kind}.py"), "--port", str(port), *options]
    server = Server(kind, command, port, {})
    try:
        server.wait(path)
        yield server
    finally:
        server.end()


def load_with_wrk(server: Server, connections: int, seconds: int) -> dict[str, float]:
    """Put questions to ``/infer`` as fast as they are answered; wrk runs in a process of its own.

    Returns:
        ``rate`` (requests/s), ``p50_ms``, ``p99_ms``, ``bad`` (answers that were no 200 or never came), ``client_cpu``
        (cores that wrk used).
    """
    if shutil.which("wrk") is None:
        raise SystemExit("this needs wrk, which the system's packages have: apt-get install wrk, brew install wrk")
    body = json.dumps({"prompt": "what is there to see", "model": ""}).replace('"', '\\"')
    script = (
        'wrk.method = "POST"\n'
        f'wrk.body = "{body}"\n'
        'wrk.headers["Content-Type"] = "application/json"\n'
        f'wrk.headers["Authorization"] = "Bearer {KEY}"\n'
    )
    lua = Path(server.folder.name) / "ask.lua"
    lua.write_text(script)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    told = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(lua), f"{server.url}/infer"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    took = time.monotonic() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    errors = [
        int(number) for line in re.findall(r"(?:Socket errors|Non-2xx).*", told) for number in re.findall(r"\d+", line)
    ]
    return {
        "rate": float(re.search(r"Requests/sec:\s+([\d.]+)", told)[1]),  # type: ignore[index]
        "p50_ms": _milliseconds(told, "50%"),
        "p99_ms": _milliseconds(told, "99%"),
        "bad": float(sum(errors[1:] if "Non-2xx" in told else errors)),
        "client_cpu": round(cpu_s / took, 2),
    }


def _milliseconds(told: str, row: str) -> float:
    found = re.search(rf"^\s+{re.escape(row)}\s+([\d.]+)(us|ms|s)$", told, re.MULTILINE)
    assert found is not None, told
    return round(float(found[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[found[2]], 3)


def read_streams(server: Server, **options: Any) -> dict[str, Any]:
    """Run the reader of streams (``benchmarks/sse_reader.py``) in a process of its own and return what it saw."""
    command = [sys.executable, str(ROOT / "benchmarks" / "sse_reader.py"), "--port", str(server.port), "--key", KEY]
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    if told.returncode:
        raise RuntimeError(f"the reader failed: {told.stderr[-2000:]}\n{server.log()[-2000:]}")
    seen: dict[str, Any] = json.loads(told.stdout)
    return seen


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    """Return the median of the ratios of rounds that ran next to each other."""
    return round(statistics.median(mine / other for mine, other in zip(ours, theirs, strict=True)), 3)


def percentile(values: list[float], share: float) -> float:
    """Return the value below which ``share`` of them lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def middle(rows: list[dict[str, Any]], name: str) -> float:
    """Return the median of one figure over rounds."""
    return float(statistics.median(row[name] for row in rows))


def say_settings(settings: Mapping[str, str]) -> None:
    """Print what was set."""
    shown = {name: "***" if name == "API_KEY" else value for name, value in settings.items()}
    print(f"cores {os.cpu_count()}; " + " ".join(f"{name}={value}" for name, value in shown.items()))
