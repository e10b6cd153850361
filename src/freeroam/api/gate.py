"""The door: who may call and how often, decided before any route runs, however the server was started."""

from __future__ import annotations

import re
from functools import lru_cache

from starlette.types import ASGIApp, Receive, Scope, Send

from freeroam.api.doorkeeper import KEYS_WANTED, Doorkeeper
from freeroam.api.problems import ProblemResponse, problem_of
from freeroam.api.shapes import path_of
from freeroam.observability.logs import get_logger
from freeroam.observability.metrics import Metrics
from freeroam.security.keys import Caller, Right
from freeroam.security.limits import Verdict
from freeroam.security.origin import find_origin
from freeroam.vocabulary.errors import FreeroamError, PermissionDenied, RateLimited, Unauthenticated

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN_TO_ALL = re.compile(r"/health(/[a-z]+)?|/docs|/redoc|/openapi\.json|/static-docs/.*")
_RUNS = re.compile(
    r"POST /api/v1/inference/start|DELETE /api/v1/inference/cancel/[^/]+|PATCH /api/v1/inference/jobs/[^/]+"
    r"|POST /api/v1/prompt/update"
    r"|POST /infer(_stream)?|POST /v1/(chat/)?completions"
    r"|POST /v2/models/[^/]+(/versions/[^/]+)?/(infer|generate|generate_stream)"
)
_READS = re.compile(r"POST /v2/repository/index")
log = get_logger(__name__)


@lru_cache(maxsize=1024)
def right_needed(method: str, path: str) -> Right:
    """Return the right that a request needs: ``read`` to look, ``run`` to ask, ``admin`` for the rest.

    Asking is starting and changing jobs, setting prompts, and every call of a model.
    """
    if method in SAFE_METHODS:
        return Right.READ
    deed = f"{method} {path}"
    if _RUNS.fullmatch(deed):
        return Right.RUN
    return Right.READ if _READS.fullmatch(deed) else Right.ADMIN


class Gate:
    """Pure ASGI middleware that names the caller in ``scope["freeroam.caller"]`` or refuses the request.

    Args:
        app: What is behind the gate.
        doorkeeper: Judges who calls and how often.
        metrics: Counts refusals.
    """

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper, metrics: Metrics) -> None:
        self._app = app
        self._doorkeeper = doorkeeper
        self._config = doorkeeper.config
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request pass, or answer it with 401, 403 or 429."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers = read_headers(scope)
        path = path_of(scope)
        peer = scope.get("client")
        origin = find_origin(peer[0] if peer else None, headers, self._config.trusted_proxies)
        method = scope.get("method", "GET")
        if OPEN_TO_ALL.fullmatch(path) or (path == "/metrics" and self._config.metrics_public):
            scope["freeroam.caller"] = Caller("anonymous", origin.client, rights=frozenset())
            await self._app(scope, receive, send)
            return
        caller: Caller | None = None
        refusal: FreeroamError | None = None
        try:
            changes_something = scope["type"] == "websocket" or method not in SAFE_METHODS
            caller = self._doorkeeper.recognise(headers, origin, changes_something=changes_something)
            _check_right(caller, method, path)
        except FreeroamError as error:
            refusal = error
        # A HEAD is as much work as the GET of the same path, so it takes from the same bucket.
        deed = f"{'GET' if method == 'HEAD' else method} {path}"
        verdict = self._doorkeeper.charge(caller or Caller("unknown", origin.client), deed)
        if verdict is not None and not verdict.is_allowed:
            self._metrics.count_rejected(RateLimited.default_code)
            await _too_often(verdict)(scope, receive, send)
        elif refusal is not None or caller is None:
            await self._refuse(refusal or Unauthenticated(KEYS_WANTED), scope, receive, send)
        else:
            scope["freeroam.caller"] = caller
            if verdict is not None:
                scope.setdefault("freeroam.answer_headers", []).extend(verdict.headers())
            await self._app(scope, receive, send)

    async def _refuse(self, error: FreeroamError, scope: Scope, receive: Receive, send: Send) -> None:
        self._metrics.count_rejected(error.code)
        await problem_of(error)(scope, receive, send)


def read_headers(scope: Scope) -> dict[str, str]:
    """Return the request's headers with lower-case names; a repeated one is joined with commas. Read once a request."""
    known: dict[str, str] | None = scope.get("freeroam.headers")
    if known is not None:
        return known
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope.get("headers", ()):
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    scope["freeroam.headers"] = headers
    return headers


def _check_right(caller: Caller, method: str, path: str) -> None:
    right = right_needed(method, path)
    if not caller.may(right):
        raise PermissionDenied(f"The key {caller.name!r} lacks the right {right.value!r}")


def _too_often(verdict: Verdict) -> ProblemResponse:
    message = f"More than {verdict.limit} requests in a minute"
    detail = {"code": RateLimited.default_code, "retry_after_seconds": verdict.retry_after_s}
    return ProblemResponse(429, message, detail, verdict.headers())
