"""What ``transformers_vlm`` loads, and how it says what it cannot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from freeroam.models.base import Question
from freeroam.models.loading import load_model
from freeroam.models.torch_loading import find_ends
from freeroam.models.transformers_vlm import TransformersVLM
from freeroam.models.vlm_loading import load_config, load_processor
from freeroam.vocabulary.errors import ConfigurationError, FreeroamError, MissingExtra, ModelError
from freeroam.vocabulary.inference import InferenceParams
from tests.tiny_vlms import make_vlm


@pytest.fixture(scope="module")
def llava(tmp_path_factory) -> Path:
    return make_vlm("llava", tmp_path_factory.mktemp("vlm") / "llava")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_batch": 0}, "max_batch is 0: expected a whole number from 1 to 64"),
        ({"max_batch": 65}, "max_batch"),
        ({"max_batch": True}, "max_batch"),
        ({"max_batch": None}, "max_batch is None"),
        ({"max_tokens": 0}, "max_tokens is 0: expected a whole number of 1 or more"),
        ({"window": 1.5}, "window"),
        ({"picture_px": 1}, "picture_px"),
        ({"context": 1}, "context"),
        ({"colour": "red"}, "unknown option colour"),
    ],
)
def test_an_option_that_cannot_be_is_refused_before_anything_is_loaded(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        load_model("transformers_vlm", options)


@pytest.mark.parametrize(
    ("options", "device", "said"),
    [
        ({"dtype": "float8"}, "cpu", "float8"),
        ({"quantization": "4bit"}, "cpu", "4bit"),
        ({"quantization": "2bit"}, "cpu", "2bit"),
        ({"picture_px": 640}, "cpu", "picture_px=640"),
        ({}, "tpu", "DEVICE=tpu"),
        ({}, "cuda:99", "DEVICE=cuda:99"),
    ],
)
async def test_what_does_not_fit_model_or_device_is_refused(
    llava: Path, options: dict[str, Any], device: str, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        await TransformersVLM(**options).initialize(str(llava), device)


async def test_no_path_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="MODEL_PATH is empty"):
        await TransformersVLM().initialize("", "cpu")


async def test_a_folder_that_holds_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no model that transformers can read"):
        await TransformersVLM().initialize(str(tmp_path), "cpu")


@pytest.mark.parametrize(("model_type", "said"), [("llama", "transformers_text"), ("florence2", "encoder-decoder")])
async def test_a_model_of_another_kind_is_refused(tmp_path: Path, model_type: str, said: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))

    with pytest.raises(ConfigurationError, match=said):
        await TransformersVLM().initialize(str(tmp_path), "cpu")


async def test_a_folder_without_a_processor_is_refused(tmp_path: Path) -> None:
    folder = make_vlm("qwen2_5_vl", tmp_path / "bare")
    for name in ("preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)

    with pytest.raises(ConfigurationError, match="processor could not be loaded"):
        await TransformersVLM().initialize(str(folder), "cpu")


async def test_weights_that_are_cut_short_are_a_failure_to_load(tmp_path: Path) -> None:
    folder = make_vlm("llava", tmp_path / "cut")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])

    with pytest.raises(ModelError) as caught:
        await TransformersVLM().initialize(str(folder), "cpu")
    assert caught.value.code == "load_failed"


@pytest.mark.parametrize("library", ["torch", "transformers", "PIL"])
async def test_a_missing_library_is_named_with_what_installs_it(
    llava: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(FreeroamError, match=r"freeroam\[transformers\]") as caught:
        await TransformersVLM().initialize(str(llava), "cpu")
    assert isinstance(caught.value, MissingExtra)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("llava", "CLIPImageProcessorPil"),
        ("idefics3", "Idefics3ImageProcessorPil"),
        ("smolvlm", "SmolVLMImageProcessorPil"),
        ("qwen2_5_vl", "Qwen2VLImageProcessorPil"),
    ],
)
def test_pictures_are_made_ready_by_pil_where_there_is_no_torchvision(tmp_path: Path, kind: str, name: str) -> None:
    transformers = pytest.importorskip("transformers")
    if transformers.utils.is_torchvision_available():
        pytest.skip("torchvision is installed here")
    folder = str(make_vlm(kind, tmp_path / kind))

    processor = load_processor(folder, load_config(folder))

    assert type(processor.image_processor).__name__ == name


@pytest.mark.parametrize("options", [{"quantization": "dynamic8"}, {"dtype": "bfloat16"}])
@pytest.mark.parametrize("kind", ["llava", "smolvlm", "qwen2_5_vl"])
async def test_a_model_of_fewer_bits_answers(tmp_path: Path, kind: str, options: dict[str, Any]) -> None:
    model = TransformersVLM(threads=1, **options)
    await model.initialize(str(make_vlm(kind, tmp_path / kind)), "cpu")
    await model.warm_up()
    await model.check_health()

    info = model.get_model_info()

    assert info["quantization"] == options.get("quantization", "none")
    assert info["dtype"] == options.get("dtype", "float32")


@pytest.mark.timeout(400)  # compiling takes as long as it takes
async def test_a_compiled_model_says_what_it_says_uncompiled(llava: Path) -> None:
    frames = [np.random.default_rng(seed).integers(0, 255, (60, 80, 3), np.uint8) for seed in range(2)]
    params = InferenceParams(max_tokens=12)
    questions = [Question(tuple(frames[:count]), "what" * (count + 1), params) for count in range(3)]
    answers = []
    for compile in (False, True):  # noqa: A001 - the option's name
        model = TransformersVLM(threads=1, compile=compile)
        await model.initialize(str(llava), "cpu")
        answers.append(await model.predict_batch(questions))

    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("settings", "tokenizer", "expected"),
    [(7, 2, {7, 2}), ([7, 8], 7, {7, 8}), (None, 2, {2}), ([7], None, {7}), (None, None, set())],
)
def test_an_answer_ends_where_the_settings_or_the_tokenizer_say(settings: Any, tokenizer: Any, expected: set[int]):
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=settings))

    assert find_ends(model, SimpleNamespace(eos_token_id=tokenizer)) == expected
