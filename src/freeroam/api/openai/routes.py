"""The routes below /v1."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from freeroam.api.call_ends import CallerGone
from freeroam.api.direct_route import DirectRoute, unreadable
from freeroam.api.infer import NOBODY, whole_answer
from freeroam.api.inference_calls import InferenceCall, Wish, arrival_of, open_call, read_priority
from freeroam.api.openai.answers import Chunks, chat_completion, completion, to_json
from freeroam.api.openai.bodies import Asked, ChatBody, CompletionBody
from freeroam.api.openai.conversation import read_conversation
from freeroam.api.openai.formats import FREE, AnswerFormat, read_format
from freeroam.api.parts import Parts, TheParts
from freeroam.api.problems import MEANINGS
from freeroam.api.speech_stream import SpeechStream
from freeroam.vocabulary.errors import NotFound
from freeroam.vocabulary.inference import ChatMessage, InferenceParams, Output
from freeroam.vocabulary.model import ModelInfo

TAG = "openai"
MAX_USER_CHARS = 128

_CHUNKS = (
    'data: {"id":"chatcmpl-8a6e","object":"chat.completion.chunk","created":1768824000,"model":"smollm2",'
    '"choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}]}\n\ndata: [DONE]\n\n'
)


class OpenAIError(BaseModel):
    """What was wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAIProblem(BaseModel):
    """Body of every error answer below /v1."""

    error: OpenAIError


def _responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    described = sorted({400, 401, 403, 404, 413, 429, 500, 503, 504, *statuses})
    return {status: {"model": OpenAIProblem, "description": MEANINGS[status]} for status in described}


async def create_chat_completion(wish: ChatBody, request: Request) -> Response:
    """Answer a conversation as OpenAI does; the how-to for OpenAI's clients says which parameters are honoured.

    Content parts are `text` and `image_url` with a data URL. With `stream` the answer comes in chunks, and ends with
    `data: [DONE]`. What a detector saw comes as the field `predictions`.
    """
    wish.refuse_what_is_not_offered()
    talk = read_conversation(wish.messages, request.app.state.config.max_prompt_chars)
    parts: Parts = request.app.state.parts
    answer_format = FREE
    if wish.response_format is not None:
        answer_format = read_format(wish.response_format, parts.engine.describe(wish.model))
    asked = _wish(wish, talk.prompt, talk.turns, answer_format)
    return await _answer(wish, asked, talk.images, request, answer_format)


async def create_completion(wish: CompletionBody, request: Request) -> Response:
    """Continue a text as OpenAI does; the how-to for OpenAI's clients says which parameters are honoured."""
    wish.refuse_what_is_not_offered()
    return await _answer(wish, _wish(wish, wish.text()), (), request, FREE)


def _wish(wish: Asked, prompt: str, turns: list[ChatMessage] | None = None, answer_format: AnswerFormat = FREE) -> Wish:
    tuned: dict[str, Any] = wish.tuning()
    if turns is None:
        tuned["chat"] = False
    else:
        tuned["messages"] = turns
    if answer_format.choices:
        tuned["choices"] = list(answer_format.choices)
    try:
        params = InferenceParams.model_validate(tuned)
    except ValidationError as error:
        raise unreadable(error) from None
    return Wish(
        model=wish.model,
        prompt=prompt,
        params=params,
        priority=None if wish.priority is None else read_priority(wish.priority),
        client_id=(wish.user or "")[:MAX_USER_CHARS],
    )


async def _answer(
    wish: Asked, asked: Wish, images: tuple[str, ...], request: Request, answer_format: AnswerFormat
) -> Response:
    scope = request.scope
    parts: Parts = request.app.state.parts
    arrival = arrival_of(scope)
    is_chat = isinstance(wish, ChatBody)
    created = int(parts.clock.epoch_s())
    call = open_call(asked, arrival, parts, request.app.state.config, is_streamed=bool(wish.stream))
    if wish.stream:
        chunks = Chunks(
            arrival.request_id,
            created,
            wish.model,
            is_chat=is_chat,
            wants_usage=wish.wants_usage(),
            answer_format=answer_format,
        )
        return SpeechStream(call, chunks, images)
    try:
        async with call:
            output = await whole_answer(call, images, request.receive)
    except CallerGone:
        scope["freeroam.is_caller_gone"] = True
        return NOBODY
    return _written(call, output, created, answer_format if is_chat else None)


def _written(call: InferenceCall, output: Output, created: int, answer_format: AnswerFormat | None) -> Response:
    request_id, usage = call.request.request_id, call.usage()
    if answer_format is None:
        body = completion(request_id, created, output, usage)
    else:
        body = chat_completion(request_id, created, output, usage, answer_format)
    return Response(to_json(body), media_type="application/json")


router = APIRouter(prefix="/v1", tags=[TAG])


@router.get("/models", responses=_responses(), summary="Models, as OpenAI lists them")
async def list_models(parts: TheParts) -> dict[str, Any]:
    """List the names that `model` may be; where a model has several versions, each is `name@version` too."""
    models = parts.engine.list_models()
    names = [info.name for info in models]
    listed: dict[str, dict[str, Any]] = {}
    for info in models:
        listed.setdefault(info.name, _described(info.name, info, parts))
        if names.count(info.name) > 1:
            reference = f"{info.name}@{info.version}"
            listed[reference] = _described(reference, info, parts)
    return {"object": "list", "data": list(listed.values())}


@router.get("/models/{model:path}", responses=_responses(), summary="One model, as OpenAI describes it")
async def get_model(model: str, parts: TheParts) -> dict[str, Any]:
    """Describe one model."""
    if not model:
        raise NotFound("A model's name is wanted")
    return _described(model, parts.engine.describe(model), parts)


def _described(reference: str, info: ModelInfo, parts: Parts) -> dict[str, Any]:
    started_s = parts.clock.epoch_s() - (parts.clock.monotonic_s() - parts.started_monotonic_s)
    return {
        "id": reference,
        "object": "model",
        "created": int(started_s),
        "owned_by": "freeroam",
        "version": info.version,
        "state": info.state.value,
    }


_STREAM: dict[str, Any] = {"text/event-stream": {"schema": {"type": "string"}, "example": _CHUNKS}}

ROUTES = (
    DirectRoute(
        "/v1/chat/completions",
        create_chat_completion,
        response_class=Response,
        responses={**_responses(415), 200: {"content": {"application/json": {}, **_STREAM}}},
        summary="Chat completion",
        tags=[TAG],
    ),
    DirectRoute(
        "/v1/completions",
        create_completion,
        response_class=Response,
        responses={**_responses(), 200: {"content": {"application/json": {}, **_STREAM}}},
        summary="Completion",
        tags=[TAG],
    ),
)
"""To be put before all others, because each request is compared with the routes in turn."""
