"""Both clients send every call as the server describes it, and read what it answers."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
import pytest

from freeroam import AsyncClient, Client
from freeroam.api.application import create_application, describe
from freeroam.api.parts import ApiConfig
from freeroam.client import Retries, job_calls, model_calls
from freeroam.client.access import access_to
from freeroam.client.calls import Call, Flow
from freeroam.clock import SystemClock
from freeroam.observability.metrics import Metrics
from freeroam.vocabulary import errors
from freeroam.vocabulary.model_calls import InferDone, InferToken
from tests.unit.client.playing import answer, play

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "start_job": ("demo:", "q"),
    "change_job": ("a/b",),
    "update_prompt": ("q",),
    "current_prompt": (),
    "prompt_history": (),
    "infer": ("q",),
    "infer_stream": ("q",),
    "load_model": ("gpt2",),
    "begin_loading": ("gpt2",),
    "unload_model": ("org/gpt2", "1"),
    "set_traffic": ("gpt2", {"1": 1.0}),
    "change_batching": ("gpt2",),
    "model_health": ("gpt2",),
}

DESCRIBED: dict[str, Callable[..., Call[Any] | Flow[Any]]] = {
    name: function
    for module in (job_calls, model_calls)
    for name, function in vars(module).items()
    if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_")
}

TOKENS = (
    b'data: {"request_id": "r", "token": "a", "index": 0}\n\n'
    b'event: done\ndata: {"request_id": "r", "model": "m", "version": "1", "finish_reason": "stop", '
    b'"usage": {"prompt_tokens": 0, "completion_tokens": 1, "total_tokens": 1}}\n\n'
)


def arguments_of(name: str) -> tuple[Any, ...]:
    if name in ARGUMENTS:
        return ARGUMENTS[name]
    first = next(iter(inspect.signature(DESCRIBED[name]).parameters.values()), None)
    return ("a/b",) if first is not None and first.name == "job_id" else ()


@pytest.fixture(scope="module")
def description() -> dict[str, Any]:
    return describe(create_application(ApiConfig(), SystemClock(), Metrics()))


def operation_at(description: dict[str, Any], method: str, path: str) -> tuple[str, dict[str, Any]] | None:
    """Return template and description of the route that answers ``method`` at ``path``."""
    for template, operations in description["paths"].items():
        pattern = re.sub(r"\\\{[a-z_]+(:path)?\\\}", "[^/]+", re.escape(template))
        if re.fullmatch(pattern, path) and method.lower() in operations:
            return template, operations[method.lower()]
    return None


@pytest.mark.parametrize("name", DESCRIBED)
def test_every_call_is_one_that_the_server_describes(name: str, description: dict[str, Any]) -> None:
    # Given a call, when it is carried out, then there is a route for it, which knows its parameters
    call = DESCRIBED[name](*arguments_of(name))
    request = play(call.script(Retries(attempts=1)), [answer(400)]).requests[0]
    found = operation_at(description, request.method, request.path)
    assert found is not None, f"{request.method} {request.path}"
    known = {parameter["name"] for parameter in found[1].get("parameters", ()) if parameter["in"] == "query"}
    assert set(request.query) <= known
    assert ("requestBody" in found[1]) is (request.body is not None)


def test_every_route_of_the_contract_has_a_call(description: dict[str, Any]) -> None:
    # Given all calls, when they are compared with the routes
    called = set()
    for name, describe_call in DESCRIBED.items():
        request = play(describe_call(*arguments_of(name)).script(Retries(attempts=1)), [answer(400)]).requests[0]
        found = operation_at(description, request.method, request.path)
        assert found is not None
        called.add((request.method, found[0]))

    # Then only the doors that have clients of their own are left out
    routes = {
        (method.upper(), template)
        for template, operations in description["paths"].items()
        for method in operations
        if not re.match(r"/v[12](/|$)", template)
    }
    assert routes - called == set()


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_both_clients_have_a_method_for_each_call(kind: type[Any]) -> None:
    # Given a client, when its methods are looked at, then each call is one, with the same parameters and documentation
    for name, function in DESCRIBED.items():
        method = getattr(kind, name)
        assert method.__doc__ == function.__doc__
        own = list(inspect.signature(method).parameters.values())
        assert [parameter.name for parameter in own[1:]] == list(inspect.signature(function).parameters)


Handler = Callable[[httpx.Request], httpx.Response]
Ask = Callable[..., Any]


@pytest.fixture(params=["blocking", "awaiting"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Return what makes one call with a client of either kind: of a stream, all items."""

    async def make(handler: Handler, name: str, *arguments: Any, **options: Any) -> Any:
        given = {name: options.pop(name) for name in ("key", "retries", "headers") if name in options}
        if request.param == "blocking":
            with Client("http://box:8000/root", transport=httpx.MockTransport(handler), **given) as client:
                result = getattr(client, name)(*arguments, **options)
                return list(result) if isinstance(result, Iterator) else result
        async with AsyncClient("http://box:8000/root", transport=httpx.MockTransport(handler), **given) as client:
            result = getattr(client, name)(*arguments, **options)
            return [item async for item in result] if isinstance(result, AsyncIterator) else await result

    return make


async def test_a_call_carries_key_path_query_and_body(ask: Ask) -> None:
    # Given a server below a path, and a key
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"message": "m", "job_id": "a/b"})

    # When calls are made, then each goes where it should, with the key
    await ask(handle, "cancel_job", "a/b", key="secret")
    assert str(seen[0].url) == "http://box:8000/root/api/v1/inference/cancel/a%2Fb"
    assert seen[0].headers["authorization"] == "Bearer secret"
    with pytest.raises(errors.FreeroamError):
        await ask(handle, "start_job", "demo:", "q", fps=2, params={"threshold": 0.5}, tags={"gate": "1"})
    assert json.loads(seen[1].content) == {
        "stream_ref": "demo:",
        "prompt": "q",
        "fps": 2.0,
        "params": {"threshold": 0.5},
        "tags": {"gate": "1"},
    }
    assert seen[1].headers["content-type"] == "application/json"


async def test_a_spoken_answer_is_given_item_by_item(ask: Ask) -> None:
    # Given a server that speaks
    seen: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, content=TOKENS)

    # When it is asked with a picture and a deadline, then items come, and the question was sent as it should be
    token, done = await ask(handle, "infer_stream", "q", "m", images=[b"\xff\xd8"], stop="x", timeout_s=1.5)
    assert isinstance(token, InferToken)
    assert isinstance(done, InferDone)
    assert json.loads(seen[0].content) == {"prompt": "q", "model": "m", "images": ["/9g="], "stop": ["x"]}
    assert seen[0].headers["x-request-timeout-ms"] == "1500"
    assert seen[0].extensions["timeout"]["read"] == 6.5


async def test_a_refusal_is_raised_as_the_error_it_is(ask: Ask) -> None:
    # Given a full server
    def handle(request: httpx.Request) -> httpx.Response:
        body = {"error": "full", "detail": {"code": "queue_full"}}
        return httpx.Response(503, json=body, headers={"Retry-After": "7"})

    # When it is asked, once only, then the error says what it is and when to come back; streams and calls alike
    for name in ("infer", "infer_stream"):
        with pytest.raises(errors.QueueFull) as raised:
            await ask(handle, name, "q", retries=Retries(attempts=1))
        assert raised.value.retry_after_s == 7.0


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (httpx.ConnectError("refused"), errors.Unreachable),
        (httpx.ConnectTimeout("slow"), errors.Unreachable),
        (httpx.ReadError("reset"), errors.Unreachable),
        (httpx.RemoteProtocolError("cut"), errors.Unreachable),
        (httpx.ReadTimeout("silence"), errors.DeadlineExceeded),
    ],
)
@pytest.mark.parametrize("name", ["health", "export_job"])
async def test_a_connection_that_fails_is_an_error_of_the_tree(
    ask: Ask, fault: httpx.TransportError, kind: type[Exception], name: str
) -> None:
    # Given a connection that fails in one of its ways, when a call is made, then no error of the library comes through
    def handle(request: httpx.Request) -> httpx.Response:
        raise fault

    with pytest.raises(kind):
        await ask(handle, name, *arguments_of(name), retries=Retries(attempts=1))


async def test_a_body_that_breaks_is_an_error_of_the_tree(ask: Ask) -> None:
    # Given a body that breaks in the middle
    class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield TOKENS[:60]
            raise httpx.ReadError("reset")

        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in self:
                yield piece

    # When it is read, then the caller is told so
    with pytest.raises(errors.Unreachable):
        await ask(lambda request: httpx.Response(200, stream=Broken()), "infer_stream", "q")


async def test_readiness_is_an_answer_also_where_there_is_none(ask: Ask) -> None:
    # Given a server that is not ready, when that is asked, then the answer says what is missing
    body = {"ready": False, "status": "not_ready", "checks": {"model_loaded": False}, "timestamp": "t"}
    told = await ask(lambda request: httpx.Response(503, json=body), "readiness")
    assert told.checks == {"model_loaded": False}


async def test_what_is_no_answer_of_the_server_is_told_as_such(ask: Ask) -> None:
    # Given a page of something else, when calls are made, then the error says that it is no Freeroam
    for name in ("health", "statistics"):
        with pytest.raises(errors.FreeroamError) as raised:
            await ask(lambda request: httpx.Response(200, content=b"<html>"), name)
        assert raised.value.code == "bad_answer"


def test_a_wrong_argument_is_refused_before_anything_is_sent() -> None:
    # Given arguments that cannot be, when calls are described, then they are refused, and the field is named
    with pytest.raises(errors.InvalidInput, match="fps"):
        job_calls.start_job("demo:", fps=-1)
    with pytest.raises(errors.InvalidInput, match="timeout_s"):
        model_calls.infer("q", timeout_s=0)


def test_the_key_comes_from_the_environment_and_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    # Given a key in the environment
    monkeypatch.setenv("FREEROAM_API_KEY", "from-outside")

    def key_of(key: str | None) -> str | None:
        access = access_to(None, key, timeout_s=1, connect_timeout_s=1, retries=None, headers=None, verify=True)
        assert "from-outside" not in repr(access)
        return access.key

    # When clients are made, then a given key wins, an empty one is none, and nothing shows it
    assert (key_of(None), key_of("given"), key_of("")) == ("from-outside", "given", None)
    assert repr(Client()) == "Client('http://127.0.0.1:8000')"


@pytest.mark.parametrize("url", ["box:8000", "ftp://box", "http://", "http://user:secret@box", "/path"])
def test_an_address_that_cannot_be_one_is_refused(url: str) -> None:
    # Given an address that is none, when a client is made, then it is refused, and no password is repeated
    with pytest.raises(errors.ConfigurationError) as raised:
        Client(url)
    assert "secret" not in raised.value.message
