"""HEAD is answered as GET would be, without the body."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadAsGet:
    """Pure ASGI middleware: a HEAD goes on as a GET, and its answer ends with its head.

    An answer that would be a stream is left as soon as it has begun.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def send_head(message: Message) -> None:
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b""})
                raise _HeadIsSentError

        # A copy, because the server itself goes by the method of the scope that it made.
        as_get = {**scope, "method": "GET"}
        try:
            await self._app(as_get, receive, send_head)
        except _HeadIsSentError:
            return
        finally:
            # Layers outside look for what the inner ones leave in the scope.
            scope.update({name: value for name, value in as_get.items() if name not in scope})


class _HeadIsSentError(Exception):
    """Everything that a HEAD asks for has been said."""
