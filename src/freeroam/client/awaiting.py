"""The client for programs with an event loop."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from ssl import SSLContext
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

import httpx

from freeroam.client import job_calls, model_calls
from freeroam.client.access import Access, access_to, answer_of, lost_to
from freeroam.client.calls import Call, Flow
from freeroam.client.methods import dress
from freeroam.client.steps import Answer, Give, Lost, Open, Pause, Reply, Request, Retries, Send
from freeroam.clock import Clock, SystemClock

P = ParamSpec("P")
T = TypeVar("T")


def _answered(describe: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """Return the method that carries out a call."""

    async def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self.carry_out(describe(*args, **kwargs))

    return dress(method, describe)


def _streamed(describe: Callable[P, Flow[T]]) -> Callable[Concatenate[AsyncClient, P], AsyncStream[T]]:
    """Return the method that gives the items of a call."""

    def method(self: AsyncClient, /, *args: P.args, **kwargs: P.kwargs) -> AsyncStream[T]:
        return self.open(describe(*args, **kwargs))

    return dress(method, describe)


class AsyncClient:
    """A Freeroam server, over HTTP; may be used by several tasks of one event loop.

    Use it with ``async with``, or ``close`` it. Its methods are described in ``job_calls.py`` and
    ``model_calls.py``; each raises what the server refused it with, from the tree in ``freeroam.vocabulary.errors``.
    Calls that were turned away (429, 503) are sent again after ``Retry-After``, calls that may be repeated also after a
    lost connection.

    Args:
        url: Where the server is, with the path that it is mounted at, if any; None is ``http://127.0.0.1:8000``.
        key: Sent as Bearer token; None takes ``FREEROAM_API_KEY``, an empty one sends none.
        timeout_s: Longest silence of an answer.
        connect_timeout_s: Longest time for a connection.
        retries: How often things are tried again; ``Retries(attempts=1)`` tries nothing again.
        headers: Sent with every request.
        verify: False for servers whose certificate nobody vouches for; or an SSL context.
        transport: How requests travel, for tests; None is the network.
        clock: Tells time to pauses.

    Raises:
        ConfigurationError: ``url`` cannot be one.
    """

    def __init__(  # noqa: PLR0913 - each is a choice of its own
        self,
        url: str | None = None,
        *,
        key: str | None = None,
        timeout_s: float = 60.0,
        connect_timeout_s: float = 5.0,
        retries: Retries | None = None,
        headers: Mapping[str, str] | None = None,
        verify: bool | SSLContext = True,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._access = access_to(
            url,
            key,
            timeout_s=timeout_s,
            connect_timeout_s=connect_timeout_s,
            retries=retries,
            headers=headers,
            verify=verify,
        )
        self._http = httpx.AsyncClient(transport=transport, **self._access.options())
        self._clock = clock or SystemClock()

    def __repr__(self) -> str:
        return f"AsyncClient({self._access.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection; streams that are open break off."""
        await self._http.aclose()

    start_job = _answered(job_calls.start_job)
    job_status = _answered(job_calls.job_status)
    results = _answered(job_calls.results)
    iterate_results = _streamed(job_calls.iterate_results)
    stream_results = _streamed(job_calls.stream_results)
    stream_events = _streamed(job_calls.stream_events)
    cancel_job = _answered(job_calls.cancel_job)
    list_jobs = _answered(job_calls.list_jobs)
    change_job = _answered(job_calls.change_job)
    erase_job = _answered(job_calls.erase_job)
    export_job = _streamed(job_calls.export_job)
    capacity = _answered(job_calls.capacity)
    update_prompt = _answered(job_calls.update_prompt)
    current_prompt = _answered(job_calls.current_prompt)
    prompt_history = _answered(job_calls.prompt_history)
    infer = _answered(model_calls.infer)
    infer_stream = _streamed(model_calls.infer_stream)
    server_status = _answered(model_calls.server_status)
    list_models = _answered(model_calls.list_models)
    load_model = _answered(model_calls.load_model)
    begin_loading = _answered(model_calls.begin_loading)
    unload_model = _answered(model_calls.unload_model)
    set_traffic = _answered(model_calls.set_traffic)
    change_batching = _answered(model_calls.change_batching)
    model_health = _answered(model_calls.model_health)
    health = _answered(model_calls.health)
    readiness = _answered(model_calls.readiness)
    liveness = _answered(model_calls.liveness)
    metrics = _answered(model_calls.metrics)
    statistics = _answered(model_calls.statistics)

    async def carry_out(self, call: Call[T]) -> T:
        """Carry out a described call and return its answer; the methods do so."""
        script = call.script(self._access.retries)
        reply: Reply = None
        while True:
            try:
                step = script.send(reply)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            if isinstance(step, Send):
                reply = await _send(self._http, self._access, step.request)
            else:
                await self._clock.sleep(step.duration_s)
                reply = None

    def open(self, flow: Flow[T]) -> AsyncStream[T]:
        """Return the items of a described call; nothing is sent before the first is asked for."""
        return AsyncStream(_items(flow, self._http, self._access, self._clock))


async def _send(http: httpx.AsyncClient, access: Access, request: Request) -> Answer | Lost:
    """Send a request and read its whole answer."""
    try:
        response = await http.request(**access.arguments(request))
    except httpx.TransportError as error:
        return lost_to(error, access)
    return answer_of(response, response.content)


class AsyncStream(Generic[T]):
    """Items as they come; close it, or use ``async with``, to let the server stop early."""

    def __init__(self, items: AsyncGenerator[T, None]) -> None:
        self._items = items

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        """Return the next item; raises what the call raises."""
        return await anext(self._items)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection; the server notices and stops working for it."""
        await self._items.aclose()


class _Line:
    """The one answer of a stream that is open."""

    def __init__(self, http: httpx.AsyncClient, access: Access) -> None:
        self._http = http
        self._access = access
        self._response: httpx.Response | None = None
        self._pieces: AsyncIterator[bytes] | None = None

    async def open(self, request: Request) -> Answer | Lost:
        """Send a request; a refusal is read whole."""
        await self.shut()
        try:
            made = self._http.build_request(**self._access.arguments(request))
            self._response = await self._http.send(made, stream=True)
            is_refused = self._response.status_code >= 400
            body = await self._response.aread() if is_refused else b""
        except httpx.TransportError as error:
            return lost_to(error, self._access)
        self._pieces = self._response.aiter_bytes()
        return answer_of(self._response, body)

    async def read(self) -> bytes | Lost:
        """Wait for more of the body; empty at its end."""
        try:
            assert self._pieces is not None
            return await anext(self._pieces, b"")
        except httpx.TransportError as error:
            return lost_to(error, self._access)
        except httpx.StreamError as error:
            return Lost(str(error))

    async def shut(self) -> None:
        """Close what is open."""
        if self._response is not None:
            await self._response.aclose()
            self._response = None


async def _items(flow: Flow[T], http: httpx.AsyncClient, access: Access, clock: Clock) -> AsyncGenerator[T, None]:
    """Carry out a script of a stream and yield what it gives."""
    line = _Line(http, access)
    script = flow.script(access.retries)
    reply: Reply = None
    try:
        while True:
            try:
                step = script.send(reply)
            except StopIteration:
                return
            reply = None
            if isinstance(step, Give):
                yield step.item
            elif isinstance(step, Send):
                reply = await _send(http, access, step.request)
            elif isinstance(step, Open):
                reply = await line.open(step.request)
            elif isinstance(step, Pause):
                await line.shut()
                await clock.sleep(step.duration_s)
            else:
                reply = await line.read()
    finally:
        script.close()
        await line.shut()
