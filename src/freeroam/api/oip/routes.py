"""The routes below /v2 that ask models and describe them; those of the repository are in ``repository_routes``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from freeroam.api.call_ends import CallerGone
from freeroam.api.direct_route import collect_body
from freeroam.api.infer import NOBODY, whole_answer
from freeroam.api.inference_calls import Arrival, arrival_of, open_call
from freeroam.api.oip import descriptions
from freeroam.api.oip.questions import IMAGES, PROMPTS, TUNABLE, read_question, read_timeout_s, read_wish
from freeroam.api.oip.replies import HEADER_LENGTH, GeneratedEvents, as_json, write_generated, write_infer
from freeroam.api.oip.requests import MAX_ID_CHARS, decompressed, read_infer, read_object, read_parameters
from freeroam.api.parts import ApiConfig, TheConfig, TheParts
from freeroam.api.problems import MEANINGS
from freeroam.api.speech_stream import SpeechStream
from freeroam.vocabulary.errors import InvalidInput, ModelNotReady

TAG = "open inference protocol"


class OipProblem(BaseModel):
    """Body of every error answer below /v2."""

    error: str


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the error part of a route's description."""
    described = sorted({400, 401, 403, 404, 413, 429, 500, 503, 504, *statuses})
    return {status: {"model": OipProblem, "description": MEANINGS[status]} for status in described}


def body_of(description: str, example: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a route's description that says what its body is, which the route reads itself."""
    content = {"application/json": {"schema": {"type": "object"}, "example": example}}
    return {"requestBody": {"description": description, "content": content}}


_INFER = body_of(
    "Tensors; with `Inference-Header-Content-Length` their bytes follow the JSON.",
    {
        "inputs": [{"name": "prompt", "datatype": "BYTES", "shape": [1], "data": ["Say hello"]}],
        "parameters": {"max_tokens": 50, "temperature": 0.0},
    },
)
_GENERATE = body_of("A text, and parameters.", {"text_input": "Say hello", "parameters": {"max_tokens": 50}})

router = APIRouter(prefix="/v2", tags=[TAG], responses=problems())


@router.get("", summary="What this server is")
async def get_server() -> dict[str, Any]:
    """Name, version and the protocol's extensions that are offered."""
    return descriptions.server_metadata()


@router.get("/health/live", summary="Whether the process runs")
async def get_live() -> dict[str, bool]:
    """200 as long as the event loop turns."""
    return {"live": True}


@router.get("/health/ready", summary="Whether every model answers")
async def get_ready(parts: TheParts) -> Response:
    """200 when every model answers and the service is not stopping, else 503."""
    if not descriptions.is_server_ready(parts):
        raise ModelNotReady("A model is not ready, or the service is stopping")
    return as_json({"ready": True})


@router.get("/models/stats", summary="Statistics of every model")
async def get_all_statistics(parts: TheParts) -> dict[str, Any]:
    """One entry a version."""
    return {"model_stats": [descriptions.model_statistics(info) for info in parts.engine.list_models()]}


@router.get("/models/{model}", summary="What goes into a model and what comes out")
@router.get("/models/{model}/versions/{version}", include_in_schema=False)
async def get_model(model: str, parts: TheParts, version: str = "") -> dict[str, Any]:
    """Describe the tensors of a model."""
    info = descriptions.find_model(parts.engine, model, version)
    return descriptions.model_metadata(info, descriptions.versions_of(parts.engine.list_models(), info.name))


@router.get("/models/{model}/ready", summary="Whether a model answers")
@router.get("/models/{model}/versions/{version}/ready", include_in_schema=False)
async def get_model_ready(model: str, parts: TheParts, version: str = "") -> Response:
    """200 if it does, 503 if it does not now, 404 if there is none."""
    info = descriptions.find_model(parts.engine, model, version)
    if info.state not in descriptions.ANSWERING:
        raise ModelNotReady(f"The model {info.name}@{info.version} is {info.state.value}")
    return as_json({"name": info.name, "ready": True})


@router.get("/models/{model}/config", summary="A model's configuration")
@router.get("/models/{model}/versions/{version}/config", include_in_schema=False)
async def get_model_config(model: str, parts: TheParts, version: str = "") -> dict[str, Any]:
    """Describe a model in Triton's words."""
    return descriptions.model_config(descriptions.find_model(parts.engine, model, version))


@router.get("/models/{model}/stats", summary="A model's statistics")
@router.get("/models/{model}/versions/{version}/stats", include_in_schema=False)
async def get_model_statistics(model: str, parts: TheParts, version: str = "") -> dict[str, Any]:
    """Counts since the start, and times."""
    info = descriptions.find_model(parts.engine, model, version)
    return {"model_stats": [descriptions.model_statistics(info)]}


@router.post("/models/{model}/infer", response_class=Response, openapi_extra=_INFER, summary="Ask a model by tensors")
@router.post("/models/{model}/versions/{version}/infer", response_class=Response, include_in_schema=False)
async def infer(model: str, request: Request, parts: TheParts, config: TheConfig, version: str = "") -> Response:
    """Answer one question; the how-to for Triton's clients names the tensors and parameters."""
    body = await read_body(request, config)
    if body is None:
        return NOBODY
    message = read_infer(body, request.headers.get(HEADER_LENGTH))
    reference = descriptions.reference_of(model, version)
    question = read_question(reference, message.tensors, message.parameters, list(message.outputs), config)
    arrival = _in_time(arrival_of(request.scope), question.timeout_s)
    call = open_call(question.wish, arrival, parts, config)
    try:
        async with call:
            output = await whole_answer(call, question.images, request.receive)
    except CallerGone:
        return _gone(request)
    return write_infer(message, question.outputs, output)


@router.post(
    "/models/{model}/generate", response_class=Response, openapi_extra=_GENERATE, summary="Ask a model by text"
)
@router.post("/models/{model}/versions/{version}/generate", response_class=Response, include_in_schema=False)
async def generate(model: str, request: Request, parts: TheParts, config: TheConfig, version: str = "") -> Response:
    """Answer a text by a text."""
    asked = await _Generate.read(request, config, descriptions.reference_of(model, version))
    if asked is None:
        return NOBODY
    call = open_call(asked.wish, _in_time(arrival_of(request.scope), asked.timeout_s), parts, config)
    try:
        async with call:
            output = await whole_answer(call, asked.images, request.receive)
    except CallerGone:
        return _gone(request)
    return as_json(write_generated(asked.id, output))


@router.post(
    "/models/{model}/generate_stream",
    response_class=Response,
    openapi_extra=_GENERATE,
    summary="Ask a model by text and read its answer as it is spoken",
)
@router.post("/models/{model}/versions/{version}/generate_stream", response_class=Response, include_in_schema=False)
async def generate_stream(
    model: str, request: Request, parts: TheParts, config: TheConfig, version: str = ""
) -> Response:
    """Answer a text by server-sent events, one a piece; an error after the first is an event `{"error"}`."""
    asked = await _Generate.read(request, config, descriptions.reference_of(model, version))
    if asked is None:
        return NOBODY
    arrival = _in_time(arrival_of(request.scope), asked.timeout_s)
    call = open_call(asked.wish, arrival, parts, config, is_streamed=True)
    return SpeechStream(call, GeneratedEvents(asked.id, model), asked.images)


@router.api_route(
    "/{kind}sharedmemory/{rest:path}", methods=["GET", "POST"], response_class=Response, include_in_schema=False
)
async def refuse_shared_memory(kind: str, rest: str) -> Response:  # noqa: ARG001 - whatever is asked of it
    """Say that tensors come inside the request."""
    raise InvalidInput("shared memory is not offered here; send tensors inside the request")


class _Generate:
    """A request to generate.

    Args:
        reference: ``name`` or ``name@version``.
        body: What came; what is no field of its own here may be a parameter.
    """

    def __init__(self, reference: str, body: Mapping[str, Any]) -> None:
        prompt = next((body[name] for name in PROMPTS if name in body), None)
        if not isinstance(prompt, str):
            raise InvalidInput("text_input is required and must be a text")
        images: Any = next((body[name] for name in IMAGES if body.get(name)), [])
        if isinstance(images, str):
            images = [images]
        if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
            raise InvalidInput("image must be a base64 text or a data URL, or a list of such")
        self.id = body.get("id", "")
        if not isinstance(self.id, str) or len(self.id) > MAX_ID_CHARS:
            raise InvalidInput(f"id must be a text of at most {MAX_ID_CHARS} characters")
        beside = {name: body[name] for name in (*TUNABLE, "priority", "timeout", "client_id") if name in body}
        parameters = {**beside, **read_parameters(body)}
        self.wish = read_wish(reference, prompt, parameters)
        self.images: list[str] = images
        self.timeout_s = read_timeout_s(parameters)

    @classmethod
    async def read(cls, request: Request, config: ApiConfig, reference: str) -> _Generate | None:
        """Return what is asked; None if the client went away while it said so."""
        body = await read_body(request, config)
        return None if body is None else cls(reference, read_object(body))


async def read_body(request: Request, config: ApiConfig) -> bytes | None:
    """Return the body, unfolded; None if the client went away before it was complete."""
    try:
        body = await collect_body(request.receive)
    except ClientDisconnect:
        _gone(request)
        return None
    encoding = request.headers.get("content-encoding")
    return body if encoding is None else await asyncio.to_thread(decompressed, body, encoding, config.max_body_bytes)


def _in_time(arrival: Arrival, timeout_s: float | None) -> Arrival:
    """Return the arrival with the shorter of its time limit and the request's own."""
    if timeout_s is None:
        return arrival
    return arrival._replace(timeout_s=min(timeout_s, arrival.timeout_s or timeout_s))


def _gone(request: Request) -> Response:
    request.scope["freeroam.is_caller_gone"] = True
    return NOBODY
