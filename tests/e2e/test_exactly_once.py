"""The whole service is killed again and again while it works off a Redis stream: each entry has exactly one result,
and a listener that comes back with the last id it saw gets each exactly once."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers import free_port
from tests.servers_redis import RedisServer, jpeg

ENTRIES = 2000
KILLS = 5
KEY = "frames"


class Service:
    """``python -m freeroam serve`` with its data in a folder, killed and started anew at will."""

    def __init__(self, folder: Path, redis: RedisServer) -> None:
        self.port = free_port()
        self._folder = folder
        self._environment = {
            **os.environ,
            "PORT": str(self.port),
            "DATA_DIR": str(folder / "data"),
            "MODEL_TYPE": "fake",
            "REDIS_URL": redis.url,
            "LOG_FORMAT": "text",
            "RATE_LIMIT_PER_MINUTE": "0",
            "MAX_FPS": "1000",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "log").open("ab") as log:
            command = [sys.executable, "-m", "freeroam", "serve"]
            self._process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log, cwd=self._folder)

    def kill(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Return the answer's JSON; waits while nobody listens on the port."""
        data = None if body is None else json.dumps(body).encode()
        end_s = time.monotonic() + 60.0
        while True:
            assert self._process is not None
            if (status := self._process.poll()) is not None:
                raise AssertionError(f"the service ended with {status}:\n{(self._folder / 'log').read_text()[-3000:]}")
            request = urllib.request.Request(
                f"http://127.0.0.1:{self.port}{path}", data, {"Content-Type": "application/json"}, method=method
            )
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503 or time.monotonic() > end_s:
                    raise AssertionError(f"{method} {path}: {error.code} {error.read()!r}") from error
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if time.monotonic() > end_s:
                    raise
            time.sleep(0.1)


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def fill(redis: RedisServer) -> list[str]:
    picture = jpeg()
    client = redis.client
    with client.pipeline(transaction=False) as pipe:
        for number in range(ENTRIES):
            pipe.xadd(KEY, {"frame": picture, "timestamp": 1_700_000_000 + number * 0.01}, id=f"{1000 + number}-0")
        pipe.xadd(KEY, {"eof": "1"}, id=f"{1000 + ENTRIES}-0")
        return [entry.decode() for entry in pipe.execute()[:-1]]


class Follower(threading.Thread):
    """Follows the job as a browser does: connects again after each break with the last id it saw."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.ids: list[int] = []
        self.connections = 0
        self.is_done = False
        self._port = port
        self._given_up = threading.Event()

    def give_up(self) -> None:
        self._given_up.set()
        self.join(20)

    def run(self) -> None:
        while not self.is_done and not self._given_up.is_set():
            try:
                self._follow()
            except (urllib.error.URLError, http.client.HTTPException, OSError):
                time.sleep(0.1)

    def _follow(self) -> None:
        last = {"Last-Event-ID": str(self.ids[-1])} if self.ids else {}
        request = urllib.request.Request(f"http://127.0.0.1:{self._port}/api/v1/inference/stream/once", headers=last)
        with urllib.request.urlopen(request, timeout=30) as stream:
            self.connections += 1
            for line in stream:
                if line.startswith(b"id: "):
                    self.ids.append(int(line[4:]))
                self.is_done = self.is_done or line == b"event: done\n"


@pytest.mark.timeout(300)
def test_every_entry_has_one_result_though_the_service_is_killed_five_times(tmp_path: Path, redis: RedisServer) -> None:
    entries = fill(redis)
    service = Service(tmp_path, redis)
    service.start()
    wish = {
        "stream_ref": KEY,
        "prompt": "Detect all people",
        "fps": 100,
        "job_id": "once",
        "window": 1,
        "policy": "block",
    }
    follower = Follower(service.port)
    try:
        service.call("POST", "/api/v1/inference/start", wish)
        follower.start()
        for kill in range(KILLS):
            goal = ENTRIES * (kill + 1) // (KILLS + 2)
            wait_for(service, goal)
            service.kill()
            service.start()
        wait_for(service, ENTRIES)
        follower.join(60)
        results = all_results(service)
        status = service.call("GET", "/api/v1/inference/status/once")
    finally:
        follower.give_up()
        service.stop()

    assert [result["id"] for result in results] == list(range(1, ENTRIES + 1))
    assert [entry for result in results for entry in result["metadata"]["frame_ids"]] == entries
    assert [result["error"] for result in results if result["error"]] == []
    assert (follower.ids, follower.is_done) == (list(range(1, ENTRIES + 1)), True)
    assert follower.connections > KILLS
    assert status["status"] == "completed"
    assert (status["results_count"], status["frames_processed"]) == (ENTRIES, ENTRIES)


def wait_for(service: Service, results: int) -> None:
    end_s = time.monotonic() + 120.0
    while (status := service.call("GET", "/api/v1/inference/status/once"))["results_count"] < results:
        assert time.monotonic() < end_s, status
        assert status["status"] in {"pending", "running", "completed"}, status
        time.sleep(0.02)


def all_results(service: Service) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    while True:
        after = results[-1]["id"] if results else 0
        page = service.call("GET", f"/api/v1/inference/results/once?limit=1000&after={after}")["results"]
        if not page:
            return results
        results += page
