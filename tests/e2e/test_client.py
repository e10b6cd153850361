"""The typed client against the real process: jobs, questions, keys, and a server that is killed under it."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from freeroam import AsyncClient, Client
from freeroam.client import Retries
from freeroam.vocabulary import errors
from freeroam.vocabulary.job import JobStatus
from freeroam.vocabulary.job_status import JobEnd
from freeroam.vocabulary.model_calls import InferDone, InferToken
from tests.e2e.service import ROOT, Service, running
from tests.waiting import until

pytestmark = pytest.mark.timeout(180)

SPEAKING = "tests.e2e.speaking_model:SpeakingModel"
KEYS = """
[[keys]]
name = "looker"
key = "looker-key-0123456789"
rights = ["read"]

[[keys]]
name = "asker"
key = "asker-key-0123456789"
rights = ["read", "run"]
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("service"), MODEL_TYPE=SPEAKING, GRPC_PORT="0") as service:
        service.wait_ready()
        yield service


def test_a_job_is_started_followed_changed_exported_and_erased(service: Service) -> None:
    # Given a server
    with Client(service.url) as client:
        # When a job is started and followed to its end
        started = client.start_job("demo:", "Detect all people", fps=10, max_frames=5, tags={"gate": "north"})
        events = list(client.stream_events(started.job_id))
        ids = [result.id for result in client.stream_results(started.job_id)]

        # Then every result came once, and the end
        assert ids == list(range(1, len(ids) + 1))
        assert ids
        assert isinstance(events[-1], JobEnd)
        assert events[-1].total_results == len(ids)

        # And everything about it can be read
        status = client.job_status(started.job_id)
        assert (status.status, status.tags) == (JobStatus.COMPLETED, {"gate": "north"})
        assert client.results(started.job_id, limit=1).total_results == len(ids)
        assert [result.id for result in client.iterate_results(started.job_id, page=2)] == ids
        assert b"".join(client.export_job(started.job_id, "jsonl")).count(b"\n") == len(ids)
        assert started.job_id in [job.job_id for job in client.list_jobs(status=JobStatus.COMPLETED).jobs]

        # And it can be erased, once
        client.erase_job(started.job_id)
        with pytest.raises(errors.NotFound):
            client.job_status(started.job_id)


async def test_a_running_job_is_changed_paused_and_cancelled(service: Service) -> None:
    # Given a job that runs without end
    async with AsyncClient(service.url) as client:
        job = await client.start_job("demo:", "q", fps=5)

        async def has_results() -> bool:
            return (await client.results(job.job_id)).total_results > 0

        await until(has_results)

        # When it is changed, then it says so; what it was asked is in its history
        changed = await client.change_job(job.job_id, prompt="Is it raining?", fps=2, paused=True)
        assert (changed.prompt, changed.fps, changed.paused) == ("Is it raining?", 2.0, True)
        history = await client.prompt_history(job.job_id)
        assert [prompt.prompt for prompt in history.history] == ["Is it raining?", "q"]
        assert (await client.current_prompt(job.job_id)).version == history.total

        # And it can be cancelled, once; its id is taken
        await client.cancel_job(job.job_id)
        with pytest.raises(errors.NotFound):
            await client.cancel_job(job.job_id)
        with pytest.raises(errors.Conflict):
            await client.start_job("demo:", "q", job_id=job.job_id)


async def test_the_server_tells_of_itself(service: Service) -> None:
    # Given a server, when it is asked about itself, then every answer is read
    async with AsyncClient(service.url) as client:
        assert (await client.health()).status == "healthy"
        assert (await client.readiness()).ready
        assert (await client.liveness()).alive
        status = await client.server_status()
        assert not status.draining
        models = await client.list_models()
        name = next(iter(models.models))
        assert (await client.model_health(name)).healthy
        assert name in await client.statistics()
        assert "freeroam_http_requests_total" in await client.metrics()
        assert (await client.capacity())["streams"]["limit"] > 0
        with pytest.raises(errors.NotFound):
            await client.model_health("nobody")


def test_a_question_is_answered_whole_and_as_it_is_spoken(service: Service) -> None:
    # Given a model that speaks, when it is asked in both ways, then the answers are the same
    with Client(service.url) as client:
        whole = client.infer("Once upon a time", max_tokens=7)
        *tokens, done = client.infer_stream("Once upon a time", max_tokens=7)
    assert all(isinstance(token, InferToken) for token in tokens)
    assert isinstance(done, InferDone)
    assert "".join(token.token for token in tokens) == whole.text
    assert done.finish_reason == whole.finish_reason == "length"
    assert done.usage == whole.usage
    assert sum(token.count for token in tokens) == done.usage.completion_tokens == 7


async def test_a_stream_that_is_closed_ends_the_question(service: Service) -> None:
    # Given answers that are being spoken
    async with AsyncClient(service.url) as client:
        streams = [client.infer_stream("a long story") for _ in range(3)]
        for stream in streams:
            await anext(stream)

        # When they are closed in the middle, then the server is done with them
        for stream in streams:
            await stream.close()

        async def is_idle() -> bool:
            status = await client.server_status()
            return status.streams == 0 and status.calls == 0

        await until(is_idle)


async def test_a_refusal_is_the_error_that_it_is(service: Service) -> None:
    # Given questions that cannot be answered, when they are asked, then each error says why
    async with AsyncClient(service.url) as client:
        with pytest.raises(errors.NotFound):
            await client.infer("q", "nobody")
        with pytest.raises(errors.NotFound):
            await anext(client.infer_stream("q", "nobody"))
        with pytest.raises(errors.DeadlineExceeded):
            await client.infer("a long story", timeout_s=0.02)
        with pytest.raises(errors.InvalidInput, match="images"):
            await client.infer("q", images=["https://box/picture.png"])
        with pytest.raises(errors.InvalidInput, match="temperature"):
            await client.infer("q", temperature=5)


def test_keys_and_rights_hold(tmp_path: Path) -> None:
    # Given a server with keys
    keys = tmp_path / "keys.toml"
    keys.write_text(KEYS)
    with running(tmp_path, API_KEYS_FILE=str(keys), GRPC_PORT="0") as service:
        service.wait_ready()

        # When it is used without a key, with one that may look, and with one that may ask
        with Client(service.url, key="") as nobody, pytest.raises(errors.Unauthenticated):
            nobody.list_jobs()
        with Client(service.url, key="looker-key-0123456789") as looker:
            assert looker.list_jobs().total == 0
            with pytest.raises(errors.PermissionDenied):
                looker.start_job("demo:", "q")
        with Client(service.url, key="asker-key-0123456789") as asker:
            assert asker.infer("q").text
            # Then what only an operator may do is refused to all of them
            with pytest.raises(errors.PermissionDenied):
                asker.set_traffic("fake", {"1": 1.0})


def test_a_stream_of_results_survives_a_server_that_is_killed(tmp_path: Path) -> None:
    # Given a job that is followed
    with running(tmp_path, GRPC_PORT="0") as service:
        service.wait_ready()
        client = Client(service.url, retries=Retries(first_pause_s=0.1, stream_attempts=60, longest_pause_s=1.0))
        job = client.start_job("demo:", "q", fps=10)
        seen: list[int] = []
        has_ended = threading.Event()

        def read() -> None:
            seen.extend(result.id for result in client.stream_results(job.job_id))
            has_ended.set()

        threading.Thread(target=read, daemon=True).start()
        service.wait(lambda: len(seen) >= 5)

        # When the server is killed in the middle and started again, twice
        for _ in range(2):
            service.signal(signal.SIGKILL)
            service.wait_ended()
            before = len(seen)
            service.start()
            service.wait_ready()
            service.wait(lambda before=before: len(seen) >= before + 5)
        client.cancel_job(job.job_id)

        # Then the iteration ends with the job, and every result came once, in order
        assert has_ended.wait(60)
        total = service.total(job.job_id)
        assert seen == list(range(1, total + 1))
        client.close()


def test_the_client_loads_without_the_server_and_the_package_without_the_client() -> None:
    # Given a fresh interpreter, when the package is imported, then a child process does not pay for the client
    code = (
        "import sys, freeroam; assert 'httpx' not in sys.modules; from freeroam import Client; "
        "assert 'httpx' in sys.modules; heavy = {'fastapi', 'av', 'numpy', 'torch', 'sqlalchemy'} & set(sys.modules); "
        "assert not heavy, heavy"
    )
    environment = {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
