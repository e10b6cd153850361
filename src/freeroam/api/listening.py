"""Routes for those who listen: one job as server-sent events, many jobs on one WebSocket."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Query, WebSocket
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.websockets import WebSocketDisconnect

from freeroam.api.event_stream import EventStream
from freeroam.api.jobs import MAX_ID, JobId
from freeroam.api.parts import ApiConfig, Parts, TheConfig, TheParts
from freeroam.api.problems import detail_of, explain_validation, responses
from freeroam.observability.logs import get_logger
from freeroam.results.listener import Listener
from freeroam.vocabulary.errors import FreeroamError, InvalidInput, StoreError
from freeroam.vocabulary.result import Event

MAX_JOBS = 1000
"""Jobs that one socket may follow."""

MAX_MESSAGE_CHARS = 64 * 1024

_EXAMPLE = (
    'retry: 2000\n\nid: 17\nevent: result\ndata: {"id": 17, "predictions": [{"label": "person", "confidence": 0.91, '
    '"bbox": [10.0, 10.0, 100.0, 100.0]}], ...}\n\nevent: done\ndata: {"job_id": "door-1", "status": "completed"}\n\n'
)

router = APIRouter(prefix="/api/v1/inference", tags=["inference"])
log = get_logger(__name__)


@router.get(
    "/stream/{job_id}",
    response_class=Response,
    responses={
        **responses(404),
        200: {
            "description": "`event: result` (its id is the result's), `token`, `status`, `done`; a comment every 15 s.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EXAMPLE}},
        },
    },
    summary="Follow a job",
)
async def stream_job(
    job_id: JobId,
    parts: TheParts,
    config: TheConfig,
    after: Annotated[
        int | None, Query(ge=0, le=MAX_ID, description="Begin after this result; Last-Event-ID wins.")
    ] = None,
    last_event_id: Annotated[str | None, Header(description="As browsers send it when they connect again.")] = None,
) -> Response:
    """Give results as they are committed, from the first one kept or after ``Last-Event-ID``; ends with ``done``."""
    listener = parts.hub.listener()
    try:
        await listener.add(job_id, _position(last_event_id, after))
    except BaseException:
        listener.close()
        raise
    return EventStream(listener, parts, config.ping_s, config.stream_idle_timeout_s)


class Subscription(BaseModel):
    """What a client says on the socket.

    Attributes:
        subscribe: Jobs to follow.
        unsubscribe: Jobs to follow no more.
        after: By job, the result to begin after.
    """

    model_config = ConfigDict(extra="forbid")

    subscribe: list[str] = Field(default_factory=list, max_length=MAX_JOBS)
    unsubscribe: list[str] = Field(default_factory=list, max_length=MAX_JOBS)
    after: dict[str, Annotated[int, Field(ge=0, le=MAX_ID)]] = Field(default_factory=dict, max_length=MAX_JOBS)


@router.websocket("/ws")
async def follow_jobs(socket: WebSocket, parts: TheParts, config: TheConfig) -> None:
    """Give the events of many jobs as JSON: ``{"event", "job_id", "id", "data"}``."""
    await socket.accept()
    gauge = parts.metrics.listeners.labels("websocket")
    gauge.inc()
    listener = parts.hub.listener(keep_open=True)
    conversation = _Conversation(socket, listener, parts, config)
    hearing = asyncio.create_task(conversation.hear())
    try:
        async with listener:
            await conversation.tell()
    except (WebSocketDisconnect, RuntimeError):
        log.debug("socket_gone")
    finally:
        gauge.dec()
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)


class _Conversation:
    """Both directions of one socket."""

    def __init__(self, socket: WebSocket, listener: Listener, parts: Parts, config: ApiConfig) -> None:
        self._socket = socket
        self._listener = listener
        self._parts = parts
        self._idle_timeout_s = config.stream_idle_timeout_s
        self._sending = asyncio.Lock()

    async def tell(self) -> None:
        """Send events until the listener ends, which it does when the client goes or the service stops."""
        while True:
            try:
                event = await anext(self._listener)
            except StopAsyncIteration:
                break
            except StoreError as error:
                log.warning("stream_waits_for_store", error=error.message)
                await self._parts.clock.sleep(1.0)
                continue
            if not await self._send(encode_message(event)):
                return
        async with self._sending:
            await self._socket.close(1001 if self._parts.lifecycle.is_draining else 1000)

    async def hear(self) -> None:
        """Take subscriptions until the client goes."""
        try:
            while True:
                message = await self._socket.receive()
                if message["type"] == "websocket.disconnect":
                    break
                await self._obey(message.get("text") or message.get("bytes") or "")
        finally:
            self._listener.close()

    async def _obey(self, text: str | bytes) -> None:
        try:
            wish = read_subscription(text)
            for job_id in wish.unsubscribe:
                self._listener.remove(job_id)
            for job_id in wish.subscribe:
                if len(self._listener.jobs) >= MAX_JOBS:
                    raise InvalidInput(f"A socket follows at most {MAX_JOBS} jobs")
                await self._follow(job_id, wish.after.get(job_id))
        except FreeroamError as error:
            await self._send_error(None, error)

    async def _follow(self, job_id: str, after: int | None) -> None:
        try:
            await self._listener.add(job_id, after)
        except FreeroamError as error:
            await self._send_error(job_id, error)

    async def _send_error(self, job_id: str | None, error: FreeroamError) -> None:
        body: dict[str, Any] = {"event": "error", "job_id": job_id, "error": error.message, "detail": detail_of(error)}
        await self._send(orjson.dumps(body, default=str).decode())

    async def _send(self, text: str) -> bool:
        """Send one message; False, and the listener closed, if the client drained nothing for too long."""
        try:
            async with self._sending, asyncio.timeout(self._idle_timeout_s):
                await self._socket.send_text(text)
        except TimeoutError:
            self._parts.metrics.count_slow_client("websocket")
            self._listener.close()
            return False
        return True


def encode_message(event: Event) -> str:
    """Return an event as the socket carries it."""
    head = {"event": event.kind.value, "job_id": event.job_id, "id": event.id}
    return (orjson.dumps(head)[:-1] + b',"data":' + event.data + b"}").decode()


def read_subscription(text: str | bytes) -> Subscription:
    """Read what a client said.

    Raises:
        InvalidInput: It is too long, no JSON, or says something unknown.
    """
    if len(text) > MAX_MESSAGE_CHARS:
        raise InvalidInput(f"A message is at most {MAX_MESSAGE_CHARS} characters")
    try:
        return Subscription.model_validate_json(text)
    except ValidationError as error:
        raise explain_validation([dict(item) for item in error.errors(include_input=False)]) from None


def _position(last_event_id: str | None, after: int | None) -> int | None:
    """Return the id to go on after; an unusable ``Last-Event-ID`` is an error rather than a silent gap."""
    if last_event_id is None or not last_event_id.strip():
        return after
    text = last_event_id.strip()
    # The length first: Python refuses to read a number of thousands of digits.
    if not text.isascii() or not text.isdigit() or len(text) > len(str(MAX_ID)) or int(text) > MAX_ID:
        raise InvalidInput("Last-Event-ID is not the id of a result")
    return int(text)
