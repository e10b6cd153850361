"""The server that a program starts by itself: what it takes, and what it makes of a model's description."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest

from freeroam import InferenceServer, ModelConfig
from freeroam.api.model_loading import ModelLoads
from freeroam.engines.specs import ModelSpec
from freeroam.models.example_vlm import ExampleVLM
from freeroam.vocabulary.errors import ConfigurationError, Conflict, InvalidInput, ModelError


def spec_of(config: ModelConfig, **options: Any) -> Any:
    return InferenceServer(**options)._spec_of(config)


def test_a_description_becomes_what_the_engine_loads(tmp_path: Path) -> None:
    # Given a model file and everything that may be said of it
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    config = ModelConfig(
        name="tiny", version="1.0.0", model_path=str(path), device="cpu", quantization="dynamic8", warmup=False
    )

    # Then the server's own defaults fill the rest, which are the seed's
    spec = spec_of(config)
    assert (spec.name, spec.version, spec.model_type, spec.model_path) == (
        "tiny", "1.0.0", "transformers_text", str(path)
    )  # fmt: skip
    assert (spec.max_batch, spec.max_batch_wait_ms) == (32, 50)
    assert (spec.device, spec.options, spec.warmup) == ("cpu", {"quantization": "dynamic8"}, False)
    assert spec_of(config, max_batch_size=4, max_batch_wait_ms=1).max_batch == 4


def test_a_class_may_be_given_for_a_type() -> None:
    spec = spec_of(ModelConfig(name="mine", model_type=ExampleVLM))

    assert spec.model_type == "freeroam.models.example_vlm:ExampleVLM"


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ModelConfig(name="x"), "give model_path or model_type"),
        (ModelConfig(name="x", model_type="nothing_known"), "expected one of"),
        (ModelConfig(name="", model_type="fake"), "must not be empty"),
        (ModelConfig(name="x", model_type="fake", max_batch_size=65), "1 to 64"),
        (ModelConfig(name="x", model_type="__main__:Mine"), "put the class into a module"),
    ],
)
def test_what_cannot_be_loaded_is_said_where_it_is_registered(config: ModelConfig, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        InferenceServer().register_model(config)


def test_a_version_is_registered_once() -> None:
    server = InferenceServer()
    server.register_model(ModelConfig(name="x", model_type="fake"))
    server.register_model(ModelConfig(name="x", version="2", model_type="fake"))

    with pytest.raises(Conflict):
        server.register_model(ModelConfig(name="x", model_type="fake"))


@pytest.mark.parametrize("setting", [{"max_batch_size": 65}, {"log_level": "LOUD"}, {"beams": 4}])
def test_a_wrong_setting_is_said_at_once(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        InferenceServer(**setting)


async def test_what_does_not_run_cannot_be_loaded_into() -> None:
    with pytest.raises(ConfigurationError, match="use register_model"):
        await InferenceServer().load_model(ModelConfig(name="x", model_type="fake"))


def test_of_several_versions_the_one_registered_last_is_asked_at_the_start() -> None:
    server = InferenceServer()
    for name, version in (("x", "1"), ("y", "7"), ("x", "2")):
        server.register_model(ModelConfig(name=name, version=version, model_type="fake"))

    models = server._models_of_start()

    assert [(spec.name, spec.version) for spec in models] == [("x", "1"), ("y", "7"), ("x", "2")]
    assert {(spec.name, spec.version) for spec in models if spec.share} == {("y", "7"), ("x", "2")}


class LoadingEngine:
    """Loads what a test lets it load."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.failure: Exception | None = None
        self.may_load = asyncio.Event()

    async def load_model(self, spec: ModelSpec, **_: bool) -> None:
        await self.may_load.wait()
        if self.failure is not None:
            raise self.failure
        self.loaded.append(f"{spec.name}@{spec.version}")


class Running:
    """What a server takes for the runtime that it started."""

    def __init__(self) -> None:
        self.engine = LoadingEngine()
        self.loads = ModelLoads()

    async def settle(self) -> None:
        self.engine.may_load.set()
        for _ in range(9):
            await asyncio.sleep(0)
        self.engine.may_load.clear()


def fake(name: str, version: str = "1") -> ModelConfig:
    return ModelConfig(name=name, version=version, model_type="fake")


def of_next_start(server: InferenceServer) -> list[str]:
    return [f"{spec.name}@{spec.version}" for spec in server._models_of_start()]


async def running(*configs: ModelConfig) -> tuple[InferenceServer, Running]:
    """Return a server that started with models."""
    server, runtime = InferenceServer(), Running()
    for config in configs:
        server.register_model(config)
    server._begun = set(server._specs)
    server._loop = asyncio.get_running_loop()
    await server._take_runtime(runtime)
    return server, runtime


@pytest.mark.parametrize("is_waited_for", [False, True])
async def test_a_version_that_did_not_load_may_be_tried_again(is_waited_for: bool) -> None:
    server, runtime = await running(fake("x"))

    async def load() -> None:
        if is_waited_for:
            loading = asyncio.create_task(server.load_model(fake("x", "2")))
            await runtime.settle()
            with contextlib.suppress(InvalidInput):
                await loading
        else:
            server.register_model(fake("x", "2"))
            await runtime.settle()

    runtime.engine.failure = ModelError("no such file", code="load_failed")
    await load()
    assert of_next_start(server) == ["x@1"]

    runtime.engine.failure = None
    await load()
    assert runtime.engine.loaded == ["x@2"]
    assert of_next_start(server) == ["x@2"]


async def test_a_version_that_was_swapped_for_another_is_not_loaded_at_the_next_start() -> None:
    server, runtime = await running(fake("x"), fake("y"))

    for version in ("2", "3"):
        server.register_model(fake("x", version))
        await runtime.settle()

    assert of_next_start(server) == ["y@1", "x@3"]
    server.register_model(fake("x"))
    await runtime.settle()
    assert of_next_start(server) == ["y@1", "x@1"]


async def test_what_was_still_loading_as_the_server_stopped_is_loaded_at_the_next_start() -> None:
    server, runtime = await running(fake("x"))
    server.register_model(fake("y"))
    await asyncio.sleep(0)

    await runtime.loads.aclose()

    assert of_next_start(server) == ["x@1", "y@1"]


async def test_what_is_registered_while_the_server_starts_is_loaded_once() -> None:
    # Given a model that comes when the models of the start are chosen already, and nothing runs yet
    server, runtime = InferenceServer(), Running()
    server._loop = asyncio.get_running_loop()
    server.register_model(fake("late"))
    server._begun = set()

    await server._take_runtime(runtime)
    await runtime.settle()
    assert runtime.engine.loaded == ["late@1"]

    # And not again when the thread that registered it sees that the server runs
    server._begin(runtime, server._specs["late", "1"])
    await runtime.settle()
    assert runtime.engine.loaded == ["late@1"]


async def test_stopping_what_does_not_run_does_nothing() -> None:
    await InferenceServer().stop()
