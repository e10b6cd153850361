"""What clients ask models directly, what they are answered, and what operators say about models: the documents."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from freeroam.vocabulary.inference import Prediction, Words
from freeroam.vocabulary.model import ModelInfo, ModelState

Share = Annotated[float, Field(ge=0.0, le=1e9, allow_inf_nan=False)]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}$")]
ModelVersion = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]

MAX_LISTED = 256
"""Entries of a list without a smaller bound; checked before the entries are, so that no list of mistakes grows long."""


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _finite(value: Any) -> Any:
    """Return a value of JSON, or refuse one with a number that JSON has no word for, wherever it is in there."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("numbers must be finite")
    if isinstance(value, dict):
        _finite(list(value.values()))
    elif isinstance(value, list):
        for inner in value:
            _finite(inner)
    return value


class InferQuestion(BaseModel):
    """A question to a model.

    Attributes:
        model: ``name`` or ``name@version``; without it the default model.
        prompt: The question.
        images: JPEG, PNG or WebP, base64 or data URLs.
        client_id: A name of the client's own for whom it asks; those share its turns.
        stop: Texts that end the answer.
        stream: Answer as ``/infer_stream`` does.
        choices: The answer is one of these.
        threshold: Smallest confidence of a prediction that is reported.
    """

    model_config = ConfigDict(
        extra="forbid",
        protected_namespaces=(),
        json_schema_extra={
            "example": {"model": "gpt2", "prompt": "Once upon a time", "max_tokens": 50, "temperature": 0.7}
        },
    )

    model: str = Field(default="", max_length=256)
    prompt: str = Field(min_length=1)
    max_tokens: int | None = Field(default=None, ge=1)
    temperature: float | None = Field(default=None, ge=0.0, le=2.0)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    priority: Annotated[Literal["HIGH", "NORMAL", "LOW"], BeforeValidator(_upper)] | None = None
    client_id: str | None = Field(default=None, max_length=128)
    images: list[str] | None = Field(default=None, max_length=MAX_LISTED)
    stop: Annotated[list[Words], Field(max_length=16), BeforeValidator(_listed)] | None = None
    seed: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    stream: bool = False
    choices: list[Words] | None = Field(default=None, min_length=1, max_length=64)
    threshold: float | None = Field(default=None, ge=0.0, le=1.0)


class Usage(BaseModel):
    """Tokens of one call; what a model does not count is 0."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class InferAnswer(BaseModel):
    """A whole answer.

    Attributes:
        model: Who answered.
        version: Which version of it did.
        tokens: The text in the pieces that the model spoke; one piece if it does not speak.
        predictions: What it saw, where it looks at pictures.
        metadata: What else it told; of an ensemble ``members``, or ``gate`` with whether it was passed.
    """

    model_config = ConfigDict(protected_namespaces=())

    request_id: str
    model: str
    version: str
    tokens: list[str]
    text: str | None
    predictions: list[Prediction] | None = None
    metadata: dict[str, Any] | None = None
    finish_reason: Literal["stop", "length", "cancelled", "error"]
    usage: Usage


class InferToken(BaseModel):
    """One piece of an answer that is being spoken.

    Attributes:
        token: Its text: of one token, or of several that were merged for a slow reader.
        index: Number of the first of them, from 0.
        count: How many they are; left out where it is one.
    """

    request_id: str
    token: str
    index: int
    count: int = 1


class InferDone(BaseModel):
    """The end of an answer that was spoken (``event: done``)."""

    model_config = ConfigDict(protected_namespaces=())

    request_id: str
    model: str
    version: str
    finish_reason: Literal["stop", "length", "cancelled", "error"]
    usage: Usage
    predictions: list[Prediction] | None = None
    metadata: dict[str, Any] | None = None


class InferFailed(BaseModel):
    """The end of an answer that broke off after it had begun (``event: error``)."""

    request_id: str
    error: str
    detail: dict[str, Any] | None = None
    finish_reason: Literal["error", "cancelled"] = "error"
    usage: Usage


class ServerStatus(BaseModel):
    """What the server does now.

    Attributes:
        connections: Requests, streams and sockets that are open.
        streams: Answers that are being given piece by piece.
        jobs: Jobs on streams that run.
        calls: Inference calls that are open, streamed or not.
        models: State of each model version, by ``name@version``.
        queues: Requests that wait, by ``name@version``.
    """

    connections: int
    max_connections: int
    streams: int
    jobs: int
    calls: int
    models: dict[str, ModelState]
    queues: dict[str, int]
    uptime_seconds: float
    draining: bool


class NamedModel(BaseModel):
    """One model by its name, whatever versions of it are loaded.

    Attributes:
        version: The version that answers now, or would.
        state: Of that version, as are type and device.
        versions: All versions, by version.
    """

    model_config = ConfigDict(protected_namespaces=())

    name: str
    version: str
    state: ModelState
    model_type: str
    device: str
    versions: dict[str, ModelInfo]


class ModelList(BaseModel):
    """Every model, by name; the first is the default."""

    models: dict[str, NamedModel]
    total_models: int


class ModelWish(BaseModel):
    """A model version to load.

    Attributes:
        name: What callers call it; a name that is loaded already is swapped for this version.
        model_path: Folder or file below ``MODEL_ROOTS``.
        model_type: A built-in name or a type that is in use already; found out from the path if left out.
        quantization: Given to the model as an option.
        warmup: False leaves out the model's own warming up.
        options: Keyword arguments of the model's class.
        keep_previous: Leave older versions loaded, and give this one no traffic yet.
        unload_first: Where both do not fit: end the old version first, its questions waiting.
        wait: Answer when the model is ready (201), else at once (202).
    """

    model_config = ConfigDict(
        extra="forbid",
        protected_namespaces=(),
        json_schema_extra={
            "example": {"name": "gpt2", "version": "2.0.0", "model_path": "/models/gpt2", "device": "auto"}
        },
    )

    name: ModelName
    version: ModelVersion = "1"
    model_path: str = Field(default="", max_length=4096)
    model_type: str | None = Field(default=None, max_length=256)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d{1,3})?)$")
    quantization: str | None = Field(default=None, max_length=32)
    warmup: bool = True
    replicas: int = Field(default=1, ge=1, le=64)
    max_batch_size: int | None = Field(default=None, ge=1, le=64)
    max_batch_wait_ms: float | None = Field(default=None, ge=0, le=100)
    options: dict[str, Annotated[Any, AfterValidator(_finite)]] = Field(default_factory=dict, max_length=64)
    keep_previous: bool = False
    unload_first: bool = False
    wait: bool = True


class ModelMessage(BaseModel):
    """Something was done, or begun, to a model version."""

    message: str
    name: str
    version: str
    state: ModelState


class Traffic(BaseModel):
    """How the requests that name no version are split; the shares sum to 1."""

    name: str
    traffic: dict[str, float]


class ModelHealth(BaseModel):
    """How the version of a model that answers now is, having just looked at itself.

    Attributes:
        healthy: Whether it answers questions as well as it should.
        error: Why it does not.
        load_error: Why the last version that was to be loaded beside it did not load.
    """

    name: str
    version: str
    healthy: bool
    state: ModelState
    replicas_ready: int
    replicas_wanted: int
    queued: int
    error: str | None
    load_error: str | None = None


class BatchingChange(BaseModel):
    """How batches of a model are made from now on; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"example": {"max_batch_size": 16}})

    max_batch_size: int | None = Field(default=None, ge=1, le=64)
    max_batch_wait_ms: float | None = Field(default=None, ge=0, le=100)
