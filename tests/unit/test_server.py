"""The server that a program starts by itself: what it takes, and what it makes of a model's description."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from freeroam import InferenceServer, ModelConfig
from freeroam.models.example_vlm import ExampleVLM
from freeroam.vocabulary.errors import ConfigurationError, Conflict


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
