"""Who passes the gRPC door: the doorkeeper's judgement, one log line a call, and errors as status codes."""

from __future__ import annotations

import asyncio
import math
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

import grpc

from freeroam.api.doorkeeper import Doorkeeper
from freeroam.api.grpc.messages import M, decode, sayable
from freeroam.api.inference_calls import Arrival, read_arrival
from freeroam.api.parts import Parts
from freeroam.api.problems import grpc_code_of
from freeroam.observability.logs import get_logger
from freeroam.security.keys import Caller, Right
from freeroam.security.origin import find_origin
from freeroam.security.redaction import redact_text
from freeroam.vocabulary.errors import (
    DeadlineExceeded,
    FreeroamError,
    InvalidInput,
    PermissionDenied,
    RateLimited,
    Unavailable,
)

SERVICE = "inference.GRPCInferenceService"
MAX_DETAILS_CHARS = 1000
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_STRANGER = Caller("unknown", "unknown", rights=frozenset())

Context = Any
"""``grpc.aio.ServicerContext``; the library has no types."""

log = get_logger(__name__)


class ReaderIsStuckError(Exception):
    """The client drained nothing for too long.

    Args:
        unsent: Done when it has taken what was written last.
    """

    def __init__(self, unsent: asyncio.Future[Any]) -> None:
        super().__init__("nothing was read for too long")
        self.unsent = unsent


@dataclass(slots=True)
class Visit:
    """One call of a method, from its coming to its going.

    Attributes:
        context: gRPC's own.
        path: ``/inference.GRPCInferenceService/ModelInfer``.
        request_id: From the metadata ``x-request-id``, or made.
        headers: Metadata that are text, lower-case names.
        began_s: When it came.
        scope: What the log is to tell of it.
        caller: Who calls; a stranger until the doorkeeper has looked.
        code: How it ended.
    """

    context: Context
    path: str
    request_id: str
    headers: dict[str, str]
    began_s: float
    scope: dict[str, Any] = field(default_factory=dict)
    caller: Caller = _STRANGER
    code: str = "OK"

    def arrival(self, timeout_s: float | None, *, is_streamed: bool = False) -> Arrival:
        """Return how an inference call came in, with the shortest of its time limits.

        The deadline of a stream is left to gRPC, which ends the call by it; it may be longer than ``REQUEST_TIMEOUT``.

        Raises:
            InvalidInput: ``x-priority`` or ``x-request-timeout-ms`` says what cannot be.
        """
        arrival = read_arrival(self.caller, self.request_id, self.headers, self.scope)
        remaining_s = None if is_streamed else self.context.time_remaining()
        limits = [limit for limit in (arrival.timeout_s, timeout_s, remaining_s) if limit is not None]
        return replace(arrival, timeout_s=max(min(limits), 0.001)) if limits else arrival


Behaviour = Callable[[Any, Visit], Awaitable[Any]]
StreamBehaviour = Callable[[AsyncIterator[bytes], Visit], Awaitable[None]]


class Passage:
    """Lets calls in, and sees them out.

    Args:
        parts: What the methods work with.
        doorkeeper: Shared with the HTTP door.
    """

    def __init__(self, parts: Parts, doorkeeper: Doorkeeper) -> None:
        self._parts = parts
        self._doorkeeper = doorkeeper
        self.open = 0

    def unary(self, name: str, right: Right, kind: type[M], behaviour: Behaviour) -> Any:
        """Return what gRPC calls for a method of one message each way."""

        async def handle(requests: AsyncIterator[bytes], context: Context) -> None:
            async def answer(visit: Visit) -> Any:
                return await behaviour(decode(kind, await self._read_one(requests)), visit)

            answered = await self._pass(name, right, context, answer)
            await context.write(answered)

        # As a stream of one, because gRPC reads the message of a unary method before it asks who sends it.
        return grpc.stream_stream_rpc_method_handler(handle, response_serializer=_serialized)

    async def _read_one(self, requests: AsyncIterator[bytes]) -> bytes:
        """Return a call's only message.

        Raises:
            InvalidInput: None came.
            DeadlineExceeded: It was not complete in time.
        """
        limit_s = self._doorkeeper.config.request_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                data = await anext(aiter(requests), None)
        except TimeoutError:
            raise DeadlineExceeded(f"The message was not complete within {limit_s:g} s (REQUEST_TIMEOUT)") from None
        if data is None:
            raise InvalidInput("the call brought no message")
        return data

    def stream(self, name: str, right: Right, behaviour: StreamBehaviour) -> Any:
        """Return what gRPC calls for a method with a stream of messages each way."""

        async def handle(requests: AsyncIterator[bytes], context: Context) -> None:
            async def answer(visit: Visit) -> None:
                await behaviour(requests, visit)

            await self._pass(name, right, context, answer)

        return grpc.stream_stream_rpc_method_handler(handle, response_serializer=_serialized)

    def charge(self, visit: Visit) -> None:
        """Take a token from the caller's buckets.

        Raises:
            RateLimited: One is empty.
        """
        verdict = self._doorkeeper.charge(visit.caller, f"POST {visit.path}")
        if verdict is not None and not verdict.is_allowed:
            raise RateLimited(f"More than {verdict.limit} requests in a minute", retry_after_s=verdict.retry_after_s)

    async def _pass(self, name: str, right: Right, context: Context, answer: Callable[[Visit], Awaitable[Any]]) -> Any:
        visit = self._visit(f"/{SERVICE}/{name}", context)
        self.open += 1
        visit.code = "CANCELLED"
        try:
            self._let_in(visit, right)
            await context.send_initial_metadata((("x-request-id", visit.request_id),))
            answered = await answer(visit)
            visit.code = "OK"
            return answered
        except FreeroamError as error:
            visit.code = grpc_code_of(error)
            if isinstance(error, RateLimited | Unavailable):
                self._parts.metrics.rejected.labels(error.code).inc()
            await refuse(context, visit.code, error)
        except ReaderIsStuckError as error:
            visit.code = "RESOURCE_EXHAUSTED"
            log.info("slow_reader_dropped", request_id=visit.request_id)
            # gRPC has no way to cut a call off, nor to say anything before the reader has taken what was written; so
            # this little stays behind until it reads on, cancels or goes away. The models are free already.
            await asyncio.wait({error.unsent})
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        except grpc.aio.AbortError:
            visit.code = "UNKNOWN" if context.code() is None else _name_of(context.code())
            raise
        except Exception:
            visit.code = "INTERNAL"
            log.exception("request_failed", request_id=visit.request_id, path=visit.path)
            message = f"Internal error; the log has it under the request id {visit.request_id}"
            await context.abort(grpc.StatusCode.INTERNAL, message)
        finally:
            self.open -= 1
            self._write(visit)

    def _visit(self, path: str, context: Context) -> Visit:
        headers = {
            str(key).lower(): value for key, value in context.invocation_metadata() or () if isinstance(value, str)
        }
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        return Visit(context, path, request_id, headers, self._parts.clock.monotonic_s())

    def _let_in(self, visit: Visit, right: Right) -> None:
        """Name the caller, or refuse the call; a refused one has its client charged too.

        Raises:
            Unauthenticated, PermissionDenied, RateLimited: As the doorkeeper says.
            Unavailable: As many calls are open as may be.
        """
        config = self._doorkeeper.config
        origin = find_origin(address_of(visit.context.peer()), visit.headers, config.trusted_proxies)
        visit.caller = replace(_STRANGER, client=origin.client)
        try:
            caller = self._doorkeeper.recognise(visit.headers, origin, changes_something=right is not Right.READ)
        except FreeroamError as error:
            self.charge(visit)
            self._parts.metrics.rejected.labels(error.code).inc()
            raise
        visit.caller = caller
        self.charge(visit)
        if not caller.may(right):
            self._parts.metrics.rejected.labels(PermissionDenied.default_code).inc()
            raise PermissionDenied(f"The key {caller.name!r} lacks the right {right.value!r}")
        if self.open > config.max_connections:
            raise Unavailable(f"Maximum connections ({config.max_connections}) reached", retry_after_s=2.0)

    def _write(self, visit: Visit) -> None:
        duration_s = self._parts.clock.monotonic_s() - visit.began_s
        self._parts.metrics.http_requests.labels("GRPC", visit.path, visit.code).inc()
        log.info(
            "request",
            request_id=visit.request_id,
            method="GRPC",
            path=visit.path,
            status=visit.code,
            duration_ms=round(duration_s * 1000, 1),
            caller=visit.caller.name,
            peer=address_of(visit.context.peer()),
            **visit.scope.get("freeroam.notes", {}),
        )


async def refuse(context: Context, code: str, error: FreeroamError) -> None:
    """End a call with the status of ``error``; never returns.

    Raises:
        AbortError: Always; gRPC takes it for the end.
    """
    trailers = [("x-error-code", error.code)]
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        trailers.append(("retry-after", str(max(1, math.ceil(retry_after_s)))))
    # A longer one would not fit into the metadata that carry it, and the caller would be told of that instead.
    message = sayable(redact_text(error.message))[:MAX_DETAILS_CHARS]
    await context.abort(grpc.StatusCode[code], message, trailing_metadata=tuple(trailers))


def address_of(peer: str) -> str | None:
    """Return the address in gRPC's name of a peer, ``ipv4:127.0.0.1:4711``; None for a unix socket."""
    kind, _, rest = unquote(peer).partition(":")
    if kind == "unix":
        return None
    return rest.rpartition(":")[0].strip("[]")


def _name_of(code: Any) -> str:
    if isinstance(code, grpc.StatusCode):
        return str(code.name)
    return next((known.name for known in grpc.StatusCode if known.value[0] == code), "UNKNOWN")


def _serialized(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
