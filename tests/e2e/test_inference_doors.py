"""The doors of a real server process: the quick start as it stands, clients that vanish, readers that stall, a stop."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.service import ROOT, Service, running
from tests.servers import free_port

QUICK_START = """
from realtime_serve import InferenceServer, ModelConfig

# Create and configure server
server = InferenceServer(
    max_connections=256,
    request_timeout=30.0,
    max_batch_size=32,
    max_batch_wait_ms=50
)

# Register a model
model_config = ModelConfig(
    name="gpt2",
    version="1.0.0",
    model_path="/path/to/model",
    device="cuda"
)
server.register_model(model_config)

# Start the server
import asyncio
asyncio.run(server.start(host="0.0.0.0", port=8000))
"""
"""What people have in their programs; only the package's name changes, and the port, which this machine may use."""


FLOOD_TOKENS = 2_000_000
"""More text than the system itself keeps for a connection, however many tokens are merged."""

PATIENT = {"name": "patient", "model_type": "fake", "options": {"tokens": 100_000, "token_latency_ms": 200}}
"""A model whose answers outlast every test, however slow the machine is."""


def run_program(script: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of one's own to its end, with the data beside it."""
    return subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "DATA_DIR": str(script.parent / "data")},
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )


def models_file(folder: Path, **options: Any) -> str:
    """Write a file with a model ``gpt2`` that speaks as told, a ``flood`` of words and ``patient``; return its path."""
    path = folder / "models.json"
    flood = {"name": "flood", "model_type": "fake", "options": {"tokens": FLOOD_TOKENS}}
    gpt2 = {"name": "gpt2", "model_type": "fake", "options": options}
    path.write_text(json.dumps({"models": [gpt2, flood, PATIENT]}))
    return str(path)


class Script(Service):
    """A program of a user's own instead of ``freeroam serve``."""

    def __init__(self, folder: Path, *command: str) -> None:
        super().__init__(folder, command=command, GRPC_PORT="0")


def test_the_quick_start_runs_with_only_the_packages_name_changed(tmp_path: Path) -> None:
    # Given the quick start as it is written everywhere, a plain script without a guard
    port = free_port()
    script = tmp_path / "quick_start.py"
    script.write_text(QUICK_START.replace("realtime_serve", "freeroam").replace("port=8000", f"port={port}"))
    server = Script(tmp_path, str(script))
    server.port, server.url = port, f"http://127.0.0.1:{port}"
    server.client = httpx.Client(base_url=server.url, timeout=30.0)
    try:
        # When it is run, then it serves, although there is no such path and maybe no such device here
        server.start()
        state = server.wait(lambda: _settled(server))

        # And the model says what is wrong with it, at every door
        assert state == "failed"
        info = server.client.get("/models").json()["models"]["gpt2"]["versions"]["1.0.0"]
        assert "/path/to/model" in info["error"] or "cuda" in info["error"], info["error"]
        answer = server.client.post("/infer", json={"model": "gpt2", "prompt": "Once upon a time"})
        assert answer.status_code == 503
        assert server.client.get("/health").json()["status"] == "degraded"

        # And a signal ends it well
        server.signal(signal.SIGTERM)
        assert server.wait_ended() == 0
        assert f"listens on http://127.0.0.1:{port}" in server.out()
    finally:
        server.end()


def _settled(server: Service) -> str | None:
    state = str(server.client.get("/models").json()["models"]["gpt2"]["state"])
    return state if state in {"failed", "ready"} else None


def test_the_example_server_answers_as_its_docstring_says(tmp_path: Path) -> None:
    # Given the example, started as its docstring says
    port = free_port()
    server = Script(tmp_path, str(ROOT / "examples" / "serve_model.py"), "--port", str(port))
    server.port, server.url = port, f"http://127.0.0.1:{port}"
    server.client = httpx.Client(base_url=server.url, timeout=30.0)
    try:
        server.start()
        server.wait_ready()

        # When it is asked by curl, as the docstring says
        commands = re.findall(r"curl .*?'\{.*?\}'", (ROOT / "examples" / "serve_model.py").read_text(), re.DOTALL)
        assert len(commands) == 2
        told = [
            subprocess.run(
                ["bash", "-c", command.replace("8000", str(port)).replace("\\\n", " ")],
                capture_output=True, text=True, check=True, timeout=30,
            ).stdout
            for command in commands
        ]  # fmt: skip

        # Then both doors answer with the same fifty tokens
        whole = json.loads(told[0])
        assert len(whole["tokens"]) == 50
        pieces = [json.loads(line[6:]) for line in told[1].splitlines() if line.startswith("data: ")]
        assert "".join(piece["token"] for piece in pieces[:-1]) == whole["text"]
        assert pieces[-1]["finish_reason"] == "length"
    finally:
        server.end()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server with a model that speaks 200 words, 5 ms each, eight answers at once."""
    folder: Path = tmp_path_factory.mktemp("doors")
    models = models_file(folder, tokens=200, token_latency_ms=5, max_batch=8)
    limits = {"STREAM_IDLE_TIMEOUT": "1", "GRPC_PORT": "0", "MAX_CONNECTIONS": "200", "MAX_TOKENS": str(FLOOD_TOKENS)}
    with running(folder, MODELS=models, **limits) as service:
        service.wait_models_ready()
        yield service


def ask(service: Service, path: str, *, receive_bytes: int | None = None, **body: Any) -> socket.socket:
    """Put a question on a socket of its own and return that."""
    connection = socket.socket()
    if receive_bytes is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.connect(("127.0.0.1", service.port))
    text = json.dumps({"model": "gpt2", "prompt": "a story", **body})
    connection.sendall(
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(text)}\r\n\r\n{text}".encode()
    )
    return connection


def held(service: Service) -> dict[str, int]:
    """Return what the server holds of calls now."""
    status = service.client.get("/status").json()
    models = service.client.get("/models").json()["models"]
    running_now = sum(info["running"] for model in models.values() for info in model["versions"].values())
    return {
        "calls": status["calls"],
        "streams": status["streams"],
        "queued": sum(status["queues"].values()),
        "running": running_now,
    }


def is_empty(service: Service) -> bool:
    return not any(held(service).values())


@pytest.mark.parametrize("path", ["/infer", "/infer_stream"])
def test_clients_that_vanish_leave_nothing_and_hurt_nobody(service: Service, path: str) -> None:
    # Given somebody who reads on, and a crowd that fills the model and its queue
    neighbour = _Neighbour(service)
    neighbour.start()
    crowd = [ask(service, path) for _ in range(60)]
    service.wait(lambda: held(service)["calls"] >= 60 and held(service)["queued"] >= 20)

    # When the crowd closes its sockets, one after another in no order
    random.Random(7).shuffle(crowd)
    for connection in crowd:
        connection.close()

    # Then the places in queue, batch and model are free as soon as the model has made a step or two, not when it would
    # have been done with them
    service.wait(lambda: held(service)["calls"] <= 1 and held(service)["queued"] == 0)
    neighbour.join(60)
    service.wait(lambda: is_empty(service))

    # And the one who stayed has every token
    assert neighbour.tokens == [f"word{index} " for index in range(200)]
    assert '"level":"error"' not in service.log()


class _Neighbour(threading.Thread):
    """Reads one whole stream, as a well-behaved client."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self._service = service
        self.tokens: list[str] = []

    def run(self) -> None:
        body = {"model": "gpt2", "prompt": "a story", "priority": "HIGH"}
        with httpx.stream("POST", f"{self._service.url}/infer_stream", json=body, timeout=60) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: ") and '"token"' in line:
                    self.tokens += json.loads(line[6:])["token"].replace(" ", " \0").split("\0")[:-1]


def dropped(service: Service) -> float:
    lines = service.client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("freeroam_slow_client_total{"))


def test_a_reader_that_drains_nothing_is_dropped_and_counted(service: Service) -> None:
    # Given a reader who asks for far more than its connection holds, and takes nothing of it
    service.wait(lambda: is_empty(service))
    before = dropped(service)
    stalled = ask(service, "/infer_stream", receive_bytes=2048, model="flood")
    service.wait(lambda: held(service)["streams"] == 1)

    # When the time that a reader may drain nothing is over, then it is cut, and counted
    service.wait(lambda: is_empty(service))
    assert dropped(service) == before + 1
    # And what it has got does not pass for a complete answer
    assert not _read_to_the_end(stalled).endswith("0\r\n\r\n")
    stalled.close()


def test_more_connections_than_allowed_are_refused_and_probes_are_not(service: Service) -> None:
    # Given as many streams as there may be connections, and none that ends by itself
    crowd = [ask(service, "/infer_stream", model="patient") for _ in range(200)]
    try:
        # One more each time, since a connection of a test before this one may have taken a place for a moment.
        service.wait(lambda: _refused(service) or crowd.append(ask(service, "/infer_stream", model="patient")))

        # Then the next caller has an honest answer at once, and the probes theirs
        answer = service.client.post("/infer", json={"model": "gpt2", "prompt": "x"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert service.client.get("/health/live").status_code == 200
    finally:
        for connection in crowd:
            connection.close()
    service.wait(lambda: service.client.get("/status").status_code == 200 and is_empty(service))


def _refused(service: Service) -> bool:
    return service.client.get("/status").status_code == 503


def test_a_deadline_of_the_callers_own_is_a_504(service: Service) -> None:
    answer = service.client.post(
        "/infer", json={"model": "gpt2", "prompt": "x"}, headers={"X-Request-Timeout-Ms": "150"}
    )

    assert answer.status_code == 504
    service.wait(lambda: is_empty(service))


def test_one_line_is_logged_a_call_with_its_id(service: Service) -> None:
    service.client.post(
        "/infer_stream", json={"model": "gpt2", "prompt": "x", "max_tokens": 2}, headers={"X-Request-ID": "find-me-1"}
    )

    lines = service.wait(lambda: [line for line in service.log().splitlines() if "find-me-1" in line])
    assert len(lines) == 1
    line = json.loads(lines[0])
    assert (line["event"], line["path"], line["status"]) == ("request", "/infer_stream", 200)
    assert (line["model"], line["tokens"], line["ended"], line["priority"]) == ("gpt2@1", 2, "length", "NORMAL")


LOADS_FOR_EVER = {"name": "slow", "model_type": "fake", "options": {"load_ms": 3_600_000}}
BODIES = {
    "/infer": {"model": "slow", "prompt": "a story"},
    "/infer_stream": {"model": "slow", "prompt": "a story"},
    "/v1/completions": {"model": "slow", "prompt": "a story"},
    "/v1/chat/completions": {"model": "slow", "messages": [{"role": "user", "content": "a story"}]},
    "/v2/models/slow/generate": {"text_input": "a story"},
}
"""One question a door."""


def test_whoever_asks_a_model_that_is_still_loading_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "models.json").write_text(json.dumps({"models": [LOADS_FOR_EVER]}))
    with running(tmp_path, MODELS=str(tmp_path / "models.json"), REQUEST_TIMEOUT="3600") as service:
        # Given a model that will not be there within the time that this client has
        assert service.client.get("/models").json()["models"]["slow"]["state"] in {"loading", "warming"}

        for path, body in BODIES.items():
            answer = service.client.post(path, json=body)

            # Then each door refuses and says when to come back, and nothing waits
            assert (answer.status_code, answer.headers["content-type"]) == (503, "application/json"), path
            assert 1 <= int(answer.headers["retry-after"]) <= 30
            assert "model slow@1 is still loading" in answer.text
        assert service.client.get("/status").json()["queues"]["slow@1"] == 0

        # And so does a question with a picture, before that is decoded
        answer = service.client.post("/infer", json={**BODIES["/infer"], "images": ["no picture"]})
        assert (answer.status_code, answer.json()["detail"]["code"]) == (503, "model_not_ready")


@contextmanager
def stopping(folder: Path, drain_timeout_s: int) -> Iterator[tuple[Service, socket.socket]]:
    """A server that is told to stop while somebody reads a stream of twenty seconds."""
    models = models_file(folder, tokens=1000, token_latency_ms=20)
    with running(folder, MODELS=models, DRAIN_TIMEOUT=str(drain_timeout_s), GRPC_PORT="0") as service:
        service.wait_models_ready()
        connection = ask(service, "/infer_stream")
        connection.settimeout(60)
        assert b"200 OK" in connection.recv(65536)
        service.signal(signal.SIGTERM)
        yield service, connection
        connection.close()


def _read_to_the_end(connection: socket.socket) -> str:
    text = b""
    with contextlib.suppress(ConnectionError):
        while piece := connection.recv(65536):
            text += piece
    return text.decode()


def test_a_stop_ends_long_answers_with_an_event_when_its_patience_is_over(tmp_path: Path) -> None:
    # Given a stop that has less time than the answer needs
    with stopping(tmp_path, drain_timeout_s=4) as (service, connection):
        # Then meanwhile nothing new is admitted
        service.wait(lambda: service.client.get("/health").json()["status"] == "draining")
        refusal = service.client.post("/infer", json={"model": "gpt2", "prompt": "x"})
        assert refusal.status_code == 503
        assert refusal.headers["retry-after"]
        assert service.client.get("/status").json()["draining"] is True

        # And the reader is told why its answer ends
        text = _read_to_the_end(connection)
        assert "event: error" in text
        assert '"code":"draining"' in text
        assert service.wait_ended() == 0


def test_a_second_server_of_one_program_is_refused_clearly(tmp_path: Path) -> None:
    # Given a port that is taken
    taken = socket.create_server(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    script = tmp_path / "mine.py"
    script.write_text(
        "import asyncio\nfrom freeroam import InferenceServer\n"
        f"asyncio.run(InferenceServer(grpc_port=0).start(host='127.0.0.1', port={port}))\n"
    )

    # When a program would serve on it, then it ends at once and says what is wrong
    ended = run_program(script)
    taken.close()
    assert ended.returncode != 0
    assert f"port {port} on 127.0.0.1 is taken" in ended.stderr


def test_a_program_may_load_models_while_it_serves_and_stop_by_itself(tmp_path: Path) -> None:
    # Given a program that serves one model, registers another while it runs, asks both, and stops
    script = tmp_path / "mine.py"
    script.write_text(
        """
import asyncio, json, urllib.request
from freeroam import InferenceServer, ModelConfig

server = InferenceServer(grpc_port=0, log_level="WARNING")
server.register_model(ModelConfig(name="first", model_type="fake"))

def ask(model):
    body = json.dumps({"model": model, "prompt": "x"}).encode()
    request = urllib.request.Request(f"{server.address}/infer", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read())

def until_it_answers(model):
    while True:
        try:
            return ask(model)
        except (OSError, ValueError):  # it has no address before it has begun
            pass

async def main():
    serving = asyncio.create_task(server.start(host="127.0.0.1", port=0))
    first = await asyncio.to_thread(until_it_answers, "first")
    server.register_model(ModelConfig(name="second", version="9", model_type="fake"))
    second = await asyncio.to_thread(until_it_answers, "second")
    third = await server.load_model(ModelConfig(name="first", version="2", model_type="fake"))
    swapped = await asyncio.to_thread(ask, "first")
    await server.unload_model("second", "9")
    print(json.dumps([first["version"], second["version"], third.state, swapped["version"]]))
    await server.stop()
    await serving

asyncio.run(main())
"""
    )
    ended = run_program(script)

    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == ["1", "9", "ready", "2"]


@pytest.mark.parametrize("turns", [0, 1, 5])
def test_a_program_may_stop_its_server_at_any_moment_of_the_start(tmp_path: Path, turns: int) -> None:
    # Given a program that stops its server before it is up, and then starts it again with two versions of a model
    script = tmp_path / "mine.py"
    script.write_text(
        f"""
import asyncio, json, urllib.request
from freeroam import InferenceServer, ModelConfig

server = InferenceServer(grpc_port=0, log_level="WARNING")
server.register_model(ModelConfig(name="x", version="1", model_type="fake"))
server.register_model(ModelConfig(name="x", version="2", model_type="fake"))

def until_it_answers():
    body = json.dumps({{"model": "x", "prompt": "x"}}).encode()
    while True:
        request = urllib.request.Request(f"{{server.address}}/infer", body, {{"Content-Type": "application/json"}})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.loads(answer.read())
        except (OSError, ValueError):
            pass

async def main():
    serving = asyncio.create_task(server.start(host="127.0.0.1", port=0))
    for _ in range({turns}):
        await asyncio.sleep(0)
    await server.stop()
    await serving
    serving = asyncio.create_task(server.start(host="127.0.0.1", port=0))
    answer = await asyncio.to_thread(until_it_answers)
    await server.stop()
    await serving
    print(answer["version"])

asyncio.run(main())
"""
    )
    ended = run_program(script)

    # Then it ends each time, and the version registered last answers
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-1] == "2"
