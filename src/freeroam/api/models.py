"""Routes of models: which there are, and for operators: load, unload, split the traffic, look after them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Path, Request
from fastapi.responses import JSONResponse

from freeroam.api.bounds import lift_deadline
from freeroam.api.journal import audit
from freeroam.api.model_loading import read_model_wish
from freeroam.api.parts import Parts, TheConfig, TheParts
from freeroam.api.problems import responses
from freeroam.security.redaction import redact_url
from freeroam.vocabulary.errors import ConfigurationError, Conflict, InvalidInput, NotFound
from freeroam.vocabulary.model import ModelInfo, ModelState
from freeroam.vocabulary.model_calls import (
    BatchingChange,
    ModelHealth,
    ModelList,
    ModelMessage,
    ModelWish,
    NamedModel,
    Share,
    Traffic,
)

router = APIRouter(tags=["models"])

# A name may be one of a hub, with a slash in it; the routes take it as a path for that.
Name = Annotated[str, Path(description="Name of the model.", examples=["gpt2"])]
Version = Annotated[str, Path(description="Version of it.", examples=["1.0.0"])]
Shares = Annotated[
    dict[str, Share], Body(min_length=1, description="Share by version.", examples=[{"1.0.0": 0.9, "2.0.0": 0.1}])
]


@router.get("/models", response_model=ModelList, responses=responses(), summary="Every model")
async def list_models(parts: TheParts) -> ModelList:
    """Return every model with all its versions, their states and statistics; the first is the default."""
    models = named_models(parts)
    return ModelList(models=models, total_models=len(models))


def named_models(parts: Parts) -> dict[str, NamedModel]:
    """Return every model by its name, the default first."""
    versions: dict[str, dict[str, ModelInfo]] = {}
    for info in parts.engine.list_models():
        versions.setdefault(info.name, {})[info.version] = info
    return {
        name: NamedModel(
            name=name,
            version=answering.version,
            state=answering.state,
            model_type=answering.model_type,
            device=answering.device,
            versions=infos,
        )
        for name, infos in versions.items()
        for answering in [_answering(infos)]
    }


def _answering(infos: dict[str, ModelInfo]) -> ModelInfo:
    """Return the version that answers most of the requests which name none."""
    return max(infos.values(), key=lambda info: info.share)


@router.post(
    "/api/v1/models",
    status_code=201,
    response_model=ModelInfo,
    responses={
        **responses(409),
        202: {"model": ModelMessage, "description": "It is being loaded (`wait: false`)."},
    },
    summary="Load a model",
)
async def load_model(wish: ModelWish, request: Request, parts: TheParts, config: TheConfig) -> JSONResponse:
    """Load a version while everything goes on: a name that is loaded already is swapped for it once it is ready.

    Answers 201 when it is ready, which `REQUEST_TIMEOUT` does not cut; with `wait: false` 202 at once, and
    `GET /api/v1/models/{name}/health` tells what became of it. A load that fails leaves everything as it was.
    """
    parts.lifecycle.check_admission()
    spec = read_model_wish(wish, config)
    if any((info.name, info.version) == (spec.name, spec.version) for info in parts.engine.list_models()):
        # Said here too, so that a load which nobody waits for is refused at once.
        raise Conflict(f"Model {spec.name} has version {spec.version} already")
    audit(request.scope, "model_load", model=spec.name, version=spec.version, path=redact_url(spec.model_path))
    task = parts.loads.begin(parts.engine, spec, keep_previous=wish.keep_previous, unload_first=wish.unload_first)
    if not wish.wait:
        message = f"Model {spec.name}@{spec.version} is being loaded"
        document = ModelMessage(message=message, name=spec.name, version=spec.version, state=ModelState.LOADING)
        return JSONResponse(document.model_dump(mode="json"), status_code=202)
    lift_deadline(request.scope)
    info = await task
    return JSONResponse(info.model_dump(mode="json"), status_code=201)


@router.delete(
    "/api/v1/models/{name:path}/versions/{version}",
    response_model=ModelMessage,
    responses=responses(404, 409),
    summary="Unload a version",
)
async def unload_model(name: Name, version: Version, request: Request, parts: TheParts) -> ModelMessage:
    """Let a version finish what it has begun and free its memory; its share goes to the versions left."""
    lift_deadline(request.scope)
    audit(request.scope, "model_unload", model=name, version=version)
    await parts.engine.unload_model(name, version)
    message = f"Model {name}@{version} unloaded"
    return ModelMessage(message=message, name=name, version=version, state=ModelState.UNLOADED)


@router.put(
    "/api/v1/models/{name:path}/traffic", response_model=Traffic, responses=responses(404), summary="Split the traffic"
)
async def set_traffic(name: Name, shares: Shares, request: Request, parts: TheParts) -> Traffic:
    """Split the requests that name no version by shares, for trying one version beside another."""
    parts.engine.set_traffic(name, shares)
    total = sum(shares.values())
    audit(request.scope, "model_traffic", model=name, shares=shares)
    return Traffic(name=name, traffic={version: share / total for version, share in shares.items()})


@router.patch(
    "/api/v1/models/{name:path}",
    response_model=ModelInfo,
    responses=responses(404),
    summary="Change how batches are made",
)
async def change_batching(name: Name, change: BatchingChange, request: Request, parts: TheParts) -> ModelInfo:
    """Change the size of batches and the wait for them; it holds from the next batch on."""
    try:
        parts.engine.change_batching(name, max_batch=change.max_batch_size, max_batch_wait_ms=change.max_batch_wait_ms)
    except ConfigurationError as error:
        raise InvalidInput(error.message) from None
    audit(request.scope, "model_batching", model=name, **change.model_dump(exclude_none=True))
    return parts.engine.describe(name)


@router.get(
    "/api/v1/models/{name:path}/health", response_model=ModelHealth, responses=responses(404), summary="How a model is"
)
async def get_model_health(name: Name, parts: TheParts) -> ModelHealth:
    """Let the model look at itself now; the answer is 200 whatever it says, `healthy` tells."""
    load_error = parts.loads.failure_of(name)
    try:
        info = await parts.engine.check_model(name)
    except NotFound as error:
        if load_error is None:
            raise
        raise NotFound(f"{error.message}; loading it failed: {load_error}") from None
    return ModelHealth(
        name=info.name,
        version=info.version,
        healthy=info.state is ModelState.READY,
        state=info.state,
        replicas_ready=info.replicas_ready,
        replicas_wanted=info.replicas_wanted,
        queued=info.queued,
        error=info.error,
        load_error=load_error,
    )
