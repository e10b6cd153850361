"""One log line and one count a request, its id, and the last net for defects."""

from __future__ import annotations

import re
import uuid

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from freeroam.api.gate import read_headers
from freeroam.api.problems import ProblemResponse
from freeroam.api.shapes import path_of
from freeroam.clock import Clock
from freeroam.observability.logs import get_logger
from freeroam.observability.metrics import Metrics
from freeroam.security.keys import Caller

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_QUIET = re.compile(r"/health(/[a-z]+)?|/metrics|/static-docs/.*")
CLIENT_CLOSED_REQUEST = 499
"""What the log and the counts call a request whose sender was gone before it had an answer."""
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

log = get_logger(__name__)


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

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and write its line when it is over."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        given = read_headers(scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope["freeroam.request_id"] = request_id
        scope["freeroam.transport"] = getattr(getattr(receive, "__self__", None), "transport", None)
        path = path_of(scope)  # now, because a mounted application shortens it
        began_s = self._clock.monotonic_s()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] in {"http.response.start", "websocket.http.response.start"}:
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
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
                await ProblemResponse(500, message, {"request_id": request_id})(scope, receive, send_with_id)
        finally:
            if not status and scope.get("freeroam.is_caller_gone"):
                status = CLIENT_CLOSED_REQUEST
            self._write(scope, path, status, self._clock.monotonic_s() - began_s)

    def _write(self, scope: Scope, path: str, status: int, duration_s: float) -> None:
        method = scope.get("method", "WEBSOCKET")
        route = getattr(scope.get("route"), "path", "unknown")
        label = method if method in _METHODS or method == "WEBSOCKET" else "other"
        self._metrics.http_requests.labels(label, route, str(status)).inc()
        if scope["type"] == "http" and not scope.get("freeroam.is_stream"):
            self._metrics.http_duration.labels(label, route).observe(duration_s)
        caller: Caller | None = scope.get("freeroam.caller")
        query = scope.get("query_string", b"").decode("latin-1")
        level = log.debug if _QUIET.fullmatch(path) and status < 400 else log.info
        level(
            "request",
            request_id=scope["freeroam.request_id"],
            method=method,
            path=f"{path}?{query}" if query else path,
            status=status,
            duration_ms=round(duration_s * 1000, 1),
            caller=caller.name if caller else None,
            peer=(scope.get("client") or (None,))[0],
            **scope.get("freeroam.notes", {}),
        )


def note(scope: Scope, **fields: object) -> None:
    """Add fields to the line that the request will have in the log; a None is left out."""
    notes = scope.setdefault("freeroam.notes", {})
    notes.update((name, value) for name, value in fields.items() if value is not None)


def audit(scope: Scope, deed: str, **fields: object) -> None:
    """Write an audit event: who did what to what."""
    caller: Caller = scope["freeroam.caller"]
    log.info("audit", deed=deed, who=caller.name, request_id=scope.get("freeroam.request_id"), **fields)


def _abort(scope: Scope) -> None:
    """Cut the connection of an answer that broke off, so that the reader does not take it for complete."""
    transport = scope.get("freeroam.transport")
    if transport is not None:
        transport.abort()
