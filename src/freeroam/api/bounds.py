"""How much is taken in at once: open connections, body sizes, and the time until an answer begins."""

from __future__ import annotations

import re

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from freeroam.api.gate import read_headers
from freeroam.api.problems import ProblemResponse, problem_of
from freeroam.api.shapes import path_of
from freeroam.api.spans import Span, Spans
from freeroam.observability.metrics import Metrics
from freeroam.vocabulary.errors import DeadlineExceeded, Unavailable


class ConnectionLimit:
    """Pure ASGI middleware: at most ``max_connections`` requests, streams and sockets at once; health is exempt.

    The server's own limit answers in plain text without ``Retry-After`` and refuses health probes too.
    """

    def __init__(self, app: ASGIApp, max_connections: int, metrics: Metrics) -> None:
        self._app = app
        self._max_connections = max_connections
        self._metrics = metrics
        self.open = 0
        metrics.connections.set_function(lambda: self.open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request pass, or answer 503."""
        if scope["type"] not in {"http", "websocket"} or path_of(scope).startswith("/health"):
            scope["freeroam.connections"] = self.open
            await self._app(scope, receive, send)
            return
        if self.open >= self._max_connections:
            self._metrics.count_rejected("connections")
            message = f"Maximum connections ({self._max_connections}) reached"
            await problem_of(Unavailable(message, retry_after_s=2.0))(scope, receive, send)
            return
        self.open += 1
        scope["freeroam.connections"] = self.open
        try:
            await self._app(scope, receive, send)
        finally:
            self.open -= 1


MAX_HEAD_BYTES = 64 * 1024
"""Path, query, and all header names and values of a request together."""


WISH_BYTES = 1024 * 1024
"""A body without pictures or tensors, unless the longest prompt is longer."""

_LONGEST_CHARACTER_BYTES = 12
"""Of one character in JSON: two escapes of six."""

_CARRIES_PICTURES = re.compile(r"/infer(_stream)?|/v1/.*|/v2/models/.*")


class BodyLimit:
    """Pure ASGI middleware: bodies over ``max_body_bytes`` are refused, by their length or while they are read.

    Bodies of doors that take no pictures are bounded as wishes are (``WISH_BYTES``), because reading megabytes of small
    values holds the event loop for seconds. Heads over ``MAX_HEAD_BYTES`` are refused too, however the server that took
    them bounds them.

    Args:
        app: The rest.
        max_body_bytes: From ``MAX_BODY_BYTES``.
        max_prompt_chars: From ``MAX_PROMPT_CHARS``.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, max_prompt_chars: int = 0) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._max_wish_bytes = min(max_body_bytes, max(WISH_BYTES, _LONGEST_CHARACTER_BYTES * max_prompt_chars))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request pass, or answer 413 or 431."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        head_bytes = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
        for name, value in scope["headers"]:
            head_bytes += len(name) + len(value)
        if head_bytes > MAX_HEAD_BYTES:
            message = f"Request line and headers are longer than {MAX_HEAD_BYTES} bytes"
            answer = ProblemResponse(431, message, {"code": "too_large"}, [(b"connection", b"close")])
            await answer(scope, receive, send)
            return
        limit = self._max_body_bytes if _CARRIES_PICTURES.fullmatch(path_of(scope)) else self._max_wish_bytes
        length = read_headers(scope).get("content-length", "")
        # A server reads no more of a body than its length says, so one that is short enough needs no counting.
        if length.isascii() and length.isdigit():
            if int(length[:20]) > limit:
                await self._refuse(limit, scope, receive, send)
            else:
                await self._app(scope, receive, send)
            return
        seen_bytes = 0

        async def receive_counted() -> Message:
            nonlocal seen_bytes
            message = await receive()
            seen_bytes += len(message.get("body", b""))
            if seen_bytes > limit:
                raise _BodyTooLong(413, self._message(limit), headers={"Connection": "close"})
            return message

        try:
            await self._app(scope, receive_counted, send)
        except _BodyTooLong:
            # Direct routes lie outside the application's own layer that answers such exceptions.
            await self._refuse(limit, scope, receive, send)

    async def _refuse(self, limit: int, scope: Scope, receive: Receive, send: Send) -> None:
        answer = ProblemResponse(413, self._message(limit), {"code": "too_large"}, [(b"connection", b"close")])
        await answer(scope, receive, send)

    def _message(self, limit: int) -> str:
        setting = " (MAX_BODY_BYTES)" if limit == self._max_body_bytes else ", more than any wish without pictures"
        return f"The body is larger than {limit} bytes{setting}"


class _BodyTooLong(HTTPException):
    """Raised where the body is read; the framework passes exceptions of this base on as they are."""


def lift_deadline(scope: Scope) -> None:
    """Let the answer to this request take as long as it takes."""
    deadline: Span | None = scope.get("freeroam.answer_deadline")
    if deadline is not None:
        deadline.move(None)


class AnswerDeadline:
    """Pure ASGI middleware: an answer begins within ``timeout_s``, or the caller is told 504; streams may go on."""

    def __init__(self, app: ASGIApp, timeout_s: float) -> None:
        self._app = app
        self._timeout_s = timeout_s
        self._spans = Spans()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on under the deadline."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        has_begun = False
        try:
            async with self._spans.of(self._timeout_s) as deadline:
                scope["freeroam.answer_deadline"] = deadline

                async def send_in_time(message: Message) -> None:
                    nonlocal has_begun
                    if not has_begun:
                        has_begun = True
                        lift_deadline(scope)
                    await send(message)

                await self._app(scope, receive, send_in_time)
        except TimeoutError:
            if has_begun or not deadline.has_expired:
                raise
            error = DeadlineExceeded(f"No answer within {self._timeout_s:g} s (REQUEST_TIMEOUT)")
            await problem_of(error)(scope, receive, send)
