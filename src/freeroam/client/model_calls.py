"""The calls that ask models, look after them, and look at the server."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

import orjson

from freeroam.client.calls import API, Call, Flow, body_of, call_for, json_call
from freeroam.client.speech import listen
from freeroam.client.steps import Request, document_of, exchange
from freeroam.vocabulary.errors import InvalidInput
from freeroam.vocabulary.health import Health, Liveness, Readiness
from freeroam.vocabulary.model import ModelInfo
from freeroam.vocabulary.model_calls import (
    BatchingChange,
    InferAnswer,
    InferDone,
    InferQuestion,
    InferToken,
    ModelHealth,
    ModelList,
    ModelMessage,
    ModelWish,
    ServerStatus,
    Traffic,
)

Level = Literal["HIGH", "NORMAL", "LOW"]

LOAD_TIMEOUT_S = 900.0
"""Loading a model answers when it is ready, which takes as long as it takes."""

ANSWER_GRACE_S = 5.0
"""How much longer than a question's own deadline its answer is waited for, so that the server's word is heard."""


# Questions to models


def infer(  # noqa: PLR0913 - the fields of a question, by name
    prompt: str,
    model: str | None = None,
    *,
    images: Sequence[bytes | str] = (),
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    choices: Sequence[str] | None = None,
    threshold: float | None = None,
    priority: Level | None = None,
    client_id: str | None = None,
    timeout_s: float | None = None,
) -> Call[InferAnswer]:
    """Ask a model and return the whole answer.

    Args:
        prompt: The question.
        model: ``name`` or ``name@version``; None is the default model.
        images: JPEG, PNG or WebP as bytes, or as base64 or ``data:`` text.
        max_tokens: Greatest length of the answer.
        temperature: 0 is greedy.
        top_p: Nucleus sampling mass.
        stop: Texts that end the answer.
        seed: For repeatable sampling.
        choices: The answer is one of these.
        threshold: Smallest confidence of a prediction.
        priority: Who goes first; lowered to what the key allows.
        client_id: For whom it is asked; questions of one client share its turns.
        timeout_s: The question's own deadline; None is the server's.

    Raises:
        InvalidInput: Something that cannot be.
        NotFound: No such model.
        QueueFull: As many wait as may, also after trying again.
        DeadlineExceeded: The deadline passed.
        ModelError: The model did not answer.
    """
    return call_for(InferAnswer, _question("/infer", locals()))


def infer_stream(  # noqa: PLR0913 - the fields of a question, by name
    prompt: str,
    model: str | None = None,
    *,
    images: Sequence[bytes | str] = (),
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    stop: str | Sequence[str] | None = None,
    seed: int | None = None,
    choices: Sequence[str] | None = None,
    threshold: float | None = None,
    priority: Level | None = None,
    client_id: str | None = None,
    timeout_s: float | None = None,
) -> Flow[InferToken | InferDone]:
    """Ask a model and give its answer as it is spoken: pieces of text, then one ``InferDone``.

    Every token is accounted for: a piece says the number of its first token and how many it joins. Closing the stream
    ends the question in the server within a step of the model. Parameters and errors are those of ``infer``; what fails
    after the first piece is raised while iterating, and is not asked again.
    """
    request = _question("/infer_stream", locals())
    return Flow(lambda retries: listen(request, retries))


def _question(path: str, given: dict[str, Any]) -> Request:
    """Return the request of a question; ``given`` are the parameters of ``infer`` by name."""
    timeout_s = given.pop("timeout_s")
    images = [item if isinstance(item, str) else b64encode(item).decode() for item in given.pop("images")]
    if timeout_s is not None and not timeout_s > 0:
        raise InvalidInput(f"timeout_s: must be above 0, not {timeout_s}")
    headers = {} if timeout_s is None else {"X-Request-Timeout-Ms": str(max(1, round(timeout_s * 1000)))}
    return Request(
        "POST",
        path,
        body=body_of(InferQuestion, images=images or None, **given),
        headers=headers,
        timeout_s=None if timeout_s is None else timeout_s + ANSWER_GRACE_S,
        is_question=True,
    )


# The server and its models


def server_status() -> Call[ServerStatus]:
    """Return connections, streams, models and queues."""
    return call_for(ServerStatus, Request("GET", "/status"))


def list_models() -> Call[ModelList]:
    """Return every model that is loaded."""
    return call_for(ModelList, Request("GET", "/models"))


def load_model(  # noqa: PLR0913 - the fields of a model, by name
    name: str,
    version: str | None = None,
    *,
    model_path: str | None = None,
    model_type: str | None = None,
    device: str | None = None,
    quantization: str | None = None,
    warmup: bool | None = None,
    replicas: int | None = None,
    max_batch_size: int | None = None,
    max_batch_wait_ms: float | None = None,
    options: Mapping[str, Any] | None = None,
    keep_previous: bool | None = None,
    unload_first: bool | None = None,
) -> Call[ModelInfo]:
    """Load a version of a model and return it once it is ready; of a name that is loaded already this is a swap.

    Args:
        name: What callers call it.
        version: Of several of one name.
        model_path: A folder or file below ``MODEL_ROOTS`` of the server.
        model_type: A built-in name or a type that is in use already; None has the server find it out from the path.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``.
        quantization: As the model type understands it.
        warmup: False leaves out the model's own warming up.
        replicas: Processes.
        max_batch_size: Questions a batch, 1 to 64.
        max_batch_wait_ms: Longest wait for a fuller batch, 0 to 100.
        options: Keyword arguments of the model's class.
        keep_previous: Leave older versions loaded, and give this one no traffic yet.
        unload_first: Where both do not fit: end the old version first, its questions waiting.

    Raises:
        PermissionDenied: The key lacks the right ``admin``.
        Conflict: The name has this version already, or is being changed now.
        ModelError: It could not be loaded; what was there before goes on.
    """
    return call_for(ModelInfo, _load(locals(), wait=True))


def begin_loading(  # noqa: PLR0913 - the fields of a model, by name
    name: str,
    version: str | None = None,
    *,
    model_path: str | None = None,
    model_type: str | None = None,
    device: str | None = None,
    quantization: str | None = None,
    warmup: bool | None = None,
    replicas: int | None = None,
    max_batch_size: int | None = None,
    max_batch_wait_ms: float | None = None,
    options: Mapping[str, Any] | None = None,
    keep_previous: bool | None = None,
    unload_first: bool | None = None,
) -> Call[ModelMessage]:
    """Do what ``load_model`` does without waiting for it; ``model_health`` tells what became of it."""
    return call_for(ModelMessage, _load(locals(), wait=False))


def _load(given: dict[str, Any], *, wait: bool) -> Request:
    return Request("POST", f"{API}/models", body=body_of(ModelWish, wait=wait, **given), timeout_s=LOAD_TIMEOUT_S)


def unload_model(name: str, version: str) -> Call[ModelMessage]:
    """Let a version finish what it has begun, and end it.

    Raises:
        PermissionDenied: The key lacks the right ``admin``.
        NotFound: No such model or version.
        Conflict: It is the last one of the default model, or the name is being changed now.
    """
    request = Request("DELETE", f"{_model(name)}/versions/{quote(version, safe='')}", timeout_s=LOAD_TIMEOUT_S)
    return call_for(ModelMessage, request)


def set_traffic(name: str, shares: Mapping[str, float]) -> Call[Traffic]:
    """Split the questions that name no version over the versions of a model; those left out get none.

    Raises:
        PermissionDenied: The key lacks the right ``admin``.
        NotFound: No such model or version.
        InvalidInput: A share is negative, or none is above zero.
    """
    return call_for(Traffic, Request("PUT", f"{_model(name)}/traffic", body=orjson.dumps(dict(shares))))


def change_batching(
    name: str, *, max_batch_size: int | None = None, max_batch_wait_ms: float | None = None
) -> Call[ModelInfo]:
    """Change how batches of a model are made, from the next one on; None leaves a field as it is.

    Raises:
        PermissionDenied: The key lacks the right ``admin``.
        NotFound: No such model.
    """
    body = body_of(BatchingChange, max_batch_size=max_batch_size, max_batch_wait_ms=max_batch_wait_ms)
    return call_for(ModelInfo, Request("PATCH", _model(name), body=body))


def model_health(name: str) -> Call[ModelHealth]:
    """Let a model look at itself now, and return what it found.

    Raises:
        NotFound: No such model.
    """
    return call_for(ModelHealth, Request("GET", f"{_model(name)}/health"))


def health() -> Call[Health]:
    """Return how the service is."""
    return call_for(Health, Request("GET", "/health"))


def readiness() -> Call[Readiness]:
    """Return whether the service takes work, and what is missing; also where it does not."""
    request = Request("GET", "/health/ready")
    return Call(
        lambda retries: exchange(request, retries, lambda answer: document_of(Readiness, answer.body), also=(503,))
    )


def liveness() -> Call[Liveness]:
    """Return that the process runs."""
    return call_for(Liveness, Request("GET", "/health/live"))


def metrics() -> Call[str]:
    """Return all metrics as Prometheus reads them."""
    request = Request("GET", "/metrics", {"format": "prometheus"})
    return Call(lambda retries: exchange(request, retries, lambda answer: answer.body.decode()))


def statistics() -> Call[dict[str, Any]]:
    """Return ``{model: {p50, p95, p99, throughput, error_rate, ...}}``, in milliseconds and per second."""
    return json_call(Request("GET", "/metrics", {"format": "json"}))


def _model(name: str) -> str:
    return f"{API}/models/{quote(name, safe='')}"
