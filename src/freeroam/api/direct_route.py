"""A route for calls that come in thousands a second: described as any other, but read without FastAPI's machinery.

The machinery solves a route's dependencies and validates its parts for each request; a call of a model has one body and
needs none of that. The endpoint is an ordinary one, ``async def ask(wish: Body, request: Request) -> Response``, and
would work on an ordinary route too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, cast

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from freeroam.api.gate import read_headers
from freeroam.api.problems import ProblemResponse, explain_validation
from freeroam.api.shapes import is_below, path_of
from freeroam.api.spans import Spans
from freeroam.vocabulary.errors import DeadlineExceeded, FreeroamError, InvalidInput, TooLarge, UnknownField

PLAIN_BYTES = 256 * 1024
"""JSON up to this length is read whatever it holds."""

MAX_MARKS = 200_000
"""Commas and brackets of a longer one, besides those that a prompt may hold."""

MAX_MISTAKES = 1000
"""Mistakes in one body that are looked at."""


class Endpoint(Protocol):
    """What answers: it is given the body that was read and checked, and the request."""

    def __call__(self, wish: Any, request: Request) -> Awaitable[Response]:
        """Answer; a ``FreeroamError`` becomes the status that ``problems`` says."""
        ...


class DirectRoute(APIRoute):
    """A POST route of one JSON body.

    Args:
        path: Without parameters.
        endpoint: ``async def ask(wish: SomeModel, request: Request) -> Response``.
        options: As ``APIRoute`` takes them.
    """

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        super().__init__(path, endpoint, methods=["POST"], **options)
        body = self.dependant.body_params[0].field_info.annotation
        self.app = _reading(cast("type[BaseModel]", body), cast("Endpoint", endpoint))


class DirectDoors:
    """Pure ASGI middleware, the innermost before the framework: hands calls of direct routes straight to them.

    The way through the application's own layers and all its routes would cost a call of a model as much as the rest.

    Args:
        app: For every other request.
        routes: By their paths.
        tell: Makes the answer of an error.
        timeout_s: Until a request's body must be complete, and its answer begun.
    """

    def __init__(
        self,
        app: ASGIApp,
        routes: Sequence[DirectRoute],
        tell: Callable[[FreeroamError], ProblemResponse],
        timeout_s: float,
    ) -> None:
        self._app = app
        self._routes = {route.path: route for route in routes}
        self._tell = tell
        self._timeout_s = timeout_s
        self._spans = Spans()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on to whom it is for."""
        route = None
        if scope["type"] == "http" and scope["method"] == "POST":
            route = self._routes.get(path_of(scope))
        if route is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = route
        try:
            # One deadline serves the reading of the body and the call (``InferenceCall`` takes it over).
            async with self._spans.of(self._timeout_s) as deadline:
                scope["freeroam.answer_deadline"] = deadline
                try:
                    await route.app(scope, receive, send)
                except FreeroamError as error:
                    deadline.move(None)
                    await self._tell(error)(scope, receive, send)
        except TimeoutError:
            if not deadline.has_expired:
                raise
            late = DeadlineExceeded(f"The body was not complete within {self._timeout_s:g} s (REQUEST_TIMEOUT)")
            await self._tell(late)(scope, receive, send)


def _reading(body_type: type[BaseModel], endpoint: Endpoint) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["query_string"] and not is_below(path_of(scope), "/v1"):
            name = scope["query_string"].decode("latin-1").partition("=")[0]
            raise UnknownField(f"Unknown query parameter {name[:100]}")
        try:
            body = await read_body(scope, receive)
            # A prompt may be full of commas and brackets, and is bounded by itself.
            refuse_intricate(body, MAX_MARKS + scope["app"].state.config.max_prompt_chars)
            wish = body_type.model_validate_json(body)
        except ValidationError as error:
            raise unreadable(error) from None
        except ClientDisconnect:
            scope["freeroam.is_caller_gone"] = True
            return
        response = await endpoint(wish, Request(scope, receive, send))
        await response(scope, receive, send)

    return answer


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """Return a JSON request's body.

    Raises:
        InvalidInput: It says that it is no JSON.
        ClientDisconnect: The sender went away before it was complete.
    """
    kind = read_headers(scope).get("content-type", "application/json").partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        # A web page may send text and forms anywhere without being asked for leave, JSON not.
        raise InvalidInput("The body must be a JSON object; send it with Content-Type: application/json")
    return await collect_body(receive)


async def collect_body(receive: Receive) -> bytes:
    """Return a request's body, whatever it holds.

    Raises:
        ClientDisconnect: The sender went away before it was complete.
    """
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.request" and not message.get("more_body", False):
        return body
    pieces = [body]
    while message["type"] == "http.request" and message.get("more_body", False):
        message = await receive()
        pieces.append(message.get("body", b""))
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    return b"".join(pieces)


def refuse_intricate(body: bytes | memoryview, limit: int) -> None:
    """Refuse JSON of so many values that reading it would hold the event loop and take many times its size in memory.

    Counted by the marks between values, of which base64 has none; what is small costs little whatever it holds.

    Raises:
        TooLarge: There are more than ``limit``.
    """
    if len(body) <= PLAIN_BYTES:
        return
    text = bytes(body)
    if sum(text.count(mark) for mark in (b",", b"[", b"{")) > limit:
        raise TooLarge(
            f"The body's JSON has more than {limit} commas and brackets; send pictures as base64, tensors as bytes"
        )


def unreadable(error: ValidationError) -> FreeroamError:
    """Return what a caller is told whose body is not what it must be."""
    count = error.error_count()
    if count > MAX_MISTAKES:
        # Each would become a dictionary; millions of them fit into a body and would hold the event loop for seconds.
        return InvalidInput(f"The body has {count} mistakes; the documentation says which fields there are")
    problems = [dict(item) for item in error.errors(include_input=False, include_url=False)]
    if problems[0]["type"] in {"model_type", "model_attributes_type"} and not problems[0]["loc"]:
        return InvalidInput("The body must be a JSON object; send it with Content-Type: application/json")
    return explain_validation(problems)
