"""``freeroam bench`` as a person types it, the real process under load, and the examples that stand on it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.service import ROOT, Service, running

pytestmark = pytest.mark.timeout(180)

ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "TMPDIR", "LANG"}},
    "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    model = "tests.e2e.speaking_model:SpeakingModel"
    with running(tmp_path_factory.mktemp("service"), MODEL_TYPE=model, GRPC_PORT="0") as service:
        service.wait_ready()
        yield service


def bench(service: Service, *words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "freeroam", "bench", "--url", service.url, *words]
    return subprocess.run(
        command, env={**ENVIRONMENT, **settings}, capture_output=True, text=True, timeout=90, check=False
    )


def test_a_server_is_measured_and_the_report_is_json(service: Service) -> None:
    # Given a server that speaks 40 words an answer, when ten questions are asked
    done = bench(service, "-n", "10", "-c", "4", "--json", "-", "--priority", "HIGH=1,LOW=1")

    # Then standard output is the report alone, and every token is accounted for
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["requests"] == {**report["requests"], "sent": 10, "answered": 10, "failed": 0}
    assert report["tokens"]["received"] == 400
    assert report["tokens"]["missing"] == report["tokens"]["doubled"] == 0
    assert report["first_token_ms"]["count"] == 10
    assert report["token_gap_ms"]["p99"] > 0
    assert set(report["by_priority"]) <= {"HIGH", "LOW"}
    assert sum(times["end_to_end_ms"]["count"] for times in report["by_priority"].values()) == 10
    assert report["client_cpu_share"] > 0
    assert report["server_cpu_share"] > 0

    # And people read it beside
    assert "10 answered, 0 failed" in done.stderr
    assert "0 indexes missing" in done.stderr


@pytest.mark.parametrize("words", [["--no-stream"], ["--door", "openai"], ["--door", "openai", "--no-stream"]])
def test_every_door_is_measured(service: Service, words: list[str]) -> None:
    # Given the doors, whole and streamed, when each is measured, then all questions are answered and tokens counted
    model = service.client.get("/v1/models").json()["data"][0]["id"]
    done = bench(service, "-n", "6", "--model", model, "--max-tokens", "12", "--json", "-", *words)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["requests"]["answered"], report["tokens"]["received"]) == (6, 72)


def test_an_open_loop_sends_when_questions_are_due(service: Service, tmp_path: Path) -> None:
    # Given questions in a file, when they are asked at a rate
    questions = tmp_path / "questions.txt"
    questions.write_text("One?\nTwo?\n")
    words = ("-r", "20", "--pace", "even", "-d", "1", "--prompts", str(questions), "--max-tokens", "2")
    done = bench(service, *words, "--json", str(tmp_path / "report.json"))

    # Then as many are sent as were due, and the report is in its file
    assert done.returncode == 0, done.stderr + done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["requests"]["sent"] == 20
    assert report["load"]["loop"] == "open"
    assert report["schedule"]["asked_per_s"] == 20


def test_too_many_errors_are_an_exit_code(service: Service) -> None:
    # Given a model that is not there, when it is asked for, then the errors are counted by status and code
    done = bench(service, "-n", "3", "--model", "nobody")
    assert done.returncode == 1
    assert "3 x 404 not_found" in done.stdout

    # And a share of errors may be allowed, but not that nothing was answered
    assert bench(service, "-n", "3", "--model", "nobody", "--max-error-rate", "1").returncode == 1

    # And an option that cannot be is another exit code
    wrong = bench(service, "-c", "0")
    assert wrong.returncode == 2
    assert "--concurrency" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_a_key_is_needed_where_there_are_keys_and_never_shown(tmp_path: Path) -> None:
    # Given a server with a key, when it is measured without and with it, then only the second is let in
    key = "a-key-of-its-own-0123456789"
    with running(tmp_path, API_KEY=key, GRPC_PORT="0") as service:
        service.wait_ready()
        without = bench(service, "-n", "2")
        assert without.returncode == 1
        assert "2 x 401 unauthenticated" in without.stdout
        with_key = bench(service, "-n", "2", "--json", "-", FREEROAM_API_KEY=key)
        assert with_key.returncode == 0, with_key.stderr
        assert key not in with_key.stdout + with_key.stderr


def test_an_interrupt_ends_it_with_what_was_measured(service: Service) -> None:
    # Given a long run, when it is interrupted, then the report is told, and nothing of a traceback
    command = [sys.executable, "-m", "freeroam", "bench", "--url", service.url, "-d", "600", "--interval", "0.2"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    assert "tokens/s" in lines[0]
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert "measured" in out
    assert "unanswered" not in out


def test_on_a_terminal_the_table_is_drawn_in_place(service: Service) -> None:
    # Given a terminal
    mine, theirs = pty.openpty()
    command = [sys.executable, "-m", "freeroam", "bench", "--url", service.url, "-d", "1.2", "--interval", "0.2"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)

    # When it is measured there
    shown = b""
    try:
        while piece := os.read(mine, 65536):
            shown += piece
    except OSError:  # how Linux tells that the other side is closed
        pass
    os.close(mine)

    # Then the cursor goes back for each new table, and the heading is drawn each time
    assert process.wait(60) == 0
    assert shown.count(b"in flight") >= 2
    assert b"\x1b[" in shown
    assert b"in all:" in shown


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("streaming_client.py", "word0 word1 "),
        ("benchmark_client.py", "tokens/s"),
        ("follow_a_job.py", "0.00 s  word0"),
        ("ask_a_model.py", "word0 word1 "),
    ],
)
def test_the_examples_run(service: Service, name: str, told: str) -> None:
    # Given a server, when an example is run against it, then it does what it says
    command = [sys.executable, str(ROOT / "examples" / name), service.url]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert told in done.stdout
