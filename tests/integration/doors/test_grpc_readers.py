"""Callers of the gRPC door that read nothing, and strangers who send too much."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2

from freeroam.api.grpc import inference_pb2 as wire
from freeroam.api.grpc.strangers import MAX_QUESTION_BYTES
from tests.e2e.service import running
from tests.integration.doors.conftest import SPEAKER, SPEAKER_TYPE, Doors
from tests.raw_http2 import StuckCaller
from tests.servers import free_port

pytestmark = pytest.mark.timeout(120)

SERVICE = "/inference.GRPCInferenceService"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
LIST_SERVICES = b"\x3a\x00"
FOREIGN = (("x-forwarded-for", "198.51.100.7"),)


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doors]:
    """A service that gives up on readers soon."""
    port = free_port()
    folder = tmp_path_factory.mktemp("impatient")
    with running(folder, MODEL_TYPE=SPEAKER_TYPE, GRPC_PORT=str(port), STREAM_IDLE_TIMEOUT="0.5") as service:
        service.wait_ready()
        yield Doors(service, f"127.0.0.1:{port}")
        assert '"level":"error"' not in service.log()


def asked(prompt: bytes) -> bytes:
    tensor = wire.ModelInferRequest.InferInputTensor(name="prompt", datatype="BYTES", shape=[1])
    raw = [len(prompt).to_bytes(4, "little") + prompt]
    return wire.ModelInferRequest(model_name=SPEAKER, inputs=[tensor], raw_input_contents=raw).SerializeToString()


def dropped(doors: Doors) -> float:
    lines = doors.service.client.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("freeroam_slow_client_total{"))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (f"{SERVICE}/ModelStreamInfer", asked(b"count 3")),
        (f"{SERVICE}/ModelInfer", asked(b"count 3")),
        ("/grpc.health.v1.Health/Watch", b""),
        ("/grpc.health.v1.Health/Check", b""),
        (REFLECTION, LIST_SERVICES),
    ],
)
def test_a_reader_that_takes_nothing_is_closed_although_it_answers(
    impatient: Doors, method: str, message: bytes
) -> None:
    # Given a caller that acknowledges settings and pings, but gives an answer no room
    before = dropped(impatient)
    with StuckCaller(impatient.grpc) as caller:
        caller.call(method, message)

        # When STREAM_IDLE_TIMEOUT has passed, then its connection is closed
        caller.outlive()
    assert caller.pings > 0

    # And it is counted, and nothing of it is left
    impatient.service.wait(lambda: dropped(impatient) == before + 1)
    impatient.service.wait(impatient.is_at_rest)


def test_a_stuck_stream_of_the_library_ends_and_others_go_on(impatient: Doors) -> None:
    # Given a program that asks for megabytes and does not look at them, beside one that reads
    before = dropped(impatient)
    # The library's window grows with what it measures of the connection, until megabytes fit into it.
    fixed = (("grpc.http2.bdp_probe", 0),)
    stuck, reading = (grpc.insecure_channel(impatient.grpc, options=fixed) for _ in range(2))
    with stuck, reading:
        call = stuck.stream_stream(f"{SERVICE}/ModelStreamInfer")(iter([asked(b"flood 400")]))

        # When it is not read for too long, then it is ended
        impatient.service.wait(lambda: dropped(impatient) == before + 1)
        impatient.service.wait(impatient.is_at_rest)
        assert call.code() is grpc.StatusCode.UNAVAILABLE

        # And the other is served as before, as is a new call of the first
        for channel in (reading, stuck):
            heard = list(channel.stream_stream(f"{SERVICE}/ModelStreamInfer")(iter([asked(b"count 3")])))
            assert len(heard) >= 2


@pytest.mark.parametrize("method", ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", REFLECTION])
def test_a_question_of_a_stranger_is_short_or_refused(doors: Doors, method: str) -> None:
    # Given a stranger's question longer than any name, when it comes, then it is not looked into
    with grpc.insecure_channel(doors.grpc) as channel:
        message = b"\x0a\xff\xff\x7f" + b"x" * MAX_QUESTION_BYTES
        call = channel.stream_stream(method)(iter([message]), metadata=FOREIGN, timeout=30)
        with pytest.raises(grpc.RpcError) as refusal:
            list(call)
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert str(MAX_QUESTION_BYTES) in refusal.value.details()


def test_great_messages_leave_nothing_behind(doors: Doors) -> None:
    # Given messages as long as a body may be, in questions of strangers and in others, each wrong in its own way
    size = 30 * 2**20
    question = health_pb2.HealthCheckRequest(service="x" * size).SerializeToString()
    methods = [
        ("/grpc.health.v1.Health/Check", question),
        ("/grpc.health.v1.Health/Watch", question),
        (f"{SERVICE}/ModelInfer", b"\xff" * size),
        (f"{SERVICE}/ModelInfer", asked(b"\xff" * size)),
        (f"{SERVICE}/ModelInfer", asked(b"x" * size)),
        (f"{SERVICE}/ModelStreamInfer", asked(b"x" * size)),
    ]
    assert doors.service.process is not None
    process = psutil.Process(doors.service.process.pid)
    before = process.memory_info().rss

    # When each comes several times, then it is refused
    with grpc.insecure_channel(doors.grpc, options=(("grpc.max_send_message_length", -1),)) as channel:
        for method, message in methods * 4:
            call = channel.stream_stream(method)(iter([message]), timeout=60)
            if method.endswith("ModelStreamInfer"):
                assert b"characters" in b"".join(call)
                continue
            with pytest.raises(grpc.RpcError) as refusal:
                list(call)
            assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    # And the memory is as before, but for what the libraries keep for the next ones
    doors.service.wait(lambda: process.memory_info().rss - before < 10 * size)
