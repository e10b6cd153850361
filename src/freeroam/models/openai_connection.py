"""HTTP to a server of the OpenAI API: one pool of connections, checked certificates, no redirects, bounded answers."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import certifi
import httpcore
import orjson

from freeroam import __version__
from freeroam.models.openai_events import EventReader, chunk_of
from freeroam.models.openai_failures import UpstreamCode, UpstreamError, malformed, of_status, without_key
from freeroam.vocabulary.errors import ConfigurationError

CONNECT_S = 5.0
IDLE_S = 30.0
_OK = range(200, 300)
_ERROR_BYTES = 64 * 1024
_LIST_BYTES = 8 * 1024 * 1024


class Connection:
    """Asks one server.

    Args:
        address: Base url, such as ``http://127.0.0.1:8000/v1``.
        key: Sent as a bearer token; empty sends none.
        connections: Connections at most.
        max_answer_bytes: Longest answer, as it comes over the wire.
        ca_file: Certificates to trust besides those that are trusted anyway, PEM; empty if none.
    """

    def __init__(self, address: str, key: str, *, connections: int, max_answer_bytes: int, ca_file: str = "") -> None:
        self.address = address
        self._key = key
        self._max_answer_bytes = max_answer_bytes
        self._headers: dict[bytes | str, bytes | str] = {
            "accept-encoding": "identity",
            "user-agent": f"freeroam/{__version__}",
        }
        if key:
            self._headers["authorization"] = f"Bearer {key}"
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=_tls(ca_file) if address.startswith("https:") else None,
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=IDLE_S,
        )

    async def list_models(self, timeout_s: float) -> list[str]:
        """Return the names that ``GET /models`` lists.

        Raises:
            UpstreamError: The server is not there, refused, or answered something else.
        """
        where = f"{self.address}/models"
        async with self._limited(timeout_s, where), self._response("GET", where, b"") as response:
            body = await self._whole(response, where, _LIST_BYTES)
        try:
            listed = orjson.loads(body)
        except ValueError:
            raise malformed(where, "a list of models that is no JSON") from None
        rows = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(rows, list):
            raise malformed(where, "no list of models")
        return [str(row["id"]) for row in rows if isinstance(row, dict) and row.get("id")]

    async def answer(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """Put a question to ``/chat/completions`` and yield the chunks of its answer.

        Closing the iterator closes the connection, unless the answer was read to its end.

        Raises:
            UpstreamError: The server is not there, refused, broke off, was silent too long, or answered something else.
        """
        where = f"{self.address}/chat/completions"
        async with self._response("POST", where, orjson.dumps(body)) as response:
            kind = _headers_of(response).get("content-type", "")
            if "json" in kind and "event-stream" not in kind:
                # Some servers answer in one piece whatever they are asked.
                chunk = chunk_of(await self._whole(response, where, self._max_answer_bytes), where, self._key)
                if chunk is not None:
                    yield chunk
                return
            reader = EventReader(where)
            async with aclosing(self._received(response, where)) as received:
                async for part in received:
                    for data in reader.feed(part):
                        chunk = chunk_of(data, where, self._key)
                        if chunk is None:
                            return
                        yield chunk
            for data in reader.end():
                chunk = chunk_of(data, where, self._key)
                if chunk is not None:
                    yield chunk

    async def aclose(self) -> None:
        """Close every connection."""
        await self._pool.aclose()

    @asynccontextmanager
    async def _response(self, method: str, url: str, content: bytes) -> AsyncIterator[httpcore.Response]:
        """Give the response once its head is here; anything but a 2xx is an error."""
        headers = dict(self._headers)
        if content:
            headers["content-type"] = "application/json"
        # Whoever asks says how long it waits; only a connection has a limit of its own, since it may be tried again.
        try:
            async with self._pool.stream(
                method, url, headers=headers, content=content or None, extensions={"timeout": {"connect": CONNECT_S}}
            ) as response:
                if response.status not in _OK:
                    said = await self._beginning(response)
                    raise of_status(response.status, said, _headers_of(response), url, self._key)
                yield response
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
            raise self._failure(error, url) from None

    async def _received(self, response: httpcore.Response, where: str) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes, up to its greatest length."""
        count = 0
        async for part in response.aiter_stream():
            count += len(part)
            if count > self._max_answer_bytes:
                raise malformed(where, f"more than {self._max_answer_bytes} bytes (max_answer_bytes)")
            yield part

    async def _whole(self, response: httpcore.Response, where: str, limit: int) -> bytes:
        body = bytearray()
        async for part in response.aiter_stream():
            body += part
            if len(body) > limit:
                raise malformed(where, f"more than {limit} bytes")
        return bytes(body)

    async def _beginning(self, response: httpcore.Response) -> bytes:
        """Return the beginning of an error's body, whatever becomes of the rest."""
        body = bytearray()
        async for part in response.aiter_stream():
            body += part
            if len(body) >= _ERROR_BYTES:
                break
        return bytes(body[:_ERROR_BYTES])

    @asynccontextmanager
    async def _limited(self, timeout_s: float, where: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError:
            raise _silent(where, timeout_s) from None

    def _failure(self, error: Exception, where: str) -> UpstreamError:
        """Return what a failure of the connection means."""
        told = without_key(str(error) or type(error).__name__, self._key)
        if isinstance(error, httpcore.ConnectTimeout):
            return UpstreamError(
                UpstreamCode.UNAVAILABLE,
                f"{where} did not take a connection within {CONNECT_S:g} s; is the server running, and the url right?",
                passes=True,
            )
        if isinstance(error.__cause__, ssl.SSLError) or "SSL" in told or "certificate" in told.lower():
            return UpstreamError(
                UpstreamCode.TLS,
                f"{where}: no encrypted connection: {told}; for a certificate of your own set ca_file",
            )
        if isinstance(error, httpcore.ConnectError):
            return UpstreamError(
                UpstreamCode.UNAVAILABLE,
                f"{where}: no connection: {told}; is the server running, and the url right?",
                passes=True,
            )
        return UpstreamError(
            UpstreamCode.UNAVAILABLE, f"{where} broke off: {told}; look into that server's log", passes=True
        )


def _silent(where: str, timeout_s: float) -> UpstreamError:
    return UpstreamError(
        UpstreamCode.TIMEOUT,
        f"{where} was silent for {timeout_s:g} s; raise the option timeout_s if it may think that long",
    )


def _headers_of(response: httpcore.Response) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in response.headers}


def _tls(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    if ca_file:
        try:
            context.load_verify_locations(ca_file)
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(f"openai_server: ca_file={Path(ca_file)} cannot be used: {error}") from None
    return context
