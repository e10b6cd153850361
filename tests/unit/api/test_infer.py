"""The product's own doors: what they take, refuse and answer, and what becomes of a caller that goes away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from freeroam.api.application import create_application
from freeroam.api.inference_calls import BACKSTOP_S
from freeroam.api.parts import ApiConfig, Parts
from freeroam.security.keys import Key, Right, digest_of
from freeroam.testing import FakeClock
from freeroam.vocabulary.errors import (
    DeadlineExceeded,
    Draining,
    FreeroamError,
    ModelError,
    ModelNotReady,
    NotFound,
    QueueFull,
)
from freeroam.vocabulary.inference import Priority
from tests.unit.api.conftest import TalkingEngine
from tests.waiting import until

Connect = Callable[..., httpx.AsyncClient]
KEY = "robot-key-0123456789"


def events(text: str) -> list[tuple[str, Any]]:
    """Return the events of a stream: name and data."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
        if fields:
            found.append((fields.get("event", ""), json.loads(fields["data"])))
    return found


# A whole answer


async def test_a_whole_answer_has_every_field(connect: Connect, engine: TalkingEngine) -> None:
    # Given a model, when it is asked with everything that may be said
    async with connect() as client:
        answer = await client.post(
            "/infer",
            json={"model": "gpt2", "prompt": "Once", "max_tokens": 4, "temperature": 0.7, "top_p": 0.9, "seed": 1,
                  "stop": ["."], "priority": "HIGH", "client_id": "kiosk", "threshold": 0.2, "choices": ["yes", "no"]},
            headers={"X-Request-ID": "mine-1"},
        )  # fmt: skip

    # Then the answer is the contract's
    assert answer.status_code == 200
    assert answer.json() == {
        "request_id": "mine-1",
        "model": "gpt2",
        "version": "7",
        "tokens": ["Once ", "upon ", "a ", "time"],
        "text": "Once upon a time",
        "finish_reason": "length",
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        "predictions": [{"label": "cat", "confidence": 0.5, "bbox": [0, 0, 4, 4]}],
    }
    assert answer.headers["x-request-id"] == "mine-1"

    # And the model was asked just that
    asked = engine.asked[0]
    assert (asked.request_id, asked.model, asked.prompt) == ("mine-1", "gpt2", "Once")
    assert asked.priority is Priority.HIGH
    assert asked.lane == "127.0.0.1/kiosk"
    assert asked.params.model_dump(exclude_none=True) == {
        "max_tokens": 4, "temperature": 0.7, "top_p": 0.9, "seed": 1, "stop": ["."], "threshold": 0.2,
        "choices": ["yes", "no"],
    }  # fmt: skip


async def test_what_else_a_model_tells_is_shown_at_both_doors(connect: Connect, engine: TalkingEngine) -> None:
    # Given an ensemble that tells what its gate saw
    engine.extra = {"gate": {"passed": True, "model": "eye@1", "then": "mouth@2"}}
    async with connect() as client:
        # When it is asked for a whole answer, and for a spoken one
        whole = await client.post("/infer", json={"prompt": "Once"})
        spoken = await client.post("/infer_stream", json={"prompt": "Once"})

    # Then both say so
    assert whole.json()["metadata"] == engine.extra
    assert events(spoken.text)[-1][1]["metadata"] == engine.extra


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "prompt is required"),
        ({"prompt": ""}, "prompt cannot be empty"),
        ({"prompt": " \n"}, "prompt cannot be empty"),
        ({"prompt": "x" * 101}, "MAX_PROMPT_CHARS"),
        ({"prompt": "x", "max_tokens": 65}, "MAX_TOKENS"),
        ({"prompt": "x", "max_tokens": 0}, "max_tokens"),
        ({"prompt": "x", "temperature": 2.5}, "temperature"),
        ({"prompt": "x", "top_p": 0}, "top_p"),
        ({"prompt": "x", "priority": "URGENT"}, "priority"),
        ({"prompt": "x", "priority": 0}, "priority"),
        ({"prompt": "x", "stop": ["a"] * 17}, "stop"),
        ({"prompt": "x", "client_id": "c" * 129}, "client_id"),
        ({"prompt": "x", "images": ["http://cam/1.jpg"]}, "is an address"),
        ({"prompt": "x", "images": ["data:image/jpeg,x"]}, "without base64"),
        ({"prompt": "x", "images": ["%%%"]}, "no base64"),
        ({"prompt": "x", "images": ["aGk="] * 3}, "MAX_IMAGES"),
        ({"prompt": "x", "beams": 4}, "Unknown field beams"),
        ([], "must be a JSON object"),
    ],
)
@pytest.mark.parametrize("path", ["/infer", "/infer_stream"])
async def test_what_cannot_be_asked_is_a_400_that_says_why(
    connect: Connect, engine: TalkingEngine, path: str, body: Any, message: str
) -> None:
    # Given small limits, when something over them or unknown is asked, then it is refused in words before any work
    async with connect(max_prompt_chars=100, max_tokens=64, max_images=2) as client:
        answer = await client.post(path, json=body)

    assert answer.status_code == 400, answer.text
    assert message in answer.json()["error"]
    assert engine.asked == []


@pytest.mark.parametrize("path", ["/infer", "/infer_stream"])
async def test_only_json_is_read_and_no_query_parameters(connect: Connect, engine: TalkingEngine, path: str) -> None:
    async with connect() as client:
        as_text = await client.post(path, content='{"prompt": "x"}', headers={"Content-Type": "text/plain"})
        broken = await client.post(path, content='{"prompt"', headers={"Content-Type": "application/json"})
        misspelled = await client.post(f"{path}?stream=true", json={"prompt": "x"})
        looked = await client.get(path)

    assert [answer.status_code for answer in (as_text, broken, misspelled, looked)] == [400, 400, 400, 405]
    assert "Content-Type: application/json" in as_text.json()["error"]
    assert misspelled.json()["error"] == "Unknown query parameter stream"
    assert engine.asked == []


@pytest.mark.parametrize(
    ("failure", "status", "retry_after"),
    [
        (NotFound("Model nope not found"), 404, None),
        (QueueFull("1024 requests wait", retry_after_s=3.0), 503, "3"),
        (ModelNotReady("model has failed", retry_after_s=9.0), 503, "9"),
        (Draining("the service is stopping"), 503, "1"),
        (DeadlineExceeded("the request's deadline passed"), 504, None),
        (ModelError("RuntimeError: out of order"), 500, None),
    ],
)
@pytest.mark.parametrize("path", ["/infer", "/infer_stream"])
async def test_a_refusal_is_a_status_before_the_first_event(
    connect: Connect, engine: TalkingEngine, path: str, failure: FreeroamError, status: int, retry_after: str | None
) -> None:
    # Given an engine that refuses, when it is asked at either door, then the caller has a real status, never a 200
    engine.failure = failure
    async with connect() as client:
        answer = await client.post(path, json={"prompt": "x"})

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"] == failure.message
    assert answer.headers.get("retry-after") == retry_after


async def test_while_the_service_stops_nothing_is_admitted(
    connect: Connect, engine: TalkingEngine, parts: Parts
) -> None:
    parts.lifecycle.begin_drain()
    async with connect() as client:
        answer = await client.post("/infer", json={"prompt": "x"})

    assert (answer.status_code, engine.asked) == (503, [])
    assert answer.headers["retry-after"]


async def test_a_key_lowers_priorities_and_gives_the_lane(connect: Connect, engine: TalkingEngine) -> None:
    # Given a key that may ask at NORMAL at the highest
    key = Key("robot", digest_of(KEY), rights=frozenset({Right.RUN}), highest_priority=Priority.NORMAL)
    async with connect(ApiConfig(keys=(key,))) as client:
        headers = {"Authorization": f"Bearer {KEY}"}

        # When it wishes for more, for less, by field and by header
        for body, more in (
            ({"priority": "high"}, {}), ({}, {"X-Priority": "HIGH"}), ({"priority": "LOW"}, {"X-Priority": "HIGH"}),
            ({}, {}), ({}, {"X-Priority": "low"}),
        ):  # fmt: skip
            assert (
                await client.post("/infer", json={"prompt": "x", **body}, headers={**headers, **more})
            ).status_code == 200
        unknown = await client.post("/infer", json={"prompt": "x"}, headers={**headers, "X-Priority": "7"})

    # Then the field goes before the header, and the key's highest bounds both
    assert [asked.priority.name for asked in engine.asked] == ["NORMAL", "NORMAL", "LOW", "NORMAL", "LOW"]
    assert {asked.lane for asked in engine.asked} == {"key:robot"}
    assert unknown.status_code == 400


@pytest.mark.parametrize(("given", "limit_s"), [(None, 30.0), ("500", 0.5), ("90000", 30.0)])
async def test_the_deadline_is_the_smaller_of_the_servers_and_the_callers(
    connect: Connect, engine: TalkingEngine, clock: FakeClock, given: str | None, limit_s: float
) -> None:
    async with connect() as client:
        await client.post("/infer", json={"prompt": "x"}, headers={"X-Request-Timeout-Ms": given} if given else {})

    assert engine.asked[0].deadline_monotonic_s == clock.monotonic_s() + limit_s


@pytest.mark.parametrize("given", ["0", "-5", "1.5", "soon", "", "9" * 40])
async def test_a_time_limit_that_is_none_is_a_400(connect: Connect, engine: TalkingEngine, given: str) -> None:
    async with connect() as client:
        answer = await client.post("/infer", json={"prompt": "x"}, headers={"X-Request-Timeout-Ms": given})

    assert answer.status_code == 400
    assert "X-Request-Timeout-Ms" in answer.json()["error"]


async def test_an_answer_that_does_not_begin_in_time_is_a_504(connect: Connect, engine: TalkingEngine) -> None:
    # Given an engine that keeps still, and callers who wait for next to nothing
    engine.goes_on.clear()
    engine.pieces = [engine.pieces[0]] * 2
    async with connect(request_timeout_s=0.02) as client:
        # When they ask, then they are told, and the engine is let go
        answer = await asyncio.wait_for(client.post("/infer", json={"prompt": "x"}), 20 + BACKSTOP_S)

    assert answer.status_code == 504
    await until(lambda: engine.left == 1)


# An answer that is spoken


@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/infer_stream", {}, {}),
        ("/infer", {"stream": True}, {}),
        ("/infer", {}, {"Accept": "text/event-stream"}),
    ],
)
async def test_an_answer_comes_piece_by_piece_and_its_end_is_told(
    connect: Connect, engine: TalkingEngine, path: str, body: dict[str, Any], headers: dict[str, str]
) -> None:
    # Given a model that speaks, when it is asked for a stream in any of the ways
    async with connect() as client:
        answer = await client.post(
            path, json={"model": "gpt2", "prompt": "x", **body}, headers={**headers, "X-Request-ID": "r1"}
        )

    # Then each piece has its index, merged ones their count, and the end usage and reason
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert events(answer.text) == [
        ("", {"request_id": "r1", "token": "Once ", "index": 0}),
        ("", {"request_id": "r1", "token": "upon a ", "index": 1, "count": 2}),
        ("", {"request_id": "r1", "token": "time", "index": 3}),
        (
            "done",
            {
                "request_id": "r1",
                "model": "gpt2",
                "version": "7",
                "finish_reason": "length",
                "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
                "predictions": [{"label": "cat", "confidence": 0.5, "bbox": [0, 0, 4, 4]}],
            },
        ),
    ]
    assert engine.asked[0].deadline_monotonic_s is None


async def test_text_of_any_kind_arrives_as_it_was_said(connect: Connect, engine: TalkingEngine) -> None:
    # Given a piece with quotes, newlines and half a surrogate pair, then every event is one line of good JSON
    engine.pieces = [type(engine.pieces[0])('"\n\u2028\ud83d"', 0)]
    async with connect() as client:
        answer = await client.post("/infer_stream", json={"prompt": "x"})

    assert events(answer.text)[0][1]["token"] == '"\n\u2028?"'


async def test_what_fails_after_the_first_event_is_told_as_an_event(connect: Connect, engine: TalkingEngine) -> None:
    # Given a model that breaks off
    engine.failure, engine.fails_late = ModelError("its process was lost", code="replica_lost"), True

    # When it is asked for a stream, then what was said is there, and why there is no more
    async with connect() as client:
        answer = await client.post("/infer_stream", json={"prompt": "x"})
    assert answer.status_code == 200
    name, last = events(answer.text)[-1]
    assert name == "error"
    assert (last["error"], last["detail"]) == ("its process was lost", {"code": "replica_lost"})
    assert last["finish_reason"] == "error"
    assert last["usage"]["completion_tokens"] == 1


@pytest.mark.parametrize("path", ["/infer_stream", "/v1/completions", "/v2/models/gpt2/generate_stream"])
async def test_what_fails_late_tells_no_secret_at_any_door(connect: Connect, engine: TalkingEngine, path: str) -> None:
    # Given a model whose failure names an address with its log-in, when it fails in the middle of an answer
    engine.failure = ModelError("http://admin:hunter2@far/v1 said: Authorization: Bearer sk-hunter2hunter2")
    engine.fails_late = True
    body = {"text_input": "Once"} if path.startswith("/v2") else {"model": "gpt2", "prompt": "Once", "stream": True}
    async with connect() as client:
        answer = await client.post(path, json=body)

    # Then the event says what failed, without the log-in
    assert answer.status_code == 200
    assert "far/v1 said" in answer.text
    assert "hunter2" not in answer.text


async def test_calls_are_counted_by_how_they_ended(connect: Connect, engine: TalkingEngine, parts: Parts) -> None:
    # Given one whole answer, one spoken, one refusal, one that came too late and one name that a caller made up
    async with connect() as client:
        await client.post("/infer", json={"model": "gpt2", "prompt": "x"})
        await client.post("/infer_stream", json={"model": "gpt2", "prompt": "x"})
        engine.failure = QueueFull("full")
        await client.post("/infer", json={"model": "gpt2", "prompt": "x"})
        engine.failure = DeadlineExceeded("late")
        await client.post("/infer_stream", json={"model": "gpt2", "prompt": "x"})
        engine.failure = NotFound("no such model")
        await client.post("/infer", json={"model": "made-up-by-a-caller", "prompt": "x"})

    # Then each is counted under bounded labels
    seen = parts.metrics.snapshot()
    assert seen["freeroam_requests_total"] == {
        "model=gpt2,priority=NORMAL,reason=length,status=ok,version=7": 2.0,
        "model=gpt2,priority=NORMAL,reason=queue_full,status=rejected,version=": 1.0,
        "model=gpt2,priority=NORMAL,reason=deadline_exceeded,status=expired,version=": 1.0,
        "model=other,priority=NORMAL,reason=not_found,status=refused,version=": 1.0,
    }
    key = "model=gpt2,priority=NORMAL,version=7"
    assert seen["freeroam_time_to_first_token_seconds_count"][key] == 1.0
    assert seen["freeroam_e2e_request_latency_seconds_count"][key] == 2.0
    assert seen["freeroam_generation_tokens_total"][key] == 8.0
    assert seen["freeroam_prompt_tokens_total"][key] == 6.0
    assert seen["freeroam_rejected_total"] == {"reason=queue_full": 1.0, "reason=deadline": 1.0}
    assert seen["freeroam_streams_active"] == 0.0


# A caller that goes away, one that drains nothing, a service that stops


class Caller:
    """The other end of a connection, at the level of ASGI: goes when told, and may stop to drain."""

    def __init__(self, parts: Parts, path: str, **config: Any) -> None:
        self.parts = parts
        self.path = path
        self.app = create_application(ApiConfig(**config), parts.clock, parts.metrics)
        self.app.state.parts = parts
        self.sent: list[dict[str, Any]] = []
        self.is_gone = asyncio.Event()
        self.drains = asyncio.Event()
        self.drains.set()
        self.was_cut = False
        self.untaken_bytes = 0
        self._has_asked = False

    def ask(self) -> asyncio.Task[None]:
        """Put a question."""
        scope = {
            "type": "http", "method": "POST", "path": self.path, "root_path": "", "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"host", b"localhost")],
            "client": ("127.0.0.1", 4711), "server": ("127.0.0.1", 80), "http_version": "1.1", "scheme": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
        }  # fmt: skip
        return asyncio.create_task(self.app(scope, self.receive, self.send))

    @property
    def transport(self) -> Caller:
        """What the server's own ``receive`` has: the way to cut the connection."""
        return self

    def abort(self) -> None:
        self.was_cut = True

    def is_closing(self) -> bool:
        return self.was_cut

    def get_write_buffer_size(self) -> int:
        return self.untaken_bytes

    async def receive(self) -> dict[str, Any]:
        if not self._has_asked:
            self._has_asked = True
            return {"type": "http.request", "body": b'{"prompt": "x"}', "more_body": False}
        await self.is_gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        await self.drains.wait()
        self.sent.append(message)

    @property
    def text(self) -> str:
        return b"".join(message.get("body", b"") for message in self.sent).decode()


@pytest.mark.parametrize("path", ["/infer", "/infer_stream"])
async def test_a_caller_that_goes_away_ends_its_question(parts: Parts, engine: TalkingEngine, path: str) -> None:
    # Given a caller whose question is being answered
    engine.goes_on.clear()
    caller = Caller(parts, path)
    task = caller.ask()
    await until(lambda: engine.asked and len(parts.calls) == 1)

    # When it goes away, then the engine is let go at once and nothing is left
    caller.is_gone.set()
    await asyncio.wait_for(task, 20)
    assert engine.left == 1
    assert (len(parts.calls), parts.calls.streams) == (0, 0)

    # And it is counted as gone, not as a defect
    counted = parts.metrics.snapshot()
    assert list(counted["freeroam_requests_total"]) == [
        "model=default,priority=NORMAL,reason=caller_gone,status=cancelled,version="
    ]
    status = 499 if path == "/infer" else 200
    assert f"method=POST,route={path},status={status}" in counted["freeroam_http_requests_total"]


async def test_a_reader_that_drains_nothing_is_cut_and_counted(parts: Parts, engine: TalkingEngine) -> None:
    # Given a reader that takes the first piece and then nothing more
    engine.goes_on.clear()
    caller = Caller(parts, "/infer_stream", stream_idle_timeout_s=0.05)
    object.__setattr__(parts, "clock", _Wall())
    task = caller.ask()
    await until(lambda: '"index":0' in caller.text)
    caller.drains.clear()

    # When there is more to send, then its connection is cut and the model let go
    engine.goes_on.set()
    await asyncio.wait_for(task, 20)
    assert caller.was_cut
    assert len(parts.calls) == 0
    assert parts.metrics.snapshot()["freeroam_slow_client_total"] == {"action=dropped,kind=answer": 1.0}


async def test_a_reader_that_leaves_the_end_of_a_long_answer_lying_is_cut_and_counted(
    parts: Parts, engine: TalkingEngine
) -> None:
    # Given an answer whose end went out in one large piece, of which the reader takes nothing
    caller = Caller(parts, "/infer_stream", stream_idle_timeout_s=0.05)
    caller.untaken_bytes = 1024 * 1024
    object.__setattr__(parts, "clock", _Wall())

    # When the model is done, then the connection is cut all the same, and the answer not called complete
    await asyncio.wait_for(caller.ask(), 20)
    assert caller.was_cut
    assert all(message.get("more_body", True) for message in caller.sent)
    assert parts.metrics.snapshot()["freeroam_slow_client_total"] == {"action=dropped,kind=answer": 1.0}


async def test_a_slow_reader_who_takes_the_end_in_time_has_a_whole_answer(parts: Parts, engine: TalkingEngine) -> None:
    # Given a reader who takes a little of the end now and then
    caller = Caller(parts, "/infer_stream", stream_idle_timeout_s=10.0)
    caller.untaken_bytes = 100 * 1024

    class Slow(_Wall):
        async def sleep(self, duration_s: float) -> None:
            caller.untaken_bytes -= 10 * 1024
            await asyncio.sleep(0)

    object.__setattr__(parts, "clock", Slow())

    # Then its stream ends as it should, once so little is left as the server may keep
    await asyncio.wait_for(caller.ask(), 20)
    assert not caller.was_cut
    assert caller.untaken_bytes == 60 * 1024
    assert caller.sent[-1]["more_body"] is False


async def test_a_quiet_stream_is_kept_awake_by_comments(parts: Parts, engine: TalkingEngine) -> None:
    # Given a model that thinks for long after its first word
    engine.goes_on.clear()
    object.__setattr__(parts, "clock", _Wall())
    caller = Caller(parts, "/infer_stream", ping_s=0.02)
    task = caller.ask()

    # Then comments come meanwhile, and the answer goes on after them
    await until(lambda: caller.text.count(": ping\n\n") >= 2)
    engine.goes_on.set()
    await asyncio.wait_for(task, 20)
    assert [name for name, _ in events(caller.text)] == ["", "", "", "done"]


@pytest.mark.parametrize("path", ["/infer", "/infer_stream"])
async def test_a_stop_that_cannot_wait_longer_says_so(parts: Parts, engine: TalkingEngine, path: str) -> None:
    # Given an answer that does not end
    engine.goes_on.clear()
    caller = Caller(parts, path)
    task = caller.ask()
    await until(lambda: len(parts.calls) == 1 and (path == "/infer" or '"index":0' in caller.text))

    # When the service stops and its patience is over
    await parts.calls.drain(timeout_s=0.02)
    await asyncio.wait_for(task, 20)

    # Then the caller is told, by a status or by the last event
    assert engine.left == 1
    if path == "/infer":
        assert caller.sent[0]["status"] == 503
    else:
        name, last = events(caller.text)[-1]
        assert (name, last["detail"]) == ("error", {"code": "draining"})
        assert caller.sent[-1]["more_body"] is False


async def test_a_stop_waits_for_answers_that_end(parts: Parts, engine: TalkingEngine) -> None:
    engine.goes_on.clear()
    caller = Caller(parts, "/infer_stream")
    task = caller.ask()
    await until(lambda: '"index":0' in caller.text)
    draining = asyncio.create_task(parts.calls.drain(timeout_s=30))

    engine.goes_on.set()
    await asyncio.wait_for(asyncio.gather(task, draining), 20)

    assert events(caller.text)[-1][0] == "done"


class _Wall:
    """Time as it passes, for what waits for it."""

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    def epoch_s(self) -> float:
        return 0.0

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)
