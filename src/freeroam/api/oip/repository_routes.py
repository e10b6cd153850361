"""The routes below /v2/repository."""

from __future__ import annotations

from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from freeroam.api.bounds import lift_deadline
from freeroam.api.journal import audit
from freeroam.api.oip import repository
from freeroam.api.oip.replies import as_json
from freeroam.api.oip.requests import read_object, read_parameters
from freeroam.api.oip.routes import TAG, body_of, problems, read_body
from freeroam.api.parts import TheConfig, TheParts

router = APIRouter(prefix="/v2/repository", tags=[TAG], responses=problems(409))


@router.post(
    "/index", response_class=Response, openapi_extra=body_of("A filter.", {"ready": True}), summary="Models and states"
)
@router.post("/{name}/index", response_class=Response, include_in_schema=False)
async def list_index(request: Request, parts: TheParts, config: TheConfig) -> Response:
    """List every version; with `ready` only those that answer."""
    wish = await _read_wish(request, config)
    return as_json(repository.list_index(parts, only_ready=wish.get("ready") is True))


@router.post(
    "/models/{model}/load",
    response_class=Response,
    openapi_extra=body_of(
        "Parameters are the fields of `POST /api/v1/models`; without any, what the service was started with.",
        {"parameters": {"model_path": "/models/gpt2", "version": "2"}},
    ),
    summary="Load a model",
)
async def load_model(model: str, request: Request, parts: TheParts, config: TheConfig) -> Response:
    """Load a model and answer when it is ready."""
    lift_deadline(request.scope)
    parameters = read_parameters(await _read_wish(request, config))
    await repository.load(parts, config, model, parameters, partial(audit, request.scope))
    return as_json({})


@router.post("/models/{model}/unload", response_class=Response, summary="Unload a model")
async def unload_model(model: str, request: Request, parts: TheParts) -> Response:
    """Let every version finish what it has begun, and free its memory."""
    lift_deadline(request.scope)
    await repository.unload(parts, model, partial(audit, request.scope))
    return as_json({})


async def _read_wish(request: Request, config: TheConfig) -> dict[str, Any]:
    body = await read_body(request, config)
    return read_object(body) if body else {}
