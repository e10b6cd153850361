"""One log line and one count a request, its id, and the last net for defects."""

from __future__ import annotations

import logging
import os
import re

from prometheus_client import Counter, Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from freeroam.api.gate import read_headers
from freeroam.api.problems import ProblemResponse
from freeroam.api.shapes import path_of
from freeroam.clock import Clock
from freeroam.observability.logs import LineLog, get_logger
from freeroam.observability.metrics import Metrics
from freeroam.security.keys import Caller
from freeroam.security.redaction import redact_text

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_QUIET = re.compile(r"/health(/[a-z]+)?|/metrics|/static-docs/.*")
CLIENT_CLOSED_REQUEST = 499
"""What the log and the counts call a request whose sender was gone before it had an answer."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_STARTS = frozenset({"http.response.start", "websocket.http.response.start"})

log = get_logger(__name__)
request_log = LineLog(__name__, "request")


class Journal:
    """Pure ASGI middleware, the outermost: gives each request an id, counts and logs it, and catches what nobody did.

    Args:
        app: The rest.
        clock: Tells the time.
        metrics: Counts requests by method, route template and status.
    """

    def __init__(self, app: ASGIApp, clock: Clock, metrics: Metrics) -> None:
        self._app = app
        self._clock = clock
        self._metrics = metrics
        self._counts: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and write its line when it is over."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        given = read_headers(scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()
        scope["freeroam.request_id"] = request_id
        scope["freeroam.transport"] = getattr(getattr(receive, "__self__", None), "transport", None)
        path = path_of(scope)  # now, because a mounted application shortens it
        began_s = self._clock.monotonic_s()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in _STARTS:
                status = message["status"]
                more = scope.get("freeroam.answer_headers", ())
                message["headers"] = [*message.get("headers", ()), *more, (b"x-request-id", request_id.encode())]
            elif message["type"] == "websocket.accept":
                status = 101
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            log.exception("request_failed", request_id=request_id, path=path)
            if status:
                _abort(scope)
            else:
                message = "Internal error; the log has it under this X-Request-ID"
                detail = {"code": "internal", "request_id": request_id}
                await ProblemResponse(500, message, detail)(scope, receive, send_with_id)
        finally:
            if not status and scope.get("freeroam.is_caller_gone"):
                status = CLIENT_CLOSED_REQUEST
            self._write(scope, path, status, self._clock.monotonic_s() - began_s)

    def _write(self, scope: Scope, path: str, status: int, duration_s: float) -> None:
        method = scope.get("method", "WEBSOCKET")
        route = getattr(scope.get("route"), "path", "unknown")
        requests, duration = self._counts_of(method, route, status)
        requests.inc()
        if scope["type"] == "http" and not scope.get("freeroam.is_stream"):
            duration.observe(duration_s)
        caller: Caller | None = scope.get("freeroam.caller")
        query = scope.get("query_string", b"").decode("latin-1")
        # A route without parameters is not what a caller wrote, so only other paths can hold a secret.
        shown = path if path == route and not query else redact_text(f"{path}?{query}" if query else path)
        request_log.write(
            logging.DEBUG if status < 400 and _QUIET.fullmatch(path) else logging.INFO,
            {
                "request_id": scope["freeroam.request_id"],
                "method": method if method in _METHODS else redact_text(method),
                "path": shown,
                "status": status,
                "duration_ms": round(duration_s * 1000, 1),
                "caller": caller.name if caller else None,
                "peer": (scope.get("client") or (None,))[0],
                **scope.get("freeroam.notes", {}),
            },
            self._clock.epoch_s(),
        )

    def _counts_of(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        """Return what counts and times such requests, looked up once."""
        label = method if method in _METHODS or method == "WEBSOCKET" else "other"
        key = (label, route, status)
        found = self._counts.get(key)
        if found is None:
            metrics = self._metrics
            found = (
                metrics.http_requests.labels(label, route, str(status)),
                metrics.http_duration.labels(label, route),
            )
            self._counts[key] = found
        return found


def note(scope: Scope, **fields: object) -> None:
    """Add fields to the line that the request will have in the log; a None is left out, and nothing is redacted."""
    notes = scope.setdefault("freeroam.notes", {})
    for name, value in fields.items():
        if value is not None:
            notes[name] = value


def audit(scope: Scope, deed: str, **fields: object) -> None:
    """Write an audit event: who did what to what."""
    caller: Caller = scope["freeroam.caller"]
    log.info("audit", deed=deed, who=caller.name, request_id=scope.get("freeroam.request_id"), **fields)


def _abort(scope: Scope) -> None:
    """Cut the connection of an answer that broke off, so that the reader does not take it for complete."""
    transport = scope.get("freeroam.transport")
    if transport is not None:
        transport.abort()
