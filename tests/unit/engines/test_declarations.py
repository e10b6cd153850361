"""The file of MODELS: what it may say, and what is said when it is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from freeroam.engines.declarations import ModelDefaults, read_models_file
from freeroam.engines.specs import EnsembleSpec, Gate, ModelSpec
from freeroam.vocabulary.errors import ConfigurationError

DEFAULTS = ModelDefaults(device="cuda:1", max_batch=16, max_batch_wait_ms=7.0)

WHOLE = """
models:
  - name: tongue
    version: 2
    model_type: transformers_vlm
    model_path: /models/smol
    device: cpu
    quantization: 8bit
    replicas: 2
    max_batch_size: 4
    max_batch_wait_ms: 0
    share: 0.5
    warmup: false
    options: {dtype: bfloat16}
  - name: eye
    model_type: detector
  - name: both
    ensemble:
      members: [eye, tongue@2]
  - name: guard
    ensemble:
      gate: {model: eye, prompt: a person, when: {labels: [person], min_count: 2, threshold: 0.5}}
      then: tongue
"""


def written(tmp_path: Path, text: str, name: str = "models.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def read(path: Path) -> tuple[ModelSpec | EnsembleSpec, ...]:
    return read_models_file(path, DEFAULTS)


def test_a_file_says_all_of_a_model_and_of_an_ensemble(tmp_path: Path) -> None:
    tongue, eye, both, guard = read(written(tmp_path, WHOLE))

    assert tongue == ModelSpec(
        "tongue",
        "2",
        "transformers_vlm",
        "/models/smol",
        device="cpu",
        replicas=2,
        max_batch=4,
        max_batch_wait_ms=0.0,
        options={"dtype": "bfloat16", "quantization": "8bit"},
        warmup=False,
        share=0.5,
    )
    assert eye == ModelSpec("eye", "1", "detector", device="cuda:1", max_batch=16, max_batch_wait_ms=7.0)
    assert both == EnsembleSpec("both", members=("eye", "tongue@2"))
    assert guard == EnsembleSpec("guard", gate=Gate("eye", "tongue", "a person", ("person",), 2, 0.5))


def test_json_is_read_too(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps({"models": [{"name": "a", "model_type": "fake"}]}), "models.json")

    assert [spec.name for spec in read(path)] == ["a"]


def test_the_type_is_found_out_from_the_path(tmp_path: Path) -> None:
    path = written(tmp_path, "models: [{name: a, model_path: /m/a.gguf}, {name: b, model_path: /m/b.onnx}]")

    assert [spec.model_type for spec in read(path) if isinstance(spec, ModelSpec)] == [
        "transformers_text",
        "onnx_detector",
    ]


def test_no_quantization_is_no_option(tmp_path: Path) -> None:
    (spec,) = read(written(tmp_path, "models: [{name: a, model_type: fake, quantization: none}]"))

    assert isinstance(spec, ModelSpec)
    assert spec.options == {}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"name": None}, ["name is None", "letters"]),
        ({"name": "a@b"}, ["name is 'a@b'"]),
        ({"version": 1.1}, ["version is 1.1", "in quotes"]),
        ({"version": True}, ["version is True"]),
        ({"replicas": 0}, ["replicas is 0", "from 1 to 64"]),
        ({"replicas": "2"}, ["replicas is '2'", "from 1 to 64"]),
        ({"max_batch_size": 65}, ["max_batch_size is 65", "1 to 64"]),
        ({"max_batch_wait_ms": 101}, ["max_batch_wait_ms is 101", "0 to 100"]),
        ({"device": "tpu"}, ["device is 'tpu'", "cuda:N"]),
        ({"share": -1}, ["share is -1", "from 0"]),
        ({"share": float("nan")}, ["share is nan", "from 0"]),
        ({"warmup": "yes"}, ["warmup is 'yes'", "true or false"]),
        ({"options": []}, ["options is []"]),
        ({"model_typ": "fake"}, ["model_typ is no field", "model_type", "quantization"]),
        ({"model_type": None}, ["model_type is needed"]),
        ({"quantization": "8bit", "options": {"quantization": "4bit"}}, ["quantization is given twice"]),
        ({"replicas": 0, "max_batch_size": 0}, ["replicas is 0", "max_batch_size is 0"]),
    ],
)
def test_what_is_wrong_is_told_with_file_entry_field_and_what_is_allowed(
    tmp_path: Path, fields: dict[str, Any], told: list[str]
) -> None:
    entry = {"name": "mine", "model_type": "fake", **fields}
    path = written(tmp_path, json.dumps({"models": [{"name": "good", "model_type": "fake"}, entry]}), "m.json")

    with pytest.raises(ConfigurationError) as caught:
        read(path)

    for words in [f"MODELS={path}: entry 2", *told]:
        assert words in caught.value.message


@pytest.mark.parametrize(
    ("ensemble", "told"),
    [
        ({}, "give either members, or gate with then"),
        ({"members": []}, "ensemble.members is []"),
        ({"members": ["a"], "gate": {"model": "a"}, "then": "b"}, "give either"),
        ({"gate": {"model": "a"}}, "give either"),
        ({"members": ["a"], "then": "b"}, "give either"),
        ({"members": ["a@b@c"]}, "ensemble.members.0 is 'a@b@c' (allowed: a list of name or name@version"),
        ({"gate": {"model": "a", "when": {"min_count": 0}}, "then": "b"}, "ensemble.gate.when.min_count is 0 (allowed"),
        ({"gate": {"model": "a", "when": {"label": "b"}}, "then": "b"}, "when.label is no field (there are: labels"),
        ({"gate": {"then": "b"}, "then": "b"}, "ensemble.gate.model is missing"),
        ("all", "ensemble is 'all' (allowed: members, gate, then)"),
    ],
)
def test_what_is_wrong_in_an_ensemble_is_told(tmp_path: Path, ensemble: Any, told: str) -> None:
    path = written(tmp_path, json.dumps({"models": [{"name": "e", "ensemble": ensemble}]}), "m.json")

    with pytest.raises(ConfigurationError) as caught:
        read(path)

    assert "entry 1 (e)" in caught.value.message
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected one key, models"),
        ("models: []", "expected one key, models"),
        ("models: {a: b}", "expected one key, models"),
        ("model: [{name: a}]", "expected one key, models"),
        ("models: [{name: a, model_type: fake}]\nextra: 1", "expected one key, models"),
        ("models: [a]", "entry 1 is 'a'"),
        ("models: [", "is not understood"),
        ("models: [{name: a, name: b, model_type: fake}]", "a key is given twice"),
        ("models: [!!python/object/apply:os.getcwd []]", "is not understood"),
        ("models: [{name: a, model_type: fake}, {name: a, model_type: fake}]", "a version 1 is declared twice"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path: Path, text: str, told: str) -> None:
    path = written(tmp_path, text)

    with pytest.raises(ConfigurationError) as caught:
        read(path)

    assert f"MODELS={path}" in caught.value.message
    assert told in caught.value.message


def test_doubled_keys_in_json_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, '{"models": [{"name": "a", "name": "b", "model_type": "fake"}]}', "m.json")

    with pytest.raises(ConfigurationError, match="given twice"):
        read(path)


@pytest.mark.parametrize("kind", ["missing", "folder", "not text"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "models.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "not text":
        path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(ConfigurationError, match="cannot be read"):
        read(path)
