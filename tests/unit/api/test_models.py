"""The routes of models: what there is, loading and unloading at run time, traffic, batching, health."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from freeroam.api.parts import ApiConfig, Parts
from freeroam.engines.specs import ModelSpec
from freeroam.security.keys import Key, Right, digest_of
from freeroam.vocabulary.errors import ConfigurationError, Conflict, FreeroamError, ModelError, NotFound
from freeroam.vocabulary.model import ModelInfo, ModelState
from tests.unit.api.conftest import EngineDouble
from tests.waiting import until

Connect = Callable[..., httpx.AsyncClient]


class Stable(EngineDouble):
    """Two versions of one model and one of another; keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.failure: FreeroamError | None = None
        self.is_loaded = asyncio.Event()
        self.is_loaded.set()

    def list_models(self) -> list[ModelInfo]:
        return [
            self._info("gpt2", "1", share=0.2, p50=5.0),
            self._info("gpt2", "2", share=0.8, p50=3.0),
            self._info("eye", "1", share=1.0, p50=9.0),
        ]

    def describe(self, model: str | None = None) -> ModelInfo:
        if model not in {None, "gpt2"}:
            raise NotFound(f"Model {model} not found; there are: gpt2, eye")
        return self.list_models()[1]

    async def check_model(self, reference: str) -> ModelInfo:
        return self.describe(reference)

    async def load_model(
        self, spec: ModelSpec, *, keep_previous: bool = False, unload_first: bool = False
    ) -> ModelInfo:
        await self.is_loaded.wait()
        if self.failure is not None:
            raise self.failure
        self.told.append((spec, keep_previous, unload_first))
        return self._info(spec.name, spec.version, share=1.0, p50=0.0)

    async def unload_model(self, name: str, version: str) -> None:
        if self.failure is not None:
            raise self.failure
        self.told.append((name, version))

    def set_traffic(self, name: str, shares: dict[str, float]) -> None:
        self.told.append((name, shares))

    def change_batching(self, model: str, **change: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.told.append((model, change))

    def _info(self, name: str, version: str, share: float, p50: float) -> ModelInfo:
        return ModelInfo(
            name=name, version=version, model_type="fake", state=ModelState.READY, device="cpu", share=share, queued=4,
            statistics={"p50": p50, "p95": 1, "p99": 1, "throughput": 2.0, "error_rate": 0.0},
        )  # fmt: skip


@pytest.fixture
def engine(parts: Parts) -> Stable:
    engine = Stable()
    object.__setattr__(parts, "engine", engine)
    return engine


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("options", ['{"latency_ms": %s}', '{"boxes": [[0, {"x": %s}]]}'])
async def test_options_with_numbers_that_json_does_not_have_are_refused(
    connect: Connect, number: str, options: str
) -> None:
    # Given options that hold no finite number, however deep, when the model is to be loaded, then the caller is told
    body = f'{{"name": "x", "model_type": "fake", "options": {options % number}}}'
    async with connect() as client:
        answer = await client.post("/api/v1/models", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert "finite" in answer.json()["error"]
    assert answer.json()["detail"]["problems"][0]["field"].startswith("options.")


async def test_models_are_listed_by_name_with_all_their_versions(connect: Connect, engine: Stable) -> None:
    async with connect() as client:
        listed = (await client.get("/models")).json()
        metrics = (await client.get("/metrics", params={"format": "json"})).json()
        status = (await client.get("/status")).json()

    # The version that answers most stands for the name
    assert (listed["total_models"], list(listed["models"])) == (2, ["gpt2", "eye"])
    assert listed["models"]["gpt2"]["version"] == "2"
    assert list(listed["models"]["gpt2"]["versions"]) == ["1", "2"]
    assert (metrics["gpt2"]["p50"], metrics["gpt2"]["versions"]["1"]["p50"]) == (3.0, 5.0)
    assert {"p50", "p95", "p99", "throughput", "error_rate"} <= set(metrics["eye"])
    assert status["models"] == {"gpt2@1": "ready", "gpt2@2": "ready", "eye@1": "ready"}
    assert status["queues"] == {"gpt2@1": 4, "gpt2@2": 4, "eye@1": 4}
    assert {"connections", "streams", "uptime_seconds", "draining"} <= set(status)


async def test_a_model_is_loaded_from_below_the_roots_with_its_type_found_out(
    connect: Connect, engine: Stable, tmp_path: Path
) -> None:
    # Given a model file below the roots
    (tmp_path / "small.gguf").write_bytes(b"GGUF")

    # When it is to be loaded
    wish = {"name": "tiny", "version": "2.0", "model_path": "small.gguf", "device": "cpu", "quantization": "8bit",
            "warmup": False, "max_batch_size": 4, "options": {"threads": 1}, "keep_previous": True}  # fmt: skip
    async with connect(model_roots=(tmp_path,), max_batch_wait_ms=7.0) as client:
        answer = await client.post("/api/v1/models", json=wish)

    # Then it is, and the answer comes when it is ready
    assert answer.status_code == 201, answer.text
    assert (answer.json()["name"], answer.json()["state"]) == ("tiny", "ready")
    spec, keep_previous, unload_first = engine.told[0]
    assert (keep_previous, unload_first) == (True, False)
    assert spec == ModelSpec(
        name="tiny", version="2.0", model_type="transformers_text", model_path=str(tmp_path / "small.gguf"),
        device="cpu", max_batch=4, max_batch_wait_ms=7.0, options={"threads": 1, "quantization": "8bit"}, warmup=False,
    )  # fmt: skip


async def test_who_does_not_wait_is_answered_at_once_and_learns_of_a_failure_later(
    connect: Connect, engine: Stable, parts: Parts
) -> None:
    # Given a model that takes its time
    engine.is_loaded.clear()
    async with connect() as client:
        answer = await client.post(
            "/api/v1/models", json={"name": "gpt2", "version": "3", "model_type": "fake", "wait": False}
        )

        # Then the caller is answered before
        assert (answer.status_code, answer.json()["state"]) == (202, "loading")

        # And when it fails, the model's health says why
        engine.failure = ModelError("no such file", code="load_failed")
        engine.is_loaded.set()
        await until(lambda: parts.loads.failure_of("gpt2"))
        health = (await client.get("/api/v1/models/gpt2/health")).json()
    assert (health["healthy"], health["version"], health["load_error"]) == (True, "2", "3: no such file")


@pytest.mark.parametrize(
    ("wish", "status", "message"),
    [
        ({"name": "gpt2", "version": "2", "model_type": "fake"}, 409, "has version 2 already"),
        ({"name": "x"}, 400, "model_type is required"),
        ({"name": "x", "model_type": "os:system"}, 400, "cannot be loaded at run time"),
        ({"name": "x", "model_path": "../../etc/passwd"}, 400, "models may be loaded from"),
        ({"name": "x", "model_path": "/etc/passwd", "model_type": "fake"}, 400, "models may be loaded from"),
        ({"name": "x y", "model_type": "fake"}, 400, "name"),
        ({"name": "x", "model_type": "fake", "device": "tpu"}, 400, "device"),
        ({"name": "x", "model_type": "fake", "colour": 1}, 400, "Unknown field colour"),
        ({"name": "x", "model_type": "fake", "max_batch_size": 65}, 400, "max_batch_size"),
        ({"name": "x", "model_type": "fake", "options": {"threads": "all"}}, 400, "options.threads"),
        ({"name": "x", "model_type": "fake", "options": {"threads": -1}}, 400, "options.threads"),
        ({"name": "x", "model_type": "fake", "options": {"threads": 10**9}}, 400, "options.threads"),
    ],
)
async def test_what_may_not_be_loaded_is_refused(
    connect: Connect, engine: Stable, tmp_path: Path, wish: dict[str, Any], status: int, message: str
) -> None:
    async with connect(model_roots=(tmp_path,)) as client:
        answer = await client.post("/api/v1/models", json=wish)

    assert (answer.status_code, engine.told) == (status, [])
    assert message in answer.json()["error"]


@pytest.mark.parametrize("failure", [ModelError("it raised", code="load_failed"), ConfigurationError("unknown option")])
async def test_a_model_that_does_not_load_is_the_callers_to_mend(
    connect: Connect, engine: Stable, failure: FreeroamError
) -> None:
    engine.failure = failure
    async with connect() as client:
        answer = await client.post("/api/v1/models", json={"name": "x", "model_type": "fake"})

    assert (answer.status_code, answer.json()["error"]) == (400, failure.message)


async def test_versions_are_unloaded_and_traffic_is_split(connect: Connect, engine: Stable) -> None:
    async with connect() as client:
        gone = await client.delete("/api/v1/models/gpt2/versions/1")
        split = await client.put("/api/v1/models/gpt2/traffic", json={"1": 1, "2": 3})
        odd = [await client.put("/api/v1/models/gpt2/traffic", json=body) for body in ({}, {"1": -1}, {"1": "all"}, [])]
        engine.failure = Conflict("it is the only version of the default model")
        kept = await client.delete("/api/v1/models/gpt2/versions/2")

    assert (gone.status_code, gone.json()["state"]) == (200, "unloaded")
    assert (split.status_code, split.json()) == (200, {"name": "gpt2", "traffic": {"1": 0.25, "2": 0.75}})
    assert [answer.status_code for answer in odd] == [400] * 4
    assert kept.status_code == 409
    assert engine.told == [("gpt2", "1"), ("gpt2", {"1": 1.0, "2": 3.0})]


@pytest.mark.parametrize("name", ["org/gpt2", "org%2Fgpt2"])
async def test_what_has_a_slash_in_its_name_can_be_looked_after_too(
    connect: Connect, engine: Stable, name: str
) -> None:
    # Given a model named as on a hub, when each deed names it, then it is that model's
    async with connect() as client:
        answers = [
            await client.put(f"/api/v1/models/{name}/traffic", json={"1": 1}),
            await client.delete(f"/api/v1/models/{name}/versions/1"),
        ]
        unknown = [
            await client.get(f"/api/v1/models/{name}/health"),
            await client.patch(f"/api/v1/models/{name}", json={"max_batch_size": 1}),
        ]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert engine.told[:2] == [("org/gpt2", {"1": 1.0}), ("org/gpt2", "1")]
    assert all("org/gpt2" in answer.json()["error"] for answer in unknown)


async def test_batching_is_changed_at_run_time(connect: Connect, engine: Stable) -> None:
    async with connect() as client:
        changed = await client.patch("/api/v1/models/gpt2", json={"max_batch_size": 16, "max_batch_wait_ms": 0})
        too_many = await client.patch("/api/v1/models/gpt2", json={"max_batch_size": 65})
        engine.failure = ConfigurationError("MAX_BATCH_SIZE=64: its own most is 8")
        refused = await client.patch("/api/v1/models/gpt2", json={"max_batch_size": 64})

    assert (changed.status_code, too_many.status_code, refused.status_code) == (200, 400, 400)
    assert engine.told == [("gpt2", {"max_batch": 16, "max_batch_wait_ms": 0.0})]


async def test_an_unknown_model_has_no_health(connect: Connect, engine: Stable) -> None:
    async with connect() as client:
        answer = await client.get("/api/v1/models/nope/health")

    assert answer.status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/v1/models"),
        ("DELETE", "/api/v1/models/gpt2/versions/1"),
        ("PUT", "/api/v1/models/gpt2/traffic"),
        ("PATCH", "/api/v1/models/gpt2"),
    ],
)
async def test_operators_alone_change_models(connect: Connect, engine: Stable, method: str, path: str) -> None:
    # Given a key that may ask and look, when it would change models, then it may not
    key = Key("robot", digest_of("robot-key-0123456789"), rights=frozenset({Right.RUN, Right.READ}))
    async with connect(ApiConfig(keys=(key,))) as client:
        answer = await client.request(method, path, json={}, headers={"X-API-Key": "robot-key-0123456789"})

    assert answer.status_code == 403
