"""Every error has one shape, says what was wrong, and tells nothing that it must not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest

from freeroam.api.application import create_application
from freeroam.api.bounds import AnswerDeadline, BodyLimit, ConnectionLimit
from freeroam.api.parts import ApiConfig, Parts
from freeroam.api.problems import ProblemResponse, explain_validation, grpc_code_of, problem_of, status_of
from freeroam.observability.metrics import Metrics
from freeroam.testing import FakeClock
from freeroam.vocabulary import errors

Connect = Callable[..., httpx.AsyncClient]
START = "/api/v1/inference/start"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "stream_ref is required"),
        ({"stream_ref": ""}, "stream_ref cannot be empty"),
        ({"stream_ref": "demo:", "colour": 1}, "Unknown field colour"),
        ({"stream_ref": "demo:", "fps": -1}, "fps: input should be greater than or equal to 0.00001"),
        ({"stream_ref": "demo:", "fps": "fast"}, "fps: input should be a valid number"),
        ({"stream_ref": "demo:", "source": {"rtsp_flags": "x"}}, "Unknown field source.rtsp_flags"),
        ({"stream_ref": "demo:", "params": {"threshold": 2}}, "params.threshold: input should be less than"),
        ({"stream_ref": "demo:", "job_id": "a b"}, "job_id: string should match pattern"),
        ([], "The body must be a JSON object"),
    ],
)
async def test_validation_is_a_400_that_names_the_field(connect: Connect, body: Any, message: str) -> None:
    # Given a wrong body, when it is sent
    answer = await connect().post(START, json=body)

    # Then the message says which field and what is wrong with it
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(message)
    detail = answer.json()["detail"]
    assert detail["code"] == ("unknown_field" if message.startswith("Unknown field") else "invalid_input")
    assert set(detail["problems"][0]) == {"field", "message"}


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", b"nonsense", b'{"stream_ref": NaN}', b"[" * 100_000])
async def test_what_is_no_json_is_a_400(connect: Connect, content: bytes) -> None:
    # Given bytes that are no JSON object, when they are sent, then the shape of the answer is the contract's
    answer = await connect().post(START, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert set(answer.json()) == {"error", "detail"}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/api/v1/inference/jobs?status=odd", "status: input should be 'pending'"),
        ("/api/v1/inference/jobs?stauts=running", "Unknown query parameter stauts; known are limit, offset, status"),
        ("/api/v1/inference/results/a?limit=0", "limit: input should be greater than or equal to 1"),
        ("/api/v1/inference/results/a?limit=1001", "limit: input should be less than or equal to 1000"),
        ("/api/v1/inference/results/a?after=x", "after: input should be a valid integer"),
        ("/api/v1/inference/jobs/a/export?format=xml", "format: input should be 'json', 'csv' or 'jsonl'"),
        ("/health?verbose=1", "Unknown query parameter verbose"),
    ],
)
async def test_wrong_query_parameters_are_a_400(connect: Connect, path: str, message: str) -> None:
    # Given a wrong query, when it is sent, then the message names the parameter
    answer = await connect().get(path)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(message)


async def test_unknown_paths_and_methods_have_the_shape_too(connect: Connect) -> None:
    # Given paths and methods that are not there, then the answers have the shape
    client = connect()
    for method, path, status in [("GET", "/nowhere", 404), ("PUT", START, 405), ("GET", "/health/", 404)]:
        answer = await client.request(method, path)
        assert answer.status_code == status
        assert set(answer.json()) == {"error", "detail"}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/infer", {"error": "There is no WebSocket at /infer", "detail": None}),
        ("/nowhere", {"error": "There is no WebSocket at /nowhere", "detail": None}),
        ("/v2/models/a/infer", {"error": "There is no WebSocket at /v2/models/a/infer"}),
        (
            "/v1/completions",
            {
                "error": {
                    "message": "There is no WebSocket at /v1/completions",
                    "type": "invalid_request_error",
                    "param": None,
                    "code": None,
                }
            },
        ),
    ],
)
async def test_a_websocket_that_nothing_takes_is_denied_in_the_doors_words(
    parts: Parts, clock: FakeClock, path: str, message: dict[str, Any]
) -> None:
    # Given a route of another kind, or none, when a WebSocket is opened there
    app = create_application(ApiConfig(), clock, parts.metrics)
    app.state.parts = parts
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": "websocket.connect"}

    scope = {
        "type": "websocket", "path": path, "root_path": "", "query_string": b"", "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 4711), "server": ("127.0.0.1", 80), "scheme": "ws", "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }  # fmt: skip
    await app(scope, receive, send)

    # Then the answer is a 404 in the shape of that door
    assert sent[0]["status"] == 404
    assert json.loads(sent[1]["body"]) == message


async def test_a_defect_is_a_500_without_a_trace_and_with_an_id_to_look_up(connect: Connect, parts: Parts) -> None:
    # Given a part that fails in a way nobody foresaw
    async def fail(job_id: str) -> None:
        raise ZeroDivisionError("rtsp://admin:hunter2@cam/")

    parts.desk.status = fail  # type: ignore[method-assign,assignment]

    # When it is asked
    answer = await connect().get("/api/v1/inference/status/a", headers={"x-request-id": "look-me-up"})

    # Then the body tells nothing but the id
    assert answer.status_code == 500
    assert answer.json()["detail"] == {"code": "internal", "request_id": "look-me-up"}
    assert answer.headers["x-request-id"] == "look-me-up"
    assert "ZeroDivision" not in answer.text
    assert "hunter2" not in answer.text


@pytest.mark.parametrize("given", ["", "a b", "x" * 200, "ä"])
async def test_an_unusable_request_id_is_replaced(connect: Connect, given: str) -> None:
    # Given an id that must not go into a log line, when it is sent, then another is made
    answer = await connect().get("/health/live", headers={"x-request-id": given.encode()})
    assert len(answer.headers["x-request-id"]) == 32


async def test_while_the_service_stops_nothing_is_admitted(connect: Connect, parts: Parts) -> None:
    # Given a service that drains
    parts.lifecycle.begin_drain()
    client = connect()

    # When a job is started, then it is refused for now
    answer = await client.post(START, json={"stream_ref": "demo:", "prompt": "q"})
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1

    # And health says so
    assert (await client.get("/health")).json()["status"] == "draining"
    ready = await client.get("/health/ready")
    assert (ready.status_code, ready.json()["checks"]["accepting"]) == (503, False)


async def test_a_service_whose_further_models_are_loading_is_not_ready(connect: Connect, parts: Parts) -> None:
    # Given a default model that answers, and another of the start that does not yet
    parts.engine.has_started = False
    ready = await connect().get("/health/ready")
    assert (ready.status_code, ready.json()["checks"]) == (
        503,
        {"model_loaded": True, "models_started": False, "store": True, "accepting": True},
    )

    # When it is there too, then work may come
    parts.engine.has_started = True
    assert (await connect().get("/health/ready")).status_code == 200


def test_every_error_of_the_tree_has_a_status() -> None:
    # Given every class of the tree
    statuses = {
        errors.InvalidInput: 400, errors.ForbiddenReference: 400, errors.UnknownField: 400,
        errors.Unauthenticated: 401, errors.PermissionDenied: 403, errors.NotFound: 404, errors.Conflict: 409,
        errors.TooLarge: 413, errors.UnsupportedMedia: 415, errors.RateLimited: 429, errors.TooManyStreams: 429,
        errors.Unavailable: 503, errors.QueueFull: 503, errors.Draining: 503, errors.ModelNotReady: 503,
        errors.DeadlineExceeded: 504, errors.StoreError: 503, errors.FreeroamError: 500,
    }  # fmt: skip
    for kind, status in statuses.items():
        # Then it is the contract's
        assert status_of(kind("x")) == status, kind

    # And those who may come back are told when
    assert dict(problem_of(errors.TooManyStreams("x")).raw_headers)[b"retry-after"] == b"1"
    assert dict(problem_of(errors.StoreError("x")).raw_headers)[b"retry-after"] == b"1"


@pytest.mark.parametrize(
    ("code", "status", "grpc_code"),
    [
        ("upstream_unavailable", 503, "UNAVAILABLE"),
        ("upstream_rate_limited", 503, "UNAVAILABLE"),
        ("upstream_failed", 503, "UNAVAILABLE"),
        ("upstream_timeout", 504, "DEADLINE_EXCEEDED"),
        ("upstream_auth", 500, "INTERNAL"),
        ("model_failed", 500, "INTERNAL"),
    ],
)
def test_a_server_elsewhere_that_fails_is_no_defect_of_ours(code: str, status: int, grpc_code: str) -> None:
    # Given a model that is a server elsewhere, when it fails, then each door says whether asking again may help
    error = errors.ModelError("http://far/v1 failed", code=code)
    assert (status_of(error), grpc_code_of(error)) == (status, grpc_code)
    assert (b"retry-after" in dict(problem_of(error).raw_headers)) == (status == 503)


def test_an_error_body_can_say_anything_a_caller_sent() -> None:
    # Given what JSON writers stumble over, then a body is made all the same
    assert b"error" in ProblemResponse(400, "half \ud800", {"great": 2**80}).body


def test_values_are_not_repeated_in_validation_messages() -> None:
    # Given a mistake in a field that holds a secret
    problems = [{"type": "string_type", "loc": ("body", "source", "headers", "x"), "msg": "wrong", "input": "hunter2"}]

    # Then the secret is not in what is said
    assert "hunter2" not in str(explain_validation(problems))


async def ask(app: Any, body: list[bytes], headers: list[tuple[bytes, bytes]] | None = None) -> list[dict[str, Any]]:
    """Call an ASGI application with a body in pieces and return what it sent."""
    sent: list[dict[str, Any]] = []
    pieces = iter(body)

    async def receive() -> dict[str, Any]:
        piece = next(pieces, None)
        return {"type": "http.request", "body": piece or b"", "more_body": piece is not None}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/x", "headers": headers or [], "extensions": {}}
    await app(scope, receive, send)
    return sent


async def test_a_body_without_a_length_is_cut_when_it_grows_too_large(connect: Connect) -> None:
    # Given a limit, when a body comes in pieces without saying how long it is
    async def endless() -> AsyncIterator[bytes]:
        yield b'{"stream_ref": "'
        for _ in range(100):
            yield b"x" * 1000

    answer = await connect(max_body_bytes=10_000).post(
        START, content=endless(), headers={"content-type": "application/json"}
    )

    # Then it is refused while it is read
    assert answer.status_code == 413
    assert "MAX_BODY_BYTES" in answer.json()["error"]


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    # Given a length over the limit
    async def never(*_: Any) -> None:
        raise AssertionError("the body was read")

    # When it is announced, then the answer comes before the body
    sent = await ask(BodyLimit(never, 10), [], [(b"content-length", b"11")])
    assert sent[0]["status"] == 413


async def test_too_many_connections_are_refused_and_health_is_not() -> None:
    # Given an application that is full
    gate = asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if not scope["path"].startswith("/health"):
            await gate.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    app = ConnectionLimit(slow, 1, Metrics())
    first = asyncio.create_task(ask(app, []))
    await asyncio.sleep(0)

    # When another comes, then it is told to come back
    refused = await ask(app, [])
    assert refused[0]["status"] == 503
    assert dict(refused[0]["headers"])[b"retry-after"] == b"2"

    # And health is answered
    sent: list[dict[str, Any]] = []

    async def keep(message: dict[str, Any]) -> None:
        sent.append(message)

    await app({"type": "http", "path": "/health/live", "headers": []}, None, keep)  # type: ignore[arg-type]
    assert sent[0]["status"] == 200

    # And there is room again when the first is through
    gate.set()
    await first
    assert app.open == 0


async def test_an_answer_that_does_not_begin_in_time_is_a_504() -> None:
    # Given an application that never answers
    async def hang(*_: Any) -> None:
        await asyncio.Event().wait()

    # Then the caller is told
    sent = await ask(AnswerDeadline(hang, 0.01), [])
    assert sent[0]["status"] == 504


async def test_a_stream_may_go_on_after_the_deadline() -> None:
    # Given an application that begins in time and goes on for longer
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.05)
        await send({"type": "http.response.body", "body": b"x"})

    # Then nobody cuts it
    sent = await ask(AnswerDeadline(stream, 0.01), [])
    assert sent[-1]["body"] == b"x"
