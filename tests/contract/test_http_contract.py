"""The HTTP and WebSocket contract, field by field, against every part running behind a real socket."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import csv
import io
import json
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import uvicorn
import websockets
from httpx_sse import aconnect_sse

from freeroam.asgi import build_application
from freeroam.settings import Settings
from tests.servers import free_port
from tests.waiting import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

API = "/api/v1"
START = f"{API}/inference/start"


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[httpx.AsyncClient]:
    folder: Path = tmp_path_factory.mktemp("contract")
    port = free_port()
    speaker = {"name": "gpt2", "version": "1.0.0", "model_type": "fake", "options": {"tokens": 8}}
    (folder / "models.json").write_text(json.dumps({"models": [speaker]}))
    settings = Settings(
        _env_file=None,
        data_dir=folder,
        model_type="fake",
        max_concurrent_streams=3,
        rate_limit_per_minute=0,
        media_root=folder,
        models=folder / "models.json",
        grpc_port=0,
    )
    config = uvicorn.Config(build_application(settings), port=port, log_config=None, access_log=False, lifespan="on")
    server = _Server(config)
    serving = asyncio.create_task(server.serve())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        await until(lambda: server.started)
        await until(lambda: _is_ready(client), limit_s=60)
        yield client
    server.should_exit = True
    await serving


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def no_jobs_left(client: httpx.AsyncClient) -> AsyncIterator[None]:
    yield
    for job in (await client.get(f"{API}/inference/jobs")).json()["jobs"]:
        await client.delete(f"{API}/inference/jobs/{job['job_id']}")


async def _is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/health/ready")).status_code == 200


async def start(client: httpx.AsyncClient, **wish: Any) -> str:
    answer = await client.post(START, json={"stream_ref": "demo:", "prompt": "Detect all people", "fps": 20, **wish})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["job_id"])


async def results(client: httpx.AsyncClient, job_id: str, **query: Any) -> dict[str, Any]:
    answer = await client.get(f"{API}/inference/results/{job_id}", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def has_results(client: httpx.AsyncClient, job_id: str, count: int) -> None:
    async def are_there() -> bool:
        return bool((await results(client, job_id, limit=1))["total_results"] >= count)

    await until(are_there)


async def status(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    answer = await client.get(f"{API}/inference/status/{job_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


# Health


async def test_health(client: httpx.AsyncClient) -> None:
    # Given a ready service, when its health is asked for, then every field of the contract is there
    health = (await client.get("/health")).json()
    assert health["status"] == "healthy"
    assert health["model_loaded"] is True
    assert isinstance(health["uptime_seconds"], float)
    assert health["uptime_formatted"].endswith("s")
    assert health["timestamp"].endswith("Z")
    assert {"active_connections", "active_streams", "version"} <= set(health)

    ready = (await client.get("/health/ready")).json()
    assert (ready["ready"], ready["status"]) == (True, "ready")
    assert {"model_loaded", "store"} <= set(ready["checks"])

    live = (await client.get("/health/live")).json()
    assert live["alive"] is True


# Jobs


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/health/ready",
        "/health/live",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/static-docs/swagger-ui.css",
        "/metrics",
        "/models",
        f"{API}/inference/jobs",
        f"{API}/inference/stream/headed",
        f"{API}/inference/jobs/headed/export?format=csv",
        "/v1/models",
        "/v2/models/fake",
        "/nowhere",
        "/infer",
    ],
)
async def test_a_head_is_answered_as_a_get_without_its_body(client: httpx.AsyncClient, path: str) -> None:
    # Given what GET answers at a path, also where it is a stream, an error or nothing that GET may do
    await start(client, job_id="headed", max_frames=1)
    async with client.stream("GET", path) as got:
        expected = (got.status_code, got.headers["content-type"])

    # When only the head is wanted, then it is the same, and the connection serves the next one
    for _ in range(2):
        answer = await client.head(path)
        assert (answer.status_code, answer.headers["content-type"]) == expected
        assert answer.content == b""


async def test_a_job_is_accepted_with_an_id_of_its_own_or_of_ours(client: httpx.AsyncClient) -> None:
    # Given a wish without a name, when it is sent
    answer = await client.post(START, json={"stream_ref": "demo:", "prompt": "q"})

    # Then it is accepted under a UUID, in the seed's words
    assert answer.status_code == 202
    job_id = answer.json()["job_id"]
    uuid.UUID(job_id)
    assert answer.json() == {"job_id": job_id, "status": "pending", "message": f"Inference job {job_id} started"}

    # And a name may be given once
    assert await start(client, job_id="door-1") == "door-1"
    assert (
        await client.post(START, json={"stream_ref": "demo:", "prompt": "q", "job_id": "door-1"})
    ).status_code == 409


async def test_status_has_every_field(client: httpx.AsyncClient) -> None:
    # Given a running job
    job_id = await start(client)
    await has_results(client, job_id, 2)

    # When its status is asked for
    told = await status(client, job_id)

    # Then the seed's fields and ours are there
    assert told["job_id"] == job_id
    assert told["status"] == "running"
    assert (told["stream_ref"], told["prompt"], told["fps"]) == ("demo:", "Detect all people", 20.0)
    assert told["created_at"] <= told["started_at"]
    assert told["completed_at"] is None
    assert told["error"] is None
    assert told["frames_processed"] >= 1
    assert told["results_count"] >= 1
    assert told["model"] == "fake@1"
    assert told["prompt_version"] == 1
    assert told["policy"] == "latest"
    assert isinstance(told["frames_dropped"], dict)
    source = told["source"]
    assert (source["state"], source["codec"], source["kind"]) == ("running", "h264", "demo")
    assert source["size"] == [360, 640]
    assert {"fps", "reconnects", "last_error", "seconds_since_frame"} <= set(source)
    for part in ("decode", "wait", "model", "total"):
        assert set(told["latency_ms"][part]) == {"p50", "p95", "p99"}


async def test_a_result_has_every_field(client: httpx.AsyncClient) -> None:
    # Given a job with results
    job_id = await start(client)
    await has_results(client, job_id, 3)

    # When its results are asked for
    page = await results(client, job_id)

    # Then each has the fields of the contract
    assert set(page) == {"job_id", "status", "results", "total_results"}
    result = page["results"][0]
    assert result["id"] == 1
    for prediction in result["predictions"]:
        assert {"label", "confidence", "bbox"} <= set(prediction)
        assert len(prediction["bbox"]) == 4
    metadata = result["metadata"]
    assert metadata["num_frames"] == 1
    assert metadata["frame_shape"][2] == 3
    assert (metadata["prompt"], metadata["model_type"], metadata["device"]) == ("Detect all people", "fake", "cpu")
    assert metadata["timestamp"] > 1_600_000_000
    assert (metadata["model"], metadata["model_version"], metadata["prompt_version"]) == ("fake", "1", 1)
    assert len(metadata["frame_ids"]) == 1
    assert metadata["source_size"] == [360, 640]
    assert {"decode", "wait", "model", "total"} <= set(metadata["timings_ms"])
    assert {"stream_time"} <= set(metadata)


async def test_results_are_the_newest_in_order_or_those_that_follow(client: httpx.AsyncClient) -> None:
    # Given a job that is over, with results
    job_id = await start(client, max_frames=12)

    async def is_over() -> bool:
        return bool((await status(client, job_id))["status"] == "completed")

    await until(is_over)
    total = (await results(client, job_id))["total_results"]
    assert total >= 5

    # When a few are asked for, then they are the newest, in order of time
    newest = await results(client, job_id, limit=3)
    assert [result["id"] for result in newest["results"]] == [total - 2, total - 1, total]
    assert newest["total_results"] == total

    # And with after, those that follow
    following = await results(client, job_id, limit=2, after=2)
    assert [result["id"] for result in following["results"]] == [3, 4]
    assert (await results(client, job_id, after=total))["results"] == []


async def test_the_list_is_newest_first_and_counts_all_that_match(client: httpx.AsyncClient) -> None:
    # Given three jobs, one of them cancelled
    names = [await start(client, job_id=f"job-{number}") for number in range(3)]
    await client.delete(f"{API}/inference/cancel/{names[0]}")

    # When they are listed
    everything = (await client.get(f"{API}/inference/jobs")).json()
    assert [job["job_id"] for job in everything["jobs"]] == names[::-1]
    assert everything["total"] == 3
    fields = {"job_id", "status", "stream_ref", "prompt", "fps", "created_at", "frames_processed", "results_count"}
    assert fields <= set(everything["jobs"][0])

    # Then a filter and a page count what matches
    cancelled = (await client.get(f"{API}/inference/jobs", params={"status": "cancelled"})).json()
    assert ([job["job_id"] for job in cancelled["jobs"]], cancelled["total"]) == ([names[0]], 1)
    page = (await client.get(f"{API}/inference/jobs", params={"limit": 1, "offset": 1})).json()
    assert ([job["job_id"] for job in page["jobs"]], page["total"]) == ([names[1]], 3)


async def test_cancelling_works_once(client: httpx.AsyncClient) -> None:
    # Given a running job
    job_id = await start(client)

    # When it is cancelled, then the answer is the contract's, and the job is over
    answer = await client.delete(f"{API}/inference/cancel/{job_id}")
    assert (answer.status_code, answer.json()) == (200, {"message": f"Job {job_id} cancelled", "job_id": job_id})
    told = await status(client, job_id)
    assert told["status"] == "cancelled"
    assert told["completed_at"] is not None

    # And it cannot be cancelled again, nor can one that never was
    for name in (job_id, "never-was"):
        answer = await client.delete(f"{API}/inference/cancel/{name}")
        assert answer.status_code == 404
        assert answer.json()["error"] == f"Job {name} not found or cannot be cancelled"


async def test_only_so_many_jobs_run_at_once(client: httpx.AsyncClient) -> None:
    # Given as many jobs as may run
    for _ in range(3):
        await start(client)

    # When another is started, then it is refused in the seed's words
    answer = await client.post(START, json={"stream_ref": "demo:", "prompt": "q"})
    assert answer.status_code == 429
    assert answer.json()["error"] == "Maximum concurrent streams (3) reached"
    assert answer.headers["retry-after"]


@pytest.mark.parametrize("path", ["status/{}", "results/{}", "stream/{}", "jobs/{}/export"])
async def test_an_unknown_job_is_a_404(client: httpx.AsyncClient, path: str) -> None:
    # Given no such job, when it is asked for, then the answer says so
    answer = await client.get(f"{API}/inference/{path.format('never-was')}")
    assert answer.status_code == 404
    assert answer.json()["error"] == "Job never-was not found"


@pytest.mark.parametrize(
    "stream_ref",
    ["http://127.0.0.1/x.m3u8", "http://169.254.169.254/latest", "ftp://h/x", "concat:a|b", "freeroam:bus", "a b",
     "file:///etc/passwd", "file:../x", "camera:1", "gopher://h/", " ", "http://", "demo:x"],
)  # fmt: skip
async def test_a_reference_that_cannot_be_is_a_400(client: httpx.AsyncClient, stream_ref: str) -> None:
    # Given a reference that is malformed or forbidden, when a job is started on it, then it is refused at once
    answer = await client.post(START, json={"stream_ref": stream_ref, "prompt": "q"})
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) == {"error", "detail"}


async def test_a_job_needs_a_prompt_that_says_something(client: httpx.AsyncClient) -> None:
    # Given no global prompt
    for wish in ({"stream_ref": "demo:"}, {"stream_ref": "demo:", "prompt": "  "}):
        # When a job has none either, then it is refused
        assert (await client.post(START, json=wish)).status_code == 400


@pytest.mark.parametrize(
    "wish",
    [
        r'"prompt": "\ud800"',
        r'"prompt": "x", "tags": {"\ud800": "\udfff"}',
        r'"prompt": "x", "params": {"choices": ["\ud800"]}',
        '"prompt": "x", "params": {"seed": 1180591620717411303424}',
        '"prompt": "x", "fps": 1e-320',
        '"prompt": "x", "fps": NaN',
    ],
)
async def test_what_can_neither_be_stored_nor_asked_is_a_400(client: httpx.AsyncClient, wish: str) -> None:
    # Given text that is no text and numbers that no clock or model holds, when a job is to start with them, then the
    # caller is told, and no job was made that would take others down with it
    answer = await client.post(
        START, content=f'{{"stream_ref": "demo:", {wish}}}', headers={"Content-Type": "application/json"}
    )

    assert answer.status_code == 400, answer.text
    assert (await client.get(f"{API}/inference/jobs")).json()["total"] == 0


@pytest.mark.parametrize("given", ["abc", "-1", "1.5", "9" * 17, "9" * 5000])
async def test_a_position_that_is_no_id_is_a_400(client: httpx.AsyncClient, given: str) -> None:
    job_id = await start(client)

    answer = await client.get(f"{API}/inference/stream/{job_id}", headers={"Last-Event-ID": given})

    assert answer.status_code == 400, answer.text


async def test_patching_takes_hold_at_the_next_question(client: httpx.AsyncClient) -> None:
    # Given a running job
    job_id = await start(client)
    await has_results(client, job_id, 1)

    # When its prompt and rate are changed
    answer = await client.patch(f"{API}/inference/jobs/{job_id}", json={"prompt": "Count the cats", "fps": 10})
    assert answer.status_code == 200
    assert (answer.json()["prompt"], answer.json()["fps"]) == ("Count the cats", 10.0)

    # Then a later result was asked so
    async def was_asked_anew() -> bool:
        newest = (await results(client, job_id, limit=1))["results"][0]["metadata"]
        return bool((newest["prompt"], newest["prompt_version"]) == ("Count the cats", 2))

    await until(was_asked_anew)

    # And it can be paused and go on
    await client.patch(f"{API}/inference/jobs/{job_id}", json={"paused": True})
    assert (await status(client, job_id))["source"]["state"] == "paused"
    before = (await results(client, job_id))["total_results"]
    await client.patch(f"{API}/inference/jobs/{job_id}", json={"paused": False})
    await has_results(client, job_id, before + 2)

    # And one that is over, or never was, cannot be changed
    await client.delete(f"{API}/inference/cancel/{job_id}")
    assert (await client.patch(f"{API}/inference/jobs/{job_id}", json={"fps": 1})).status_code == 409
    assert (await client.patch(f"{API}/inference/jobs/never-was", json={"fps": 1})).status_code == 404


async def test_erasing_removes_all_of_a_job(client: httpx.AsyncClient) -> None:
    # Given a running job with results
    job_id = await start(client)
    await has_results(client, job_id, 1)

    # When it is erased, then nothing of it is left
    assert (await client.delete(f"{API}/inference/jobs/{job_id}")).status_code == 200
    assert (await client.get(f"{API}/inference/status/{job_id}")).status_code == 404
    assert (await client.delete(f"{API}/inference/jobs/{job_id}")).status_code == 404


async def test_an_export_holds_every_result_in_each_format(client: httpx.AsyncClient) -> None:
    # Given a job that is over
    job_id = await start(client)
    await has_results(client, job_id, 5)
    await client.delete(f"{API}/inference/cancel/{job_id}")
    total = (await results(client, job_id))["total_results"]

    # When it is exported, then each format holds all of it
    url = f"{API}/inference/jobs/{job_id}/export"
    as_json = await client.get(url)
    assert as_json.headers["content-type"].startswith("application/json")
    document = as_json.json()
    listed = document if isinstance(document, list) else document["results"]
    assert [result["id"] for result in listed] == list(range(1, total + 1))
    lines = (await client.get(url, params={"format": "jsonl"})).text.splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(range(1, total + 1))
    answer = await client.get(url, params={"format": "csv"})
    assert answer.headers["content-type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert {int(row["id"]) for row in rows} == set(range(1, total + 1))


async def test_capacity_says_what_is_used_and_free(client: httpx.AsyncClient) -> None:
    # Given one running job, when capacity is asked for, then it is counted
    await start(client)
    capacity = (await client.get(f"{API}/capacity")).json()
    assert capacity["streams"] == {"used": 1, "limit": 3, "free": 2}
    assert capacity["models"][0]["name"] == "fake"


# Streams


async def test_a_stream_gives_results_with_ids_and_ends_with_done(client: httpx.AsyncClient) -> None:
    # Given a job of a few frames, and somebody who listens from the start
    job_id = await start(client, max_frames=8)
    ids, last = [], None
    async with aconnect_sse(client, "GET", f"{API}/inference/stream/{job_id}") as source:
        assert source.response.headers["cache-control"] == "no-cache"
        async for event in source.aiter_sse():
            last = event
            if event.event == "result":
                assert json.loads(event.data)["id"] == int(event.id)
                ids.append(int(event.id))

    # Then each result came once, in order, and the end was told
    assert ids == list(range(1, len(ids) + 1))
    assert last is not None
    assert last.event == "done"
    assert json.loads(last.data)["status"] == "completed"

    # And who connects again goes on after what it had
    async with aconnect_sse(
        client, "GET", f"{API}/inference/stream/{job_id}", headers={"Last-Event-ID": "2"}
    ) as source:
        again = [event.id async for event in source.aiter_sse() if event.event == "result"]
    assert [int(event_id) for event_id in again] == ids[2:]

    # And an id that cannot be one is refused before the first event
    answer = await client.get(f"{API}/inference/stream/{job_id}", headers={"Last-Event-ID": "x"})
    assert answer.status_code == 400


async def test_a_socket_follows_many_jobs(client: httpx.AsyncClient) -> None:
    # Given two jobs and one socket
    jobs = {await start(client, max_frames=6), await start(client, max_frames=6)}
    address = f"ws://{client.base_url.host}:{client.base_url.port}{API}/inference/ws"
    told: dict[str, list[int]] = {job_id: [] for job_id in jobs}
    over: set[str] = set()
    async with websockets.connect(address) as socket:
        # When it subscribes to both, and to one that never was
        await socket.send(json.dumps({"subscribe": [*jobs, "never-was"], "after": dict.fromkeys(jobs, 1)}))
        errors = []
        while over != jobs:
            message = json.loads(await asyncio.wait_for(socket.recv(), 30))
            if message["event"] == "result":
                told[message["job_id"]].append(message["id"])
                assert message["data"]["id"] == message["id"]
            elif message["event"] == "done":
                over.add(message["job_id"])
            elif message["event"] == "error":
                errors.append(message)

        # Then each job's results came in order, from after the one named
        for ids in told.values():
            assert ids == list(range(2, len(ids) + 2))
        assert [error["job_id"] for error in errors] == ["never-was"]

        # And nonsense is answered, not punished
        await socket.send("nonsense")
        assert json.loads(await asyncio.wait_for(socket.recv(), 30))["event"] == "error"


@pytest.mark.parametrize("origin", ["http://evil.example", "http://["])
async def test_a_socket_of_a_foreign_page_is_refused(client: httpx.AsyncClient, origin: str) -> None:
    # Given a page of another origin, when it opens a socket, then it is refused
    address = f"ws://{client.base_url.host}:{client.base_url.port}{API}/inference/ws"
    with pytest.raises(websockets.InvalidStatus) as raised:
        await websockets.connect(address, origin=websockets.Origin(origin))
    assert raised.value.response.status_code == 403


# Prompts


async def test_prompts_have_versions_in_scopes(client: httpx.AsyncClient) -> None:
    # Given no prompt
    assert (await client.get(f"{API}/prompt/current")).status_code == 404

    # When the global one is set twice
    first = (await client.post(f"{API}/prompt/update", json={"prompt": "Detect all people"})).json()
    second = (await client.post(f"{API}/prompt/update", json={"prompt": "Detect all cats"})).json()

    # Then versions count up
    assert set(first) == {"prompt", "version", "timestamp", "created_at", "updated_at", "job_id"}
    assert (second["version"], second["job_id"]) == (first["version"] + 1, None)
    assert (await client.get(f"{API}/prompt/current")).json() == second
    history = (await client.get(f"{API}/prompt/history")).json()
    assert [prompt["prompt"] for prompt in history["history"]] == ["Detect all cats", "Detect all people"]
    assert history["total"] == 2

    # And a job without its own follows it, one with its own does not
    follower = await start(client, prompt=None)
    loner = await start(client, prompt="Detect all dogs")
    assert (await client.get(f"{API}/prompt/current", params={"job_id": follower})).json()[
        "prompt"
    ] == "Detect all cats"
    third = (await client.post(f"{API}/prompt/update", json={"prompt": "Detect all birds"})).json()

    async def follows() -> bool:
        page = await results(client, follower, limit=1)
        return bool(page["results"] and page["results"][0]["metadata"]["prompt"] == "Detect all birds")

    await until(follows)
    assert (await results(client, follower, limit=1))["results"][0]["metadata"]["prompt_version"] == third["version"]
    assert (await client.get(f"{API}/prompt/current", params={"job_id": loner})).json()["prompt"] == "Detect all dogs"

    # And what is not to be preserved leaves the history, its number does not come again
    fourth = await client.post(f"{API}/prompt/update", json={"prompt": "Detect all fish", "preserve_previous": False})
    assert fourth.json()["version"] == third["version"] + 1
    texts = [prompt["prompt"] for prompt in (await client.get(f"{API}/prompt/history")).json()["history"]]
    assert "Detect all birds" not in texts


@pytest.mark.parametrize("body", [{}, {"prompt": ""}, {"prompt": " "}, {"prompt": "q", "colour": 1}, {"prompt": 5}])
async def test_a_prompt_that_cannot_be_is_a_400(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    # Given a wrong body, when it is sent, then it is refused
    assert (await client.post(f"{API}/prompt/update", json=body)).status_code == 400


async def test_a_prompt_for_no_job_is_a_404(client: httpx.AsyncClient) -> None:
    # Given no such job, when it is given a prompt, then it is refused
    answer = await client.post(f"{API}/prompt/update", json={"prompt": "q", "job_id": "never-was"})
    assert answer.status_code == 404

    # And what it is or was asked is nobody's
    for path in ("current", "history"):
        answer = await client.get(f"{API}/prompt/{path}", params={"job_id": "nobody"})
        assert (answer.status_code, answer.json()["error"]) == (404, "Job nobody not found")


# Secrets and metrics


async def test_credentials_of_a_reference_are_never_shown(client: httpx.AsyncClient) -> None:
    # Given a job on a reference with credentials
    ref = "rtsp://admin:hunter2@camera.invalid/1?token=hunter2"
    job_id = await start(client, stream_ref=ref)

    async def has_tried() -> bool:
        return (await status(client, job_id))["source"]["last_error"] is not None

    await until(has_tried)

    # When everything about it is asked for, then the credentials are in none of it
    for path in (f"status/{job_id}", "jobs", f"results/{job_id}", f"jobs/{job_id}/export"):
        assert "hunter2" not in (await client.get(f"{API}/inference/{path}")).text


async def test_metrics_are_for_prometheus_and_for_people(client: httpx.AsyncClient) -> None:
    # Given a running job, when metrics are asked for, then they come as text and as JSON
    job_id = await start(client)
    await has_results(client, job_id, 1)
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'freeroam_jobs{status="running"} 1.0' in answer.text
    assert 'freeroam_results_total{model="fake",version="1"}' in answer.text
    assert "fake" in (await client.get("/metrics", params={"format": "json"})).json()
    assert "fake" in (await client.get("/metrics", headers={"accept": "application/json"})).json()


# Models


PICTURE = base64.b64encode(Path(__file__).parents[2].joinpath("docs/images/demo.jpg").read_bytes()).decode()


async def test_a_model_answers_as_a_whole(client: httpx.AsyncClient) -> None:
    # Given a model that speaks, when it is asked with every field of the contract
    answer = await client.post(
        "/infer",
        json={"model": "gpt2", "prompt": "Once upon a time", "max_tokens": 5, "temperature": 0.7, "top_p": 0.9,
              "priority": "HIGH", "client_id": "kiosk", "images": [PICTURE], "stop": ["."], "seed": 7, "stream": False},
    )  # fmt: skip

    # Then each token and the whole text are there
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert {"request_id", "model", "tokens", "text", "usage", "predictions"} <= set(told)
    assert (told["model"], told["tokens"]) == ("gpt2", [f"word{index} " for index in range(5)])
    assert told["text"] == "".join(told["tokens"])
    assert told["usage"] == {"prompt_tokens": 4, "completion_tokens": 5, "total_tokens": 9}
    assert told["finish_reason"] == "length"
    assert told["request_id"] == answer.headers["x-request-id"]


async def test_a_model_answers_piece_by_piece(client: httpx.AsyncClient) -> None:
    # Given a model that speaks, when it is asked for a stream
    pieces: list[dict[str, Any]] = []
    async with aconnect_sse(client, "POST", "/infer_stream", json={"model": "gpt2", "prompt": "Once"}) as source:
        assert source.response.status_code == 200
        async for event in source.aiter_sse():
            pieces.append({"event": event.event, **event.json()})

    # Then every index is accounted for, and the end says why and how much
    *spoken, done = pieces
    expected = 0
    for piece in spoken:
        assert piece["event"] == "message"
        assert {"request_id", "token", "index"} <= set(piece)
        assert piece["index"] == expected
        expected += piece.get("count", 1)
    assert expected == 8
    assert "".join(piece["token"] for piece in spoken) == "".join(f"word{index} " for index in range(8))
    assert (done["event"], done["finish_reason"], done["usage"]["completion_tokens"]) == ("done", "stop", 8)


async def test_a_detector_is_asked_about_pictures_too(client: httpx.AsyncClient) -> None:
    # Given a model that says nothing piece by piece, when it is asked about a picture at both doors
    whole = (
        await client.post("/infer", json={"prompt": "what", "images": [f"data:image/jpeg;base64,{PICTURE}"]})
    ).json()
    streamed = await client.post("/infer", json={"prompt": "what", "images": [PICTURE], "stream": True})

    # Then its text is one piece, and what it saw is there
    assert whole["model"] == "fake"
    assert whole["text"] == "1 frames, asked: what"
    assert whole["predictions"][0]["label"] == "thing"
    assert len(whole["predictions"][0]["bbox"]) == 4
    assert streamed.text.count("data: ") == 2
    assert "event: done" in streamed.text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"prompt": "x", "model": "never-was"}, 404),
        ({"prompt": "x", "model": "gpt2@never-was"}, 404),
        ({"prompt": "x", "images": ["http://127.0.0.1/a.jpg"]}, 400),
        ({"prompt": "x", "images": ["R0lGODlhAQABAAAAACw="]}, 415),
        ({"prompt": "x", "images": ["/9j/4AAQSkZJRgABAQ=="]}, 400),
        ({"prompt": "x", "max_tokens": 100_000}, 400),
        ({"prompt": "\ud800"}, 400),
        ({"prompt": "fail please", "model": "gpt2"}, 500),
    ],
)
@pytest.mark.parametrize("path", ["/infer", "/infer_stream"])
async def test_what_a_model_cannot_be_asked_is_a_status(
    client: httpx.AsyncClient, path: str, body: dict[str, Any], status: int
) -> None:
    answer = await client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})

    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error", "detail"}


async def test_status_and_models_say_what_there_is(client: httpx.AsyncClient) -> None:
    status = (await client.get("/status")).json()
    models = (await client.get("/models")).json()

    assert {"connections", "streams", "models", "queues", "uptime_seconds", "draining"} <= set(status)
    assert status["models"] == {"fake@1": "ready", "gpt2@1.0.0": "ready"}
    assert status["draining"] is False
    assert models["total_models"] == 2
    assert set(models["models"]) == {"fake", "gpt2"}


async def test_metrics_of_models_are_milliseconds_and_shares(client: httpx.AsyncClient) -> None:
    # Given a model that has answered, when metrics are asked for as JSON, then each model has the contract's fields
    await client.post("/infer", json={"model": "gpt2", "prompt": "x"})
    told = (await client.get("/metrics", params={"format": "json"})).json()["gpt2"]
    assert {"p50", "p95", "p99", "throughput", "error_rate"} <= set(told)
    assert told["p50"] > 0

    # And as text under the names of the field
    text = (await client.get("/metrics")).text
    for name in (
        "requests_total", "requests_running", "requests_waiting", "time_to_first_token_seconds_bucket",
        "batch_size_sum", "inter_token_latency_seconds_bucket",
        "e2e_request_latency_seconds_bucket", "prompt_tokens_total",
        "generation_tokens_total", "queue_time_seconds_bucket", "batch_wait_seconds_bucket",
        "streams_active", "model_state", "preprocess_seconds_count",
        "event_loop_lag_seconds_count",
    ):  # fmt: skip
        assert f"freeroam_{name}" in text, name
    for priority in ("HIGH", "NORMAL", "LOW"):
        assert f'freeroam_requests_waiting{{model="gpt2",priority="{priority}",version="1.0.0"}} 0.0' in text


async def test_a_model_is_loaded_swapped_shared_and_unloaded_at_run_time(client: httpx.AsyncClient) -> None:
    # Given a version loaded at run time
    made = await client.post("/api/v1/models", json={"name": "new", "version": "1", "model_type": "fake"})
    assert made.status_code == 201, made.text
    assert (made.json()["state"], made.json()["version"]) == ("ready", "1")
    again = await client.post("/api/v1/models", json={"name": "new", "version": "1", "model_type": "fake"})
    assert again.status_code == 409

    # When another is loaded beside it without traffic, and then given all of it
    wish = {"name": "new", "version": "2", "model_type": "fake", "keep_previous": True, "options": {"label": "novelty"}}
    assert (await client.post("/api/v1/models", json=wish)).status_code == 201
    assert (await client.post("/infer", json={"model": "new", "prompt": "x"})).json()["version"] == "1"
    shared = await client.put("/api/v1/models/new/traffic", json={"2": 1})
    assert shared.json() == {"name": "new", "traffic": {"2": 1.0}}

    # Then it answers, each by its name still does, and the old one can go
    told = (await client.post("/infer", json={"model": "new", "prompt": "x"})).json()
    assert (told["version"], told["predictions"][0]["label"]) == ("2", "novelty")
    assert (await client.post("/infer", json={"model": "new@1", "prompt": "x"})).json()["version"] == "1"
    changed = await client.patch("/api/v1/models/new", json={"max_batch_size": 4, "max_batch_wait_ms": 0})
    assert changed.status_code == 200
    health = (await client.get("/api/v1/models/new/health")).json()
    assert (health["healthy"], health["version"]) == (True, "2")
    for version in ("1", "2"):
        assert (await client.delete(f"/api/v1/models/new/versions/{version}")).status_code == 200
    assert (await client.get("/api/v1/models/new/health")).status_code == 404


async def test_a_model_that_does_not_load_leaves_everything_as_it_was(client: httpx.AsyncClient) -> None:
    wish = {"name": "gpt2", "version": "bad", "model_type": "fake", "options": {"load_error": "no weights here"}}
    answer = await client.post("/api/v1/models", json=wish)

    assert answer.status_code == 400
    assert "no weights here" in answer.json()["error"]
    assert (await client.post("/infer", json={"model": "gpt2", "prompt": "x"})).json()["version"] == "1.0.0"
    assert "no weights here" in (await client.get("/api/v1/models/gpt2/health")).json()["load_error"]


async def test_the_description_shows_every_error_shape(client: httpx.AsyncClient) -> None:
    # Given the OpenAPI description
    description = (await client.get("/openapi.json")).json()

    # Then validation is 400 everywhere, and every refusal has the one shape
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            assert "422" not in operation["responses"], (method, path)
            if not path.startswith("/health"):
                shape = operation["responses"]["400"]["content"]["application/json"]["schema"]
                door = {"v1": "OpenAIProblem", "v2": "OipProblem"}.get(path.split("/")[1], "Problem")
                assert shape == {"$ref": f"#/components/schemas/{door}"}, (method, path)
    assert "examples" in description["paths"][START]["post"]["requestBody"]["content"]["application/json"]
