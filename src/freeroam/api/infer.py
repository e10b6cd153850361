"""The product's own doors to a model: ``/infer`` for a whole answer, ``/infer_stream`` for one as it is spoken."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from freeroam.api.call_ends import CallerGone
from freeroam.api.direct_route import DirectRoute
from freeroam.api.gate import read_headers
from freeroam.api.inference_calls import NO_PARAMS, InferenceCall, Wish, arrival_of, open_call
from freeroam.api.parts import Parts
from freeroam.api.problems import responses
from freeroam.api.speech_stream import SpeechStream
from freeroam.security.redaction import redact_text
from freeroam.vocabulary.errors import FreeroamError
from freeroam.vocabulary.inference import InferenceParams, Output, Piece, Prediction, Priority
from freeroam.vocabulary.model_calls import InferAnswer, InferQuestion

_TUNED = frozenset({"max_tokens", "temperature", "top_p", "choices", "threshold", "stop", "seed"})

_EVENTS = (
    'data: {"request_id":"8a6e0804","token":"Once","index":0}\n\n'
    'data: {"request_id":"8a6e0804","token":" upon a","index":1,"count":2}\n\n'
    'event: done\ndata: {"request_id":"8a6e0804","model":"gpt2","version":"1.0.0","finish_reason":"length",'
    '"usage":{"prompt_tokens":4,"completion_tokens":3,"total_tokens":7}}\n\n'
)


def read_wish(question: InferQuestion) -> Wish:
    """Return what is asked, in the words of every door."""
    given = question.model_fields_set & _TUNED
    # Every field has the bounds of InferenceParams already, so nothing is validated a second time.
    values = {name: value for name in given if (value := getattr(question, name)) is not None}
    return Wish(
        question.model,
        question.prompt,
        InferenceParams.model_construct(_fields_set=set(values), **values) if values else NO_PARAMS,
        Priority[question.priority] if question.priority else None,
        question.client_id or "",
    )


async def infer(question: InferQuestion, request: Request) -> Response:
    """Answer a question to a model.

    With `stream: true`, or `Accept: text/event-stream`, it is answered as `/infer_stream` does. The deadline is the
    smaller of `REQUEST_TIMEOUT` and the header `X-Request-Timeout-Ms`; `X-Priority` may take the place of `priority`.
    A caller that goes away ends its question.
    """
    scope = request.scope
    if question.stream or "text/event-stream" in read_headers(scope).get("accept", ""):
        return await infer_stream(question, request)
    app = scope["app"]
    parts: Parts = app.state.parts
    call = open_call(read_wish(question), arrival_of(scope), parts, app.state.config)
    try:
        async with call:
            output = await whole_answer(call, question.images or (), request.receive)
    except CallerGone:
        scope["freeroam.is_caller_gone"] = True
        return NOBODY
    return JsonAnswer(write_answer(call, output))


async def infer_stream(question: InferQuestion, request: Request) -> Response:
    """Answer a question to a model as it speaks, by server-sent events.

    `data: {"request_id", "token", "index"}` for each piece; where a slow reader's pieces were merged, `count` says how
    many tokens are in one. Then `event: done` with usage and finish reason. What is refused has a status of its own
    before the first event; what fails after it comes as `event: error`. A comment is sent every 15 s of silence.
    """
    scope = request.scope
    app = scope["app"]
    parts: Parts = app.state.parts
    arrival = arrival_of(scope)
    call = open_call(read_wish(question), arrival, parts, app.state.config, is_streamed=True)
    return SpeechStream(call, NativeEvents(arrival.request_id), question.images or ())


async def whole_answer(call: InferenceCall, images: Any, receive: Receive) -> Output:
    """Return the answer, unless the caller goes away first.

    Args:
        call: Entered.
        images: The caller's pictures.
        receive: Tells when the caller is gone, where the connection itself does not (``CoalescedTransport.listen``).
    """
    transport = call.arrival.scope.get("freeroam.transport") if call.arrival.scope else None
    listen = getattr(transport, "listen", None)
    watch = None
    if transport is not None and listen is not None:
        listen(call.cut_as_gone)
        if transport.is_closing():
            call.cut_as_gone()
    else:
        watch = asyncio.create_task(_cut_when_gone(call, receive))
    try:
        await call.bring(images)
        return await call.answer()
    finally:
        if watch is not None:
            watch.cancel()
        elif transport is not None:
            transport.unlisten(call.cut_as_gone)


async def _cut_when_gone(call: InferenceCall, receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    call.cut_as_gone()


def write_answer(call: InferenceCall, output: Output) -> bytes:
    """Return the body of a whole answer."""
    text = output.text
    tokens = output.tokens or ((text,) if text else ())
    body: dict[str, Any] = {
        "request_id": call.request.request_id,
        "model": output.model,
        "version": output.version,
        "tokens": tokens,
        "text": text,
        "finish_reason": output.finish_reason,
        "usage": call.usage(),
    }
    _add_what_was_seen(body, output)
    return orjson.dumps(body, default=str)


def _add_what_was_seen(body: dict[str, Any], output: Output) -> None:
    """Put predictions, and what else the model told, into a body; nothing where there is nothing."""
    if output.predictions:
        body["predictions"] = [prediction_fields(prediction) for prediction in output.predictions]
    if output.extra:
        body["metadata"] = output.extra


def prediction_fields(prediction: Prediction) -> dict[str, Any]:
    """Return what a prediction says, as ``model_dump`` would, which costs several times as much."""
    more = prediction.__pydantic_extra__
    return {**prediction.__dict__, **more} if more else prediction.__dict__


class JsonAnswer(Response):
    """A small JSON body, without the search through headers that an ordinary response makes."""

    media_type = "application/json"

    def __init__(self, body: bytes) -> None:
        self.status_code = 200
        self.background = None
        self.body = body
        self.raw_headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 - asks nobody
        """Send it."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body})


class NativeEvents:
    """Writes an answer as ``/infer_stream`` gives it.

    Args:
        request_id: Named in every event.
    """

    def __init__(self, request_id: str) -> None:
        self._id = orjson.dumps(request_id)
        self._head = b'data: {"request_id":' + self._id + b',"token":'

    def begin(self) -> bytes:
        """Return nothing: the first event is the first piece."""
        return b""

    def piece(self, piece: Piece) -> bytes:
        """Return one event."""
        if piece.count == 1:
            return b'%b%b,"index":%d}\n\n' % (self._head, _text(piece.text), piece.index)
        return b'%b%b,"index":%d,"count":%d}\n\n' % (self._head, _text(piece.text), piece.index, piece.count)

    def end(self, output: Output, usage: dict[str, int]) -> bytes:
        """Return ``event: done`` with usage, finish reason and what was seen."""
        body: dict[str, Any] = {
            "request_id": orjson.Fragment(self._id),
            "model": output.model,
            "version": output.version,
            "finish_reason": output.finish_reason,
            "usage": usage,
        }
        _add_what_was_seen(body, output)
        return b"event: done\ndata: %b\n\n" % orjson.dumps(body, default=str)

    def error(self, error: FreeroamError, usage: dict[str, int]) -> bytes:
        """Return ``event: error`` with what was wrong and what had been given until then."""
        body = {
            "request_id": orjson.Fragment(self._id),
            "error": redact_text(error.message),
            "detail": {"code": error.code},
            "finish_reason": "error",
            "usage": usage,
        }
        return b"event: error\ndata: %b\n\n" % orjson.dumps(body, default=str)


def _text(text: str) -> bytes:
    try:
        return orjson.dumps(text)
    except TypeError:  # half a surrogate pair, which no UTF-8 can say
        return orjson.dumps(text.encode("utf-8", "replace").decode())


class _Nobody(Response):
    """The answer to a caller that is gone."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send nothing."""


NOBODY = _Nobody()

_EVENT_STREAM: dict[str, Any] = {"text/event-stream": {"schema": {"type": "string"}, "example": _EVENTS}}

ROUTES = (
    DirectRoute(
        "/infer",
        infer,
        response_model=InferAnswer,
        response_model_exclude_none=True,
        responses={**responses(404, 415), 200: {"content": _EVENT_STREAM}},
        summary="Ask a model",
        tags=["models"],
    ),
    DirectRoute(
        "/infer_stream",
        infer_stream,
        response_class=Response,
        responses={
            **responses(404, 415),
            200: {"description": "Pieces of the answer, then `done` or `error`.", "content": _EVENT_STREAM},
        },
        summary="Ask a model and read its answer as it is spoken",
        tags=["models"],
    ),
)
"""To be put before all others, because each request is compared with the routes in turn."""
