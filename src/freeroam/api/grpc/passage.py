"""Who passes the gRPC door: the doorkeeper's judgement, one log line a call, and errors as status codes."""

from __future__ import annotations

import asyncio
import math
import re
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import grpc

from freeroam.api.call_ends import ReaderIsStuckError
from freeroam.api.doorkeeper import Doorkeeper
from freeroam.api.grpc.messages import M, decode, sayable
from freeroam.api.grpc.outlets import Context, Outlet, Outlets, next_message, split_peer
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

log = get_logger(__name__)


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
        return arrival._replace(timeout_s=max(min(limits), 0.001)) if limits else arrival


Behaviour = Callable[[Any, Visit], Awaitable[Any]]
StreamBehaviour = Callable[[Visit, Outlet], Awaitable[None]]


class Passage:
    """Lets calls in, and sees them out.

    Args:
        parts: What the methods work with.
        doorkeeper: Shared with the HTTP door.
        outlets: Where answers go out.
    """

    def __init__(self, parts: Parts, doorkeeper: Doorkeeper, outlets: Outlets) -> None:
        self._parts = parts
        self._doorkeeper = doorkeeper
        self._outlets = outlets
        self.open = 0

    def unary(self, name: str, right: Right, kind: type[M], behaviour: Behaviour) -> Any:
        """Return what gRPC calls for a method of one message each way."""

        async def handle(_: Any, context: Context) -> None:
            async def answer(visit: Visit, outlet: Outlet) -> None:
                await outlet.write_only(await behaviour(decode(kind, await self._read_one(context)), visit))

            await self._pass(name, right, context, answer)

        # As a stream of one, because gRPC reads the message of a unary method before it asks who sends it.
        return grpc.stream_stream_rpc_method_handler(handle, response_serializer=_serialized)

    async def _read_one(self, context: Context) -> bytes:
        """Return a call's only message.

        Raises:
            InvalidInput: None came.
            DeadlineExceeded: It was not complete in time.
        """
        limit_s = self._doorkeeper.config.request_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                data = await next_message(context)
        except TimeoutError:
            raise DeadlineExceeded(f"The message was not complete within {limit_s:g} s (REQUEST_TIMEOUT)") from None
        if data is None:
            raise InvalidInput("the call brought no message")
        return data

    def stream(self, name: str, right: Right, behaviour: StreamBehaviour) -> Any:
        """Return what gRPC calls for a method with a stream of messages each way."""

        async def handle(_: Any, context: Context) -> None:
            async def answer(visit: Visit, outlet: Outlet) -> None:
                await behaviour(visit, outlet)

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

    async def _pass(
        self, name: str, right: Right, context: Context, answer: Callable[[Visit, Outlet], Awaitable[None]]
    ) -> None:
        visit = self._visit(f"/{SERVICE}/{name}", context)
        async with self._outlets.open(context, visit.path, visit.request_id) as outlet:
            await self._see_through(visit, right, outlet, answer)

    async def _see_through(
        self, visit: Visit, right: Right, outlet: Outlet, answer: Callable[[Visit, Outlet], Awaitable[None]]
    ) -> None:
        context = visit.context
        self.open += 1
        visit.code = "CANCELLED"
        try:
            self._let_in(visit, right)
            await context.send_initial_metadata((("x-request-id", visit.request_id),))
            await answer(visit, outlet)
            visit.code = "OK"
        except FreeroamError as error:
            visit.code = grpc_code_of(error)
            self._parts.metrics.count_refusal(error)
            await refuse(context, visit.code, error)
        except ReaderIsStuckError:
            visit.code = "RESOURCE_EXHAUSTED"
            raise
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
            self._parts.metrics.count_rejected(error.code)
            raise
        visit.caller = caller
        self.charge(visit)
        if not caller.may(right):
            self._parts.metrics.count_rejected(PermissionDenied.default_code)
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
    _leave_origin(error)
    await context.abort(grpc.StatusCode[code], message, trailing_metadata=tuple(trailers))


def _leave_origin(error: BaseException) -> None:
    """Part an error from the frames that it came through and from what it was made of, which hold the caller's message.

    gRPC keeps the error of an aborted call, with all that it came from, until a collection, which may be hours away: a
    few great messages would fill the memory.
    """
    error.__traceback__ = error.__context__ = error.__cause__ = None


def address_of(peer: str) -> str | None:
    """Return the address in gRPC's name of a peer; None for a unix socket."""
    return None if peer.startswith("unix:") else split_peer(peer)[0]


def _name_of(code: Any) -> str:
    if isinstance(code, grpc.StatusCode):
        return str(code.name)
    return next((known.name for known in grpc.StatusCode if known.value[0] == code), "UNKNOWN")


def _serialized(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data
