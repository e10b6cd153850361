"""The client for programs without an event loop."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from ssl import SSLContext
from types import TracebackType
from typing import Concatenate, Generic, ParamSpec, Self, TypeVar

import httpx

from freeroam.client import job_calls, model_calls
from freeroam.client.access import Access, access_to, answer_of, lost_to
from freeroam.client.calls import Call, Flow
from freeroam.client.methods import dress
from freeroam.client.steps import Answer, Give, Lost, Open, Pause, Reply, Request, Retries, Send
from freeroam.clock import BlockingClock, SystemBlockingClock

P = ParamSpec("P")
T = TypeVar("T")


def _answered(describe: Callable[P, Call[T]]) -> Callable[Concatenate[Client, P], T]:
    """Return the method that carries out a call."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.carry_out(describe(*args, **kwargs))

    return dress(method, describe)


def _streamed(describe: Callable[P, Flow[T]]) -> Callable[Concatenate[Client, P], Stream[T]]:
    """Return the method that gives the items of a call."""

    def method(self: Client, /, *args: P.args, **kwargs: P.kwargs) -> Stream[T]:
        return self.open(describe(*args, **kwargs))

    return dress(method, describe)


class Client:
    """A Freeroam server, over HTTP; may be used by several threads.

    Use it as a context manager, or ``close`` it. Its methods are described in ``job_calls.py`` and
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
        transport: httpx.BaseTransport | None = None,
        clock: BlockingClock | None = None,
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
        self._http = httpx.Client(transport=transport, **self._access.options())
        self._clock = clock or SystemBlockingClock()

    def __repr__(self) -> str:
        return f"Client({self._access.url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection; streams that are open break off."""
        self._http.close()

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

    def carry_out(self, call: Call[T]) -> T:
        """Carry out a described call and return its answer; the methods do so."""
        script = call.script(self._access.retries)
        reply: Reply = None
        while True:
            try:
                step = script.send(reply)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            if isinstance(step, Send):
                reply = _send(self._http, self._access, step.request)
            else:
                self._clock.sleep(step.duration_s)
                reply = None

    def open(self, flow: Flow[T]) -> Stream[T]:
        """Return the items of a described call; nothing is sent before the first is asked for."""
        return Stream(_items(flow, self._http, self._access, self._clock))


def _send(http: httpx.Client, access: Access, request: Request) -> Answer | Lost:
    """Send a request and read its whole answer."""
    try:
        response = http.request(**access.arguments(request))
    except httpx.TransportError as error:
        return lost_to(error, access)
    return answer_of(response, response.content)


class Stream(Generic[T]):
    """Items as they come; close it, or use it as a context manager, to let the server stop early."""

    def __init__(self, items: Generator[T, None, None]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """Return the next item; raises what the call raises."""
        return next(self._items)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; the server notices and stops working for it."""
        self._items.close()


class _Line:
    """The one answer of a stream that is open."""

    def __init__(self, http: httpx.Client, access: Access) -> None:
        self._http = http
        self._access = access
        self._response: httpx.Response | None = None
        self._pieces: Iterator[bytes] = iter(())

    def open(self, request: Request) -> Answer | Lost:
        """Send a request; a refusal is read whole."""
        self.shut()
        try:
            self._response = self._http.send(self._http.build_request(**self._access.arguments(request)), stream=True)
            is_refused = self._response.status_code >= 400
            body = self._response.read() if is_refused else b""
        except httpx.TransportError as error:
            return lost_to(error, self._access)
        self._pieces = self._response.iter_bytes()
        return answer_of(self._response, body)

    def read(self) -> bytes | Lost:
        """Wait for more of the body; empty at its end."""
        try:
            return next(self._pieces, b"")
        except httpx.TransportError as error:
            return lost_to(error, self._access)
        except httpx.StreamError as error:
            return Lost(str(error))

    def shut(self) -> None:
        """Close what is open."""
        if self._response is not None:
            self._response.close()
            self._response = None


def _items(flow: Flow[T], http: httpx.Client, access: Access, clock: BlockingClock) -> Generator[T, None, None]:
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
                reply = _send(http, access, step.request)
            elif isinstance(step, Open):
                reply = line.open(step.request)
            elif isinstance(step, Pause):
                line.shut()
                clock.sleep(step.duration_s)
            else:
                reply = line.read()
    finally:
        script.close()
        line.shut()
