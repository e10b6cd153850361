"""Builds the FastAPI application: routes, middleware, error shapes, description."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

import freeroam
from freeroam.api import exposition, health, infer, jobs, listening, models, prompts, status
from freeroam.api.bounds import AnswerDeadline, BodyLimit, ConnectionLimit
from freeroam.api.direct_route import DirectDoors
from freeroam.api.docs import add_docs
from freeroam.api.doorkeeper import Doorkeeper
from freeroam.api.examples import add_examples
from freeroam.api.field_notes import move_notes
from freeroam.api.gate import Gate
from freeroam.api.heads import HeadAsGet
from freeroam.api.journal import Journal
from freeroam.api.oip import repository_routes as oip_repository
from freeroam.api.oip import routes as oip
from freeroam.api.openai import routes as openai
from freeroam.api.parts import ApiConfig
from freeroam.api.problems import ProblemResponse, explain_validation, problem_of
from freeroam.api.shapes import is_below, path_of
from freeroam.clock import Clock
from freeroam.observability.metrics import Metrics
from freeroam.vocabulary.errors import FreeroamError, UnknownField

DESCRIPTION = """Questions to live video, answered while the stream runs.

Point a job at a stream, give it a prompt, read results while it runs. Every error has the body `{"error", "detail"}`,
but for those below `/v1`, which have OpenAI's, and below `/v2`, which have `{"error"}`.
Keys travel as `Authorization: Bearer ...` or `X-API-Key`; without any key configured only this machine is served.
"""
TAGS = [
    {"name": "inference", "description": "Jobs: a standing question to a stream, and its results."},
    {"name": "prompts", "description": "What jobs ask, in versions: the global prompt, and each job's own."},
    {"name": "models", "description": "Questions straight to a model, and the life of models."},
    {"name": openai.TAG, "description": "What OpenAI's clients call."},
    {"name": oip.TAG, "description": "What Triton's clients call; the same over gRPC."},
    {"name": "health", "description": "For probes; open to all."},
    {"name": "metrics", "description": "For Prometheus."},
]
"""The parts of the description, in the order in which they are shown."""

EXPOSED = ("X-Request-ID", "Retry-After", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
"""Headers of answers that pages of the origins in ``CORS_ORIGINS`` may read."""

UNREADABLE = "There was an error parsing the body"
"""What the framework says of a body whose bytes are no text, or whose JSON is nested too deeply."""

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_application(
    config: ApiConfig,
    clock: Clock,
    metrics: Metrics,
    lifespan: Lifespan | None = None,
    doorkeeper: Doorkeeper | None = None,
) -> FastAPI:
    """Return the application; ``app.state.parts`` must be set before the first request (``lifespan`` does).

    Args:
        config: What the api must know of the settings.
        clock: Tells the time to limits and the journal.
        metrics: Counts requests.
        lifespan: Starts and stops the parts; None if the caller does.
        doorkeeper: Shared with the other doors of this service; None if there are none.
    """
    app = _Application(
        title="Freeroam",
        version=freeroam.__version__,
        description=DESCRIPTION,
        openapi_tags=TAGS,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        root_path=config.root_path,
        dependencies=[Depends(refuse_unknown_parameters)],
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.config = config
    app.router.default = partial(_nowhere, app.router.default)
    direct = (*infer.ROUTES, *openai.ROUTES)
    app.router.routes.extend(direct)
    for noun in (health, jobs, listening, prompts, models, status, openai, oip, oip_repository):
        app.include_router(noun.router)
    if config.enable_metrics:
        app.include_router(exposition.router)
    add_docs(app)
    tell = partial(_answer_of, metrics)
    _map_errors(app, tell)
    # The last one added is the outermost.
    app.add_middleware(HeadAsGet)
    app.add_middleware(AnswerDeadline, timeout_s=config.request_timeout_s)
    front: ASGIApp = DirectDoors(app.framework, direct, tell, config.request_timeout_s)
    front = BodyLimit(front, config.max_body_bytes, config.max_prompt_chars)
    front = Gate(front, doorkeeper or Doorkeeper(config, clock), metrics)
    front = ConnectionLimit(front, config.max_connections, metrics)
    if config.cors_origins:
        front = CORSMiddleware(
            front,
            allow_origins=list(config.cors_origins),
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    app.front = Journal(front, clock, metrics)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    return app


class _Application(FastAPI):
    """The framework's application, with layers before it that its own would cost each call of a model a tenth more.

    Attributes:
        front: The outermost layer; the innermost hands on to ``framework``.
    """

    front: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a connection through the layers."""
        scope["app"] = self
        if self.root_path:
            scope["root_path"] = self.root_path
        await self.front(scope, receive, send)

    async def framework(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take what no layer has answered."""
        await super().__call__(scope, receive, send)


async def refuse_unknown_parameters(request: HTTPConnection) -> None:
    """Refuse query parameters that the route does not know, which are mostly misspelled ones.

    Raises:
        UnknownField: There is one.
    """
    route = request.scope.get("route")
    if not isinstance(route, APIRoute) or is_below(route.path, "/v1") or is_below(route.path, "/v2"):
        return
    known = {field.alias for field in route.dependant.query_params}
    for name in request.query_params:
        if name not in known:
            allowed = f"; known are {', '.join(sorted(known))}" if known else ""
            raise UnknownField(f"Unknown query parameter {name[:100]}{allowed}")


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI description: validation is 400 here, and keys are described."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    schema = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=app.openapi_tags
    )
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            operation["responses"].pop("422", None)
            if not path.startswith("/health"):
                operation["security"] = [{"bearer": []}, {"header": []}, {}]
    schemas = schema["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    schema["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    add_examples(schema)
    move_notes(schema)
    app.openapi_schema = schema
    return schema


async def _nowhere(otherwise: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Deny a WebSocket that nothing takes in the words of all errors; the framework would refuse it without one."""
    if scope["type"] != "websocket":
        await otherwise(scope, receive, send)
        return
    message = f"There is no WebSocket at {path_of(scope)[:200]}"
    await ProblemResponse(404, message)(scope, receive, send)


def _answer_of(metrics: Metrics, error: FreeroamError) -> ProblemResponse:
    metrics.count_refusal(error)
    return problem_of(error)


def _map_errors(app: FastAPI, tell: Callable[[FreeroamError], ProblemResponse]) -> None:
    @app.exception_handler(FreeroamError)
    async def tell_ours(_: Request, error: FreeroamError) -> ProblemResponse:
        return tell(error)

    @app.exception_handler(Exception)
    async def leave_to_the_journal(_: Request, error: Exception) -> ProblemResponse:
        raise error

    @app.exception_handler(RequestValidationError)
    async def tell_invalid(_: Request, error: RequestValidationError) -> ProblemResponse:
        return problem_of(explain_validation(error.errors()))

    @app.exception_handler(HTTPException)
    async def tell_http(request: Request, error: HTTPException) -> ProblemResponse:
        message = str(error.detail)
        if message == UNREADABLE:
            message = "The body is no JSON in UTF-8"
        elif error.status_code == 404:
            message = f"There is nothing at {request.url.path[:200]}"
        elif error.status_code == 405:
            message = f"{request.method[:20]} is not possible at {request.url.path[:200]}"
        headers = [(name.lower().encode(), value.encode()) for name, value in (error.headers or {}).items()]
        return ProblemResponse(error.status_code, message, headers=headers)
