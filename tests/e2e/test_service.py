"""The real process: its start, its streams, its stop by signals, and what it does when parts of it die."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.service import Service, running

pytestmark = pytest.mark.timeout(180)

DECODER = "freeroam.sources.decoding.worker"
REPLICA = "freeroam.engines.replica"


class Reader(threading.Thread):
    """Reads an event stream to its end and keeps what it was told."""

    def __init__(self, service: Service, job_id: str, after: int | None = None) -> None:
        super().__init__(daemon=True)
        self.events: list[tuple[str, str | None, Any]] = []
        self.is_complete = False
        self._arguments = (service, job_id, after)
        self.start()

    def run(self) -> None:
        with contextlib.suppress(httpx.TransportError):  # a test that ends while its reader reads
            self._read(*self._arguments)

    def _read(self, service: Service, job_id: str, after: int | None) -> None:
        headers = {"Last-Event-ID": str(after)} if after is not None else {}
        with service.client.stream("GET", f"/api/v1/inference/stream/{job_id}", headers=headers, timeout=60) as answer:
            kind, event_id = "", None
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name == "event":
                    kind = value
                elif name == "id":
                    event_id = value
                elif name == "data":
                    self.events.append((kind, event_id, json.loads(value)))
                    kind, event_id = "", None
        self.is_complete = True

    def ids(self) -> list[int]:
        return [int(event_id) for kind, event_id, _ in self.events if kind == "result" and event_id]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with running(tmp_path) as service:
        yield service


def test_the_demo_shows_real_objects_and_exists_once_across_restarts(tmp_path: Path) -> None:
    # Given the demo with the real detector
    demo = Service(tmp_path, command=("-m", "freeroam", "demo"), MODEL_TYPE="detector")
    try:
        demo.start()

        # When its first results are there
        demo.wait(lambda: demo.total("demo") >= 2)

        # Then they name what the clip shows, and the program said where to look
        page = demo.client.get("/api/v1/inference/results/demo").json()
        labels = {item["label"] for result in page["results"] for item in result["predictions"]}
        assert labels & {"person", "cat", "cup", "motorcycle", "dog"}
        assert f"{demo.url}/docs" in demo.out()
        seen = page["total_results"]

        # When it is stopped and started again
        demo.signal(signal.SIGTERM)
        assert demo.wait_ended() == 0
        demo.start()

        # Then the same job goes on, and there is one
        demo.wait(lambda: demo.total("demo") > seen)
        assert demo.client.get("/api/v1/inference/jobs").json()["total"] == 1
    finally:
        demo.end()


def test_a_plain_serve_has_no_job_and_no_prompt_and_its_docs_need_no_internet(service: Service) -> None:
    # Given a service that was just started
    # Then nothing runs and nothing is asked
    assert service.client.get("/api/v1/inference/jobs").json() == {"jobs": [], "total": 0}
    assert service.client.get("/api/v1/prompt/current").status_code == 404

    # And the pages load all that they need from the service itself
    for page in ("/docs", "/redoc"):
        text = service.client.get(page).text
        assert "https://" not in text.replace("https://github.com", "")
    for script in ("swagger-ui-bundle.js", "swagger-ui.css", "redoc.standalone.js"):
        assert service.client.get(f"/static-docs/{script}").status_code == 200


def test_a_stop_lets_the_question_in_flight_finish_and_closes_streams_with_an_event(tmp_path: Path) -> None:
    # Given a slow model that works on a question, and somebody who listens
    with running(tmp_path, MODEL_TYPE="tests.e2e.slow_model:SlowModel") as service:
        service.wait_ready()
        job_id = service.start_job(stream_ref="demo:", prompt="q", fps=5)
        service.wait(lambda: service.total(job_id) >= 1)
        reader = Reader(service, job_id)
        service.wait(lambda: len(reader.ids()) >= 2)

        # When it is told to stop
        service.signal(signal.SIGTERM)

        # Then it refuses new work and says that it is draining
        service.wait(lambda: _status_of(service) == "draining")
        refusal = service.client.post("/api/v1/inference/start", json={"stream_ref": "demo:", "prompt": "q"})
        assert refusal.status_code == 503
        assert refusal.headers["retry-after"]
        assert service.client.get("/health/ready").status_code == 503

        # And it ends well: the stream was closed by an event after the results of what was in flight
        assert service.wait_ended() == 0
        reader.join(10)
        assert reader.is_complete
        last_kind, _, last = reader.events[-1]
        assert last_kind == "status"
        assert last["closing"] is True

        # And the next start knows the results that the listener was told, and goes on after them
        service.start()
        told = reader.ids()
        assert told == list(range(1, len(told) + 1))
        assert service.total(job_id) >= len(told)
        again = Reader(service, job_id, after=told[-1])
        service.wait(again.ids)
        assert again.ids()[0] == told[-1] + 1


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    # Given a service that drains a slow question
    with running(tmp_path, MODEL_TYPE="tests.e2e.slow_model:SlowModel", DRAIN_TIMEOUT="600") as service:
        service.wait_ready()
        job_id = service.start_job(stream_ref="demo:", prompt="hang", fps=5)
        service.wait(lambda: service.client.get(f"/api/v1/inference/status/{job_id}").json()["started_at"])
        children = service.children()
        service.signal(signal.SIGTERM)
        service.wait(lambda: _status_of(service) == "draining")

        # When it is told again
        service.signal(signal.SIGTERM)

        # Then it ends at once, not well, and takes its children along
        assert service.wait_ended(20) == 1
        assert psutil.wait_procs(children, timeout=20)[1] == []


def test_a_stop_that_takes_too_long_is_cut_at_its_time_limit(tmp_path: Path) -> None:
    # Given a question that never ends
    with running(tmp_path, MODEL_TYPE="fake", DRAIN_TIMEOUT="3") as service:
        service.wait_ready()
        job_id = service.start_job(stream_ref="demo:", prompt="hang")
        service.wait(lambda: service.client.get(f"/api/v1/inference/status/{job_id}").json()["started_at"])

        # When the service is told to stop
        service.signal(signal.SIGTERM)

        # Then it ends, and the job goes on at the next start
        service.wait_ended(30)
        service.start()
        assert service.client.get(f"/api/v1/inference/status/{job_id}").json()["status"] in {"pending", "running"}


def test_a_killed_service_goes_on_where_it_was(service: Service) -> None:
    # Given a running job with results
    job_id = service.start_job(stream_ref="demo:", prompt="q", fps=10)
    service.wait(lambda: service.total(job_id) >= 5)
    children = service.children()

    # When the whole process is killed and started again
    service.signal(signal.SIGKILL)
    service.wait_ended()
    assert psutil.wait_procs(children, timeout=20)[1] == [], "children outlived their parent"
    service.start()

    # Then the job goes on, and ids have neither gaps nor doubles
    before = service.total(job_id)
    service.wait(lambda: service.total(job_id) >= before + 3)
    page = service.client.get(f"/api/v1/inference/results/{job_id}", params={"limit": 1000}).json()
    assert [result["id"] for result in page["results"]] == list(range(1, page["total_results"] + 1))


@pytest.mark.parametrize("module", [DECODER, REPLICA])
@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
def test_the_api_answers_and_jobs_go_on_when_a_child_dies_or_hangs(
    tmp_path: Path, module: str, blow: signal.Signals
) -> None:
    # Given two streams
    with running(tmp_path, INFERENCE_TIMEOUT="3") as service:
        service.wait_ready()
        jobs = [service.start_job(stream_ref="demo:", prompt="q", fps=fps) for fps in (5, 7)]
        service.wait(lambda: all(service.total(job_id) >= 3 for job_id in jobs))
        victims = service.children(module)
        assert victims, f"no child runs {module}"

        # When every child of one kind is struck
        for victim in victims:
            victim.send_signal(blow)
        struck_s = time.monotonic()
        before = {job_id: service.total(job_id) for job_id in jobs}

        # Then the API answers throughout, and both jobs come to new results
        slowest_s = 0.0
        while not all(service.total(job_id) >= before[job_id] + 5 for job_id in jobs):
            asked_s = time.monotonic()
            assert service.client.get("/health/live").status_code == 200
            slowest_s = max(slowest_s, time.monotonic() - asked_s)
            assert time.monotonic() - struck_s < 60, service.log()[-3000:]
            time.sleep(0.05)
        passed_s = time.monotonic() - struck_s
        print(f"{module} {blow.name}: on again after {passed_s:.1f} s, slowest answer {slowest_s:.3f} s")

        # And no struck child is left
        assert psutil.wait_procs(victims, timeout=30)[1] == []


def test_a_reader_that_drains_nothing_is_cut_and_costs_the_others_nothing(tmp_path: Path) -> None:
    # Given a job with large results, a reader that reads, and one that never does
    with running(tmp_path, STREAM_IDLE_TIMEOUT="1") as service:
        service.wait_ready()
        job_id = service.start_job(stream_ref="demo:", prompt="x" * 32_000, fps=25)
        reader = Reader(service, job_id)
        with socket.socket() as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.connect(("127.0.0.1", service.port))
            stuck.sendall(f"GET /api/v1/inference/stream/{job_id} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

            # When its connection is full for longer than the limit, then it is cut and counted
            counted = 'freeroam_slow_client_total{action="dropped",kind="sse"} 1.0'
            service.wait(lambda: counted in service.client.get("/metrics").text, limit_s=100)
            assert 'freeroam_listeners{kind="sse"} 1.0' in service.client.get("/metrics").text
            assert not _read_to_the_end(stuck).endswith(b"0\r\n\r\n"), "a cut answer looks complete"

        # And the other reader has missed nothing
        ids = reader.ids()
        assert len(ids) > 10
        assert ids == list(range(1, len(ids) + 1))


def test_a_taken_port_is_said_in_one_line(service: Service) -> None:
    # Given a service on a port
    # When another is started on it
    second = subprocess.run(
        [*_python(service), "-m", "freeroam", "serve", "--port", str(service.port)],
        env=_environment(service),
        cwd=service.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    # Then it says so
    assert second.returncode == 1
    assert second.stderr.strip() == f"freeroam: port {service.port} on 127.0.0.1 is taken; set PORT or --port"


def test_a_second_service_on_the_same_data_is_refused_in_one_line(service: Service) -> None:
    # Given a service that holds its data folder
    # When another is started on the same folder and a port of its own
    second = subprocess.run(
        [*_python(service), "-m", "freeroam", "serve", "--port", "0"],
        env=_environment(service),
        cwd=service.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    # Then it says which process holds it
    assert second.returncode == 2
    assert second.stderr.strip().startswith("freeroam: another Freeroam process")
    assert "Traceback" not in second.stderr


def _read_to_the_end(connection: socket.socket) -> bytes:
    connection.settimeout(30)
    last = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(1_000_000):
            last = (last + piece)[-16:]
    return last


def _status_of(service: Service) -> str:
    return str(service.client.get("/health").json()["status"])


def _python(service: Service) -> list[str]:
    assert service.process is not None
    return [str(service.process.args[0])]  # type: ignore[index]


def _environment(service: Service) -> dict[str, str]:
    assert service.process is not None
    return psutil.Process(service.process.pid).environ()
