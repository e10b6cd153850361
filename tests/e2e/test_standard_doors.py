"""The standard doors of the real process: keys, limits, TLS, ports, stopping, and the plainest clients there are."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from httpx_sse import connect_sse

from freeroam.api.grpc import inference_pb2 as wire
from tests.e2e.service import Service, running
from tests.servers import free_port

pytestmark = pytest.mark.timeout(180)

SPEAKER = "Speaker"
MODEL_TYPE = "tests.integration.doors.speaker:Speaker"
SERVICE = "/inference.GRPCInferenceService"
ADMIN, READER, SLOW = "admin-key-0123456789", "reader-key-0123456789", "slow-key-0123456789"


@contextlib.contextmanager
def service_with_grpc(folder: Path, **settings: str) -> Iterator[tuple[Service, str]]:
    port = free_port()
    with running(folder, MODEL_TYPE=MODEL_TYPE, GRPC_PORT=str(port), **settings) as service:
        yield service, f"127.0.0.1:{port}"
        assert '"level":"error"' not in service.log()


def question(prompt: str, **more: Any) -> bytes:
    text = prompt.encode()
    tensor = wire.ModelInferRequest.InferInputTensor(name="prompt", datatype="BYTES", shape=[1])
    raw = len(text).to_bytes(4, "little") + text
    return wire.ModelInferRequest(
        model_name=SPEAKER, inputs=[tensor], raw_input_contents=[raw], **more
    ).SerializeToString()  # fmt: skip


def metadata(key: str, header: str = "authorization") -> tuple[tuple[str, str], ...]:
    return ((header, f"Bearer {key}" if header == "authorization" else key),)


def refused(call: Any, *arguments: Any, **options: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refusal:
        call(*arguments, **options)
    return refusal.value


def streaming(channel: grpc.Channel) -> Any:
    return channel.stream_stream(
        f"{SERVICE}/ModelStreamInfer", response_deserializer=wire.ModelStreamInferResponse.FromString
    )


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/infer_stream", {"model": SPEAKER, "prompt": "count 20"}),
        (f"/v2/models/{SPEAKER}/generate_stream", {"text_input": "count 20"}),
        ("/v1/completions", {"model": SPEAKER, "prompt": "count 20", "stream": True}),
    ],
)
def test_curl_and_a_reader_of_events_hear_every_word(tmp_path: Path, path: str, body: dict[str, Any]) -> None:
    with running(tmp_path, MODEL_TYPE=MODEL_TYPE) as service:
        service.wait_ready()

        # Given curl, when it asks without waiting for the end, then the words come as events, as they are spoken
        command = ["curl", "-sS", "-N", "--json", json.dumps(body), f"{service.url}{path}"]
        told = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
        events = [line.removeprefix("data: ") for line in told.splitlines() if line.startswith("data: ")]
        assert len(events) > 2
        assert all(f"word{n} " in told for n in range(20))

        # And a reader of server-sent events hears the same
        with connect_sse(service.client, "POST", path, json=body) as source:
            heard = [event.data for event in source.iter_sse()]
        assert all(any(f"word{n} " in data for data in heard) for n in range(20))

        # And a refusal is a status, before any event
        wrong = json.dumps({**body, "model": "nobody", "prompt": "", "text_input": ""})
        command = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--json", wrong, f"{service.url}{path}"]
        code = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
        assert code in {"400", "404"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, str]]:
    """A service with three keys: all rights, reading alone, and a limit of five calls a minute."""
    folder = tmp_path_factory.mktemp("guarded")
    keys = [
        {"name": "admin", "key": ADMIN, "rights": ["admin"]},
        {"name": "reader", "key": READER, "rights": ["read"]},
        {"name": "slow", "key": SLOW, "rights": ["read", "run"], "rate_limit_per_minute": 5},
    ]
    (folder / "keys.json").write_text(json.dumps({"keys": keys}))
    settings = {"API_KEYS_FILE": str(folder / "keys.json"), "MAX_BODY_BYTES": "100000"}
    with service_with_grpc(folder, **settings) as (service, address):
        service.wait_ready()
        yield service, address


@pytest.fixture
def channel(guarded: tuple[Service, str]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(guarded[1]) as channel:
        yield channel


def test_no_method_of_the_grpc_door_opens_without_a_key_but_health_and_reflection(channel: grpc.Channel) -> None:
    # Given a service with keys, when a stranger calls any method, also an unknown key's, then it stays shut
    for method in wire.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        if method.name == "ModelStreamInfer":
            call, sent = streaming(channel), iter([question("count 1")])
            error = refused(lambda call=call, sent=sent, **options: list(call(sent, **options)))
        else:
            error = refused(channel.unary_unary(f"{SERVICE}/{method.name}"), b"")
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED, method.name
    error = refused(channel.unary_unary(f"{SERVICE}/ServerLive"), b"", metadata=metadata("wrong"))
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED

    # And health is open to all
    status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status
    assert status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("header", ["authorization", "x-api-key"])
def test_a_key_opens_what_its_rights_name(channel: grpc.Channel, header: str) -> None:
    # Given keys in either kind of metadata, when they call, then rights decide as they do over HTTP
    infer, live = channel.unary_unary(f"{SERVICE}/ModelInfer"), channel.unary_unary(f"{SERVICE}/ServerLive")
    load = channel.unary_unary(f"{SERVICE}/RepositoryModelLoad")
    wish = wire.RepositoryModelLoadRequest(model_name=SPEAKER).SerializeToString()
    assert live(b"", metadata=metadata(READER, header))
    assert infer(question("count 1"), metadata=metadata(ADMIN, header))
    assert load(wish, metadata=metadata(ADMIN, header)) == b""
    for call, sent in ((infer, question("count 1")), (load, wish)):
        error = refused(call, sent, metadata=metadata(READER, header))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED
        assert "lacks the right" in error.details()


def test_both_doors_share_a_clients_limit(guarded: tuple[Service, str], channel: grpc.Channel) -> None:
    # Given a key of five calls a minute, when some come by HTTP, then the rest is left for gRPC
    service, _ = guarded
    live = channel.unary_unary(f"{SERVICE}/ServerLive")
    for _ in range(2):
        assert service.client.get("/v2", headers={"x-api-key": SLOW}).status_code == 200
    for _ in range(3):
        assert live(b"", metadata=metadata(SLOW))
    error = refused(live, b"", metadata=metadata(SLOW))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(error.trailing_metadata())["retry-after"]) >= 1

    # And OpenAI's client is told in its own words
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=SLOW, max_retries=0) as client:
        with pytest.raises(openai.RateLimitError) as limit:
            client.models.list()
        assert int(limit.value.response.headers["retry-after"]) >= 1


def test_openais_client_is_told_of_keys_and_sizes_in_its_own_words(guarded: tuple[Service, str]) -> None:
    # Given keys and a limit of bodies, when a client has none or sends too much, then it raises what it knows
    service, _ = guarded
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as unknown:
            client.models.list()
        assert (unknown.value.code, unknown.value.type) == ("invalid_api_key", "authentication_error")
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=READER, max_retries=0) as client:
        assert client.models.list().data[0].id == SPEAKER
        with pytest.raises(openai.PermissionDeniedError):
            client.completions.create(model=SPEAKER, prompt="count 1")
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key=ADMIN, max_retries=0) as client:
        with pytest.raises(openai.APIStatusError) as size:
            client.completions.create(model=SPEAKER, prompt="x" * 200_000)
        assert size.value.status_code == 413
    assert set(service.client.get("/v2").json()) == {"error"}


def test_without_keys_a_forwarded_call_is_no_local_one(tmp_path: Path) -> None:
    # Given no keys, when a call comes from this machine, then it is served; one that was forwarded is not
    with service_with_grpc(tmp_path) as (_, address), grpc.insecure_channel(address) as channel:
        live = channel.unary_unary(f"{SERVICE}/ServerLive")
        assert live(b"")
        error = refused(live, b"", metadata=(("x-forwarded-for", "127.0.0.1"),))
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        assert "API_KEY" in error.details()

        # And a web page that a gateway speaks for is no friend either
        error = refused(
            channel.unary_unary(f"{SERVICE}/ModelInfer"), b"", metadata=(("origin", "https://evil.example"),)
        )
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED


def test_the_grpc_door_speaks_tls_with_the_certificate_of_https(tmp_path: Path) -> None:
    # Given a certificate
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    key.write_bytes(certificate.private_key_pem.bytes())
    port = free_port()
    service = Service(tmp_path, MODEL_TYPE="fake", GRPC_PORT=str(port), SSL_CERTFILE=str(chain), SSL_KEYFILE=str(key))
    service.client = httpx.Client(base_url=f"https://127.0.0.1:{service.port}", verify=False)
    try:
        service.start()

        # When a client trusts it, then it is answered; one in plain text is not
        credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
        with grpc.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            assert channel.unary_unary(f"{SERVICE}/ServerLive")(b"", timeout=20)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            error = refused(channel.unary_unary(f"{SERVICE}/ServerLive"), b"", timeout=20)
            assert error.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        service.end()


def test_a_stop_lets_answers_finish_says_so_to_streams_and_turns_health_first(tmp_path: Path) -> None:
    # Given an answer in flight, a stream that is quiet, and somebody who watches
    with service_with_grpc(tmp_path) as (service, address), grpc.insecure_channel(address) as channel:
        service.wait_ready()
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        quiet = streaming(channel)(_question_then_silence(quiet_stop := []))
        assert next(quiet).infer_response.model_name == SPEAKER
        infer = channel.unary_unary(f"{SERVICE}/ModelInfer", response_deserializer=wire.ModelInferResponse.FromString)
        answer = infer.future(question("count 300"))
        service.wait(lambda: service.client.get("/status").json()["calls"] == 1)

        # When the service is told to stop
        service.signal(signal.SIGTERM)

        # Then health says so while the answer is still being made, which then comes whole
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert not answer.done()
        error = refused(lambda: list(quiet))
        quiet_stop.append(True)
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert answer.result(timeout=60).raw_output_contents[0].count(b"word") == 300
        assert service.wait_ended() == 0


def _question_then_silence(stop: list[bool]) -> Iterator[bytes]:
    import time

    yield question("count 1")
    while not stop:
        time.sleep(0.05)


def test_a_stream_whose_reader_drains_nothing_is_ended_and_frees_its_place(tmp_path: Path) -> None:
    # Given a reader that asks for megabytes and reads none of them
    with service_with_grpc(tmp_path, STREAM_IDLE_TIMEOUT="1") as (service, address):
        service.wait_ready()
        with grpc.insecure_channel(address, options=(("grpc.http2.lookahead_bytes", 65536),)) as channel:
            call = streaming(channel)(iter([question("flood 3000")]))
            service.wait(lambda: service.client.get("/status").json()["streams"] == 1)

            # When it has drained nothing for longer than it may, then the model is free, and the drop is counted
            service.wait(lambda: service.client.get("/status").json()["calls"] == 0, limit_s=30)
            metrics = service.client.get("/metrics").text
            assert 'freeroam_slow_client_total{action="dropped",kind="answer"} 1.0' in metrics

            # And its connection is closed, which it finds when it reads on
            assert refused(lambda: list(call)).code() is grpc.StatusCode.UNAVAILABLE

        # And others are served
        with grpc.insecure_channel(address) as channel:
            assert channel.unary_unary(f"{SERVICE}/ModelInfer")(question("count 1"), timeout=30)


def test_a_chosen_port_that_is_taken_is_a_clear_error_before_anything_starts(tmp_path: Path) -> None:
    # Given a port that somebody else has
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        service = Service(tmp_path, GRPC_PORT=str(port))

        # When it is chosen for gRPC, then the service says which setting to change, and has not begun
        with pytest.raises(AssertionError, match="the service ended with 2"):
            service.start()
        service.end()
        assert f"GRPC_PORT={port}" in service.log()
        assert not (tmp_path / "data").exists()


def test_a_default_port_that_is_taken_is_only_warned_of(tmp_path: Path) -> None:
    # Given the default port in other hands
    with socket.socket() as taken:
        with contextlib.suppress(OSError):  # then somebody else has it already
            taken.bind(("127.0.0.1", 8001))
            taken.listen()

        # When the service starts without a word about gRPC, then it serves HTTP and has said what is missing
        with running(tmp_path, GRPC_PORT="") as service:
            service.wait_ready()
            assert "grpc_port_taken" in service.log()
