"""The commands as a person types them, and ``watch`` as a program uses it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.service import ROOT, Service, running

pytestmark = pytest.mark.timeout(180)


def environment(folder: Path, **settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "HOME", "TMPDIR", "LANG"}}
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    return {**kept, "PYTHONPATH": path, "DATA_DIR": str(folder / "data"), "MODEL_TYPE": "fake", **settings}


def freeroam(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "freeroam", *arguments],
        cwd=folder,
        env=environment(folder, **settings),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def test_run_prints_a_line_a_result_and_leaves_nothing_behind(tmp_path: Path) -> None:
    # Given nothing, when a job of a few frames is run in the terminal with the real detector
    done = freeroam(tmp_path, "run", "demo:", "--prompt", "Detect all people", "--frames", "3", MODEL_TYPE="detector")

    # Then each result is a line, in order of time
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert "person" in lines[0]

    # And no database stays
    assert not (tmp_path / "data").exists()


def test_run_prints_json_when_asked(tmp_path: Path) -> None:
    # Given --json, when a job is run, then each line is a result
    done = freeroam(
        tmp_path, "run", "demo:", "--prompt", "q", "--frames", "2", "--json", "--model", "fake", "--fps", "5"
    )
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [1, 2]


def test_run_can_be_interrupted(tmp_path: Path) -> None:
    # Given a job that runs
    process = subprocess.Popen(
        [sys.executable, "-m", "freeroam", "run", "demo:", "--prompt", "q"],
        cwd=tmp_path,
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline()

    # When it is interrupted, then it ends without a trace
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "demo:x", "--prompt", "q"), 2, "demo:"),
        (("run", "http://127.0.0.1/x.m3u8", "--prompt", "q"), 2, "ALLOW_PRIVATE_SOURCES"),
        (("run", "demo:", "--prompt", " "), 2, "Prompt cannot be empty"),
        (("run", "demo:", "--prompt", "q", "--fps", "-1"), 2, "fps: input should be greater than or equal to"),
        (("run", "demo:", "--prompt", "q", "--model", "none"), 2, "MODEL_TYPE"),
        (("backup", "x.db"), 2, "there is no database"),
        (("restore", "x.db"), 2, "x.db"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(tmp_path: Path, arguments: tuple[str, ...], code: int, words: str) -> None:
    # Given a mistake, when the command is typed, then one line says what it is
    done = freeroam(tmp_path, *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stderr.startswith("freeroam: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_wrong_setting_is_said_in_one_line(tmp_path: Path) -> None:
    # Given a wrong setting, when the service is started, then one line names it
    done = freeroam(tmp_path, "serve", PORT="99999")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("freeroam: PORT=99999")


def test_a_certificate_that_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    # Given a certificate that is not there, when the service is started, then one line names the settings
    done = freeroam(tmp_path, "serve", PORT="0", SSL_CERTFILE=str(tmp_path / "a"), SSL_KEYFILE=str(tmp_path / "b"))
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith("freeroam: SSL_CERTFILE=")


def test_a_folder_that_cannot_be_written_is_said_in_one_line(tmp_path: Path) -> None:
    # Given a data folder that is a file
    (tmp_path / "file").write_text("")

    # When the service is started, then one line names the setting
    done = freeroam(tmp_path, "serve", "--port", "0", DATA_DIR=str(tmp_path / "file"), LOG_LEVEL="ERROR")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("freeroam: DATA_DIR")
    assert "Traceback" not in done.stderr


def test_a_grpc_port_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    # Given a port that somebody listens on
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        # When the service is told to take it, then one line names the setting, and no library adds lines of its own
        done = freeroam(tmp_path, "serve", "--port", "0", GRPC_PORT=port, LOG_LEVEL="ERROR")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"freeroam: GRPC_PORT={port}")
    assert len(done.stderr.splitlines()) == 1


def test_probe_says_what_a_stream_is(tmp_path: Path) -> None:
    # Given the demo, when it is probed, then its kind, codec and size are told
    done = freeroam(tmp_path, "probe", "demo:")
    assert done.returncode == 0, done.stderr
    for words in ("demo", "h264", "640x360"):
        assert words in done.stdout

    # And of what cannot be opened, why not
    done = freeroam(tmp_path, "probe", "http://a:hunter2@127.0.0.1/x", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["error_code"] == "forbidden"
    assert "hunter2" not in done.stdout


def test_models_and_the_description_are_printed(tmp_path: Path) -> None:
    # Given nothing, when asked, then models and the description of the interface are printed
    names = {row["name"] for row in json.loads(freeroam(tmp_path, "models", "--json").stdout)["models"]}
    assert {"detector", "example_vlm", "fake"} <= names
    assert json.loads(freeroam(tmp_path, "openapi").stdout)["info"]["title"] == "Freeroam"


def test_a_backup_of_a_running_service_can_be_put_back(tmp_path: Path) -> None:
    # Given a service with results, which goes on while it is backed up
    with running(tmp_path) as service:
        job_id = service.start_job(stream_ref="demo:", prompt="q", fps=10)
        service.wait(lambda: service.total(job_id) >= 5)
        assert freeroam(tmp_path, "backup", "copy.db").returncode == 0

        # When it runs, then nothing can be put back under it
        refused = freeroam(tmp_path, "restore", "copy.db")
        assert refused.returncode == 2
        assert "another Freeroam process" in refused.stderr
        service.client.delete(f"/api/v1/inference/jobs/{job_id}")
        service.signal(signal.SIGTERM)
        service.wait_ended()

        # When it is put back after the job was erased
        assert freeroam(tmp_path, "restore", "copy.db").returncode == 0
        service.start()

        # Then the job is there again and goes on
        kept = service.total(job_id)
        assert kept >= 5
        service.wait(lambda: service.total(job_id) > kept)


def test_a_program_watches_and_leaves_when_it_likes(tmp_path: Path) -> None:
    # Given a program that takes three results and leaves by break, then watches to an end, then asks for the impossible
    program = """
import asyncio
from freeroam import watch

async def main():
    async for result in watch("demo:", "Detect all people", fps=5):
        print("first", result.id)
        if result.id == 3:
            break
    async for result in watch("demo:", "Detect all people", fps=5, max_frames=2):
        print("second", result.id)
    try:
        async for result in watch("http://127.0.0.1/x.m3u8", "q"):
            pass
    except Exception as error:
        print(type(error).__name__)

asyncio.run(main())
"""
    # When it runs
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )

    # Then it gets what it asked for, and ends without a complaint
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[:6] == [
        "first 1",
        "first 2",
        "first 3",
        "second 1",
        "second 2",
        "ForbiddenReference",
    ]
    assert "Traceback" not in done.stderr


def test_any_asgi_server_may_run_the_application(tmp_path: Path) -> None:
    # Given uvicorn, started by hand
    service = Service(tmp_path)
    service._command = ("-m", "uvicorn", "freeroam.asgi:app", "--port", str(service.port))
    try:
        service.start()
        job_id = service.start_job(stream_ref="demo:", prompt="q", fps=5)
        service.wait(lambda: service.total(job_id) >= 2)

        # When it is told to stop, then it drains and every child ends
        children = service.children()
        service.signal(signal.SIGTERM)
        service.wait_ended()
        assert '"event":"jobs_drained"' in service.log()
        assert '"event":"stopped"' in service.log()
        assert [child for child in children if child.is_running()] == []
    finally:
        service.end()
