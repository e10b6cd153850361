"""What the server, its models and their work look like in the Open Inference Protocol, as JSON; gRPC says the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import freeroam
from freeroam.api.oip.answers import OUTPUTS
from freeroam.api.oip.questions import TUNABLE
from freeroam.api.parts import Parts
from freeroam.engines.engine import Engine
from freeroam.vocabulary.errors import FreeroamError, NotFound
from freeroam.vocabulary.model import ModelInfo, ModelState

EXTENSIONS = (
    "binary_tensor_data",
    "generate",
    "model_configuration",
    "model_repository",
    "parameters",
    "schedule_policy",
    "statistics",
)
ANSWERING = frozenset({ModelState.READY, ModelState.DEGRADED})
_LEAVING = frozenset({ModelState.DRAINING, ModelState.UNLOADED})
INPUTS: dict[str, tuple[str, tuple[int, ...]]] = {"prompt": ("BYTES", (1,)), "image": ("BYTES", (-1,))}
"""Name, data type and shape of each input; ``image`` is optional, and may come as UINT8 pixels too."""

_STATES = {
    ModelState.LOADING: "LOADING",
    ModelState.WARMING: "LOADING",
    ModelState.READY: "READY",
    ModelState.DEGRADED: "READY",
    ModelState.DRAINING: "UNLOADING",
    ModelState.FAILED: "UNAVAILABLE",
    ModelState.UNLOADED: "UNAVAILABLE",
}
"""Our states in the repository's four words."""

_CONFIG_TYPES = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32"}


def reference_of(name: str, version: str = "") -> str:
    """Return ``name`` or ``name@version``."""
    return f"{name}@{version}" if version else name


def find_model(engine: Engine, name: str, version: str = "") -> ModelInfo:
    """Return the version of a model that is named, or would answer.

    Raises:
        NotFound: There is none.
    """
    if not name:
        raise NotFound("A model's name is wanted")
    return engine.describe(reference_of(name, version))


def is_answering(engine: Engine, name: str | None) -> bool:
    """Tell whether a model (None: the default one) would answer; False also if there is none."""
    try:
        return engine.describe(name).state in ANSWERING
    except FreeroamError:
        return False


def is_server_ready(parts: Parts) -> bool:
    """Tell whether every model answers and new work is admitted; versions that are on their way out do not count."""
    models = [info for info in parts.engine.list_models() if info.state not in _LEAVING]
    return not parts.lifecycle.is_draining and bool(models) and all(info.state in ANSWERING for info in models)


def server_metadata() -> dict[str, Any]:
    """Return the answer to ``GET /v2``."""
    return {"name": "freeroam", "version": freeroam.__version__, "extensions": list(EXTENSIONS)}


def model_metadata(info: ModelInfo, versions: Sequence[str]) -> dict[str, Any]:
    """Return what goes into a model and what comes out."""
    return {
        "name": info.name,
        "versions": list(versions),
        "platform": f"freeroam_{info.model_type}",
        "inputs": [_tensor(name, kind, shape) for name, (kind, shape) in INPUTS.items()],
        "outputs": [_tensor(name, kind, shape) for name, (kind, shape) in OUTPUTS.items()],
    }


def model_config(info: ModelInfo) -> dict[str, Any]:
    """Return a model's configuration in Triton's words.

    ``max_batch_size`` is 0: a request is one question, without a batch dimension; the server makes batches itself.
    """
    told = {"version": info.version, "tunable": ",".join(TUNABLE), "answers_at_once": str(info.wishes.max_batch)}
    return {
        "name": info.name,
        "platform": f"freeroam_{info.model_type}",
        "backend": "freeroam",
        "max_batch_size": 0,
        "input": [
            {"name": name, "data_type": _CONFIG_TYPES[kind], "dims": list(shape), "optional": name != "prompt"}
            for name, (kind, shape) in INPUTS.items()
        ],
        "output": [
            {"name": name, "data_type": _CONFIG_TYPES[kind], "dims": list(shape)}
            for name, (kind, shape) in OUTPUTS.items()
        ],
        "instance_group": [
            {
                "name": f"{info.name}@{info.version}",
                "kind": "KIND_GPU" if info.device.startswith("cuda") else "KIND_CPU",
                "count": info.replicas_wanted,
            }
        ],
        "dynamic_batching": {"priority_levels": 3, "default_priority_level": 2},
        "parameters": {name: {"string_value": value} for name, value in told.items()},
        "model_transaction_policy": {"decoupled": info.wishes.streams_text},
    }


def model_statistics(info: ModelInfo) -> dict[str, Any]:
    """Return a model's statistics; durations are estimates: the median of the latest answers times their number."""
    known = info.statistics
    questions = known.get("questions", {})
    answered, failed = int(questions.get("answered", 0)), int(questions.get("failed", 0))
    return {
        "name": info.name,
        "version": info.version,
        "last_inference": 0,
        "inference_count": answered,
        "execution_count": int(known.get("calls", 0)),
        "inference_stats": {
            "success": _duration(answered, known.get("p50")),
            "fail": {"count": failed, "ns": 0},
            "queue": _duration(answered, known.get("wait_ms", {}).get("p50")),
            "compute_infer": _duration(answered, known.get("model_ms", {}).get("p50")),
        },
    }


def repository_index(models: Sequence[ModelInfo], *, only_ready: bool = False) -> list[dict[str, Any]]:
    """Return every version of every model with its state."""
    return [
        {"name": info.name, "version": info.version, "state": _STATES[info.state], "reason": info.error or ""}
        for info in models
        if not only_ready or info.state in ANSWERING
    ]


def versions_of(models: Sequence[ModelInfo], name: str) -> list[str]:
    """Return the versions of a model."""
    return [info.version for info in models if info.name == name]


def _tensor(name: str, datatype: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


def _duration(count: int, each_ms: float | None) -> dict[str, int]:
    return {"count": count, "ns": int(count * (each_ms or 0.0) * 1e6)}
