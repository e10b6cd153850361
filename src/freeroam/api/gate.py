"""The door: who may call and how often, decided before any route runs, however the server was started."""

from __future__ import annotations

import re
from collections.abc import Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from freeroam.api.parts import ApiConfig
from freeroam.api.problems import ProblemResponse, problem_of
from freeroam.clock import Clock
from freeroam.observability.logs import get_logger
from freeroam.observability.metrics import Metrics
from freeroam.security.keys import Caller, Key, KeyRing, Right
from freeroam.security.limits import RateLimiter, Verdict
from freeroam.security.origin import Origin, find_origin, names_this_machine, speaks_for_a_foreign_page
from freeroam.vocabulary.errors import FreeroamError, PermissionDenied, Unauthenticated

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
OPEN_TO_ALL = re.compile(r"/health(/[a-z]+)?|/docs|/redoc|/openapi\.json|/static-docs/.*")
_RUNS = re.compile(
    r"POST /api/v1/inference/start|DELETE /api/v1/inference/cancel/[^/]+|PATCH /api/v1/inference/jobs/[^/]+"
    r"|POST /api/v1/prompt/update"
)
_KEYS_WANTED = (
    "This server has keys: send one as a Bearer token in the Authorization header, or in the X-API-Key header"
)
_ONLY_LOCAL = (
    "Without a key only this machine itself is served. Set API_KEY or API_KEYS_FILE on the server and send the key, "
    "or set ALLOW_ANONYMOUS=true there; behind a proxy, name it in TRUSTED_PROXIES"
)
_WRONG_HOST = (
    "Without a key this server answers only under the names of its own machine (localhost, 127.0.0.1, HOST), "
    "so that a web page cannot reach it under a name of its own. Set API_KEY or API_KEYS_FILE"
)
_FOREIGN_PAGE = "A web page of another origin may not call this server; add its origin to CORS_ORIGINS, or send a key"

log = get_logger(__name__)


def right_needed(method: str, path: str) -> Right:
    """Return the right that a request needs: ``read`` to look, ``run`` for jobs and prompts, ``admin`` for the rest."""
    if method in SAFE_METHODS:
        return Right.READ
    return Right.RUN if _RUNS.fullmatch(f"{method} {path}") else Right.ADMIN


class Gate:
    """Pure ASGI middleware that names the caller in ``scope["freeroam.caller"]`` or refuses the request.

    Args:
        app: What is behind the gate.
        config: Keys, proxies, limits.
        clock: Tells the time to the limiter.
        metrics: Counts refusals.
    """

    def __init__(self, app: ASGIApp, config: ApiConfig, clock: Clock, metrics: Metrics) -> None:
        self._app = app
        self._config = config
        self._keys = KeyRing(config.keys)
        self._limiter = RateLimiter(clock)
        self._metrics = metrics
        self._endpoint_limits = [_compile_limit(text, limit) for text, limit in config.rates.per_endpoint.items()]

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
            caller = self._recognise(scope, headers, origin)
            _check_right(caller, method, path)
        except FreeroamError as error:
            refusal = error
        verdict = self._charge(caller or Caller("unknown", origin.client), method, path)
        if verdict is not None and not verdict.is_allowed:
            self._metrics.rejected.labels("rate_limit").inc()
            await _too_often(verdict)(scope, receive, send)
        elif refusal is not None or caller is None:
            await self._refuse(refusal or Unauthenticated(_KEYS_WANTED), scope, receive, send)
        else:
            scope["freeroam.caller"] = caller
            await self._app(scope, receive, send if verdict is None else _with_headers(send, verdict))

    def _recognise(self, scope: Scope, headers: Mapping[str, str], origin: Origin) -> Caller:
        text = _key_in(headers)
        if text is not None and not self._keys.is_empty:
            return _caller_of(self._keys.find(text))
        if not self._keys.is_empty and not self._config.allow_anonymous:
            raise Unauthenticated(_KEYS_WANTED)
        if not self._config.allow_anonymous:
            if not origin.is_local:
                raise Unauthenticated(_ONLY_LOCAL)
            if not names_this_machine(headers.get("host", "localhost"), self._config.own_names):
                raise Unauthenticated(_WRONG_HOST)
        changes_something = scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS
        if changes_something and speaks_for_a_foreign_page(headers, self._config.cors_origins):
            raise PermissionDenied(_FOREIGN_PAGE)
        return Caller("local" if origin.is_local else "anonymous", origin.client)

    def _charge(self, caller: Caller, method: str, path: str) -> Verdict | None:
        """Take a token from each bucket that applies; return the first that is empty, else the tightest."""
        per_minute = caller.rate_limit_per_minute or self._config.rates.per_minute
        verdicts = [self._limiter.take(caller.client, per_minute)] if per_minute else []
        for name, pattern, limit in self._endpoint_limits:
            if pattern.fullmatch(f"{method} {path}"):
                verdicts.append(self._limiter.take(caller.client, limit, name))
        refused = [verdict for verdict in verdicts if not verdict.is_allowed]
        return refused[0] if refused else min(verdicts, key=lambda verdict: verdict.remaining, default=None)

    async def _refuse(self, error: FreeroamError, scope: Scope, receive: Receive, send: Send) -> None:
        self._metrics.rejected.labels(error.code).inc()
        await problem_of(error)(scope, receive, send)


def read_headers(scope: Scope) -> dict[str, str]:
    """Return the request's headers with lower-case names; a repeated one is joined with commas."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in scope.get("headers", ()):
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def path_of(scope: Scope) -> str:
    """Return the path as routes see it, without the root path."""
    path, root = str(scope.get("path", "")), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(root + "/") else path


def _key_in(headers: Mapping[str, str]) -> str | None:
    scheme, _, text = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and text.strip():
        return text.strip()
    return headers.get("x-api-key", "").strip() or None


def _caller_of(key: Key) -> Caller:
    return Caller(
        name=key.name,
        client=f"key:{key.name}",
        rights=key.rights,
        has_key=True,
        rate_limit_per_minute=key.rate_limit_per_minute,
        max_streams=key.max_streams,
        highest_priority=key.highest_priority,
    )


def _check_right(caller: Caller, method: str, path: str) -> None:
    right = right_needed(method, path)
    if not caller.may(right):
        raise PermissionDenied(f"The key {caller.name!r} lacks the right {right.value!r}")


def _compile_limit(text: str, limit: int) -> tuple[str, re.Pattern[str], int]:
    """Turn ``POST /api/v1/jobs/{job_id}`` into a pattern over method and path."""
    method, _, path = text.rpartition(" ")
    literal = "".join("[^/]+" if part.startswith("{") else re.escape(part) for part in re.split(r"(\{[^}]*\})", path))
    return text, re.compile(f"{re.escape(method) if method else '[A-Z]+'} {literal}"), limit


def _too_often(verdict: Verdict) -> ProblemResponse:
    message = f"More than {verdict.limit} requests in a minute"
    return ProblemResponse(429, message, {"retry_after_seconds": verdict.retry_after_s}, verdict.headers())


def _with_headers(send: Send, verdict: Verdict) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), *verdict.headers()]
        await send(message)

    return send_with_headers
