"""The official Triton client over gRPC, unchanged, against the real service; health, reflection and hostile frames."""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.utils import InferenceServerException

from freeroam.api.grpc import inference_pb2 as wire
from freeroam.api.grpc.reflecting import MAX_STREAMS
from freeroam.api.grpc.strangers import MAX_HERE_OF_ONE
from tests.integration.doors.conftest import SEER, SPEAKER, Doors
from tests.waiting import until

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).parents[3]
SERVICE = "inference.GRPCInferenceService"


@pytest.fixture
def client(doors: Doors) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(doors.grpc) as client:
        yield client


@pytest.fixture
def channel(doors: Doors) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(doors.grpc) as channel:
        yield channel


def texts(name: str, *values: bytes) -> triton.InferInput:
    tensor = triton.InferInput(name, [len(values)], "BYTES")
    tensor.set_data_from_numpy(np.array(values, dtype=np.object_))
    return tensor


def pixels(*shape: int) -> triton.InferInput:
    tensor = triton.InferInput("image", list(shape), "UINT8")
    tensor.set_data_from_numpy(np.zeros(shape, np.uint8))
    return tensor


def parameter(response: Any, name: str) -> Any:
    value = response.parameters[name]
    return getattr(value, value.WhichOneof("parameter_choice"))


class Conversation:
    """One stream of the official client, and what its callback was told."""

    def __init__(self, client: triton.InferenceServerClient, **options: Any) -> None:
        self._client = client
        self.heard: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(callback=lambda result, error: self.heard.put((result, error)), **options)

    def ask(self, prompt: bytes, model: str = SPEAKER, **more: Any) -> None:
        self._client.async_stream_infer(model, [texts("prompt", prompt)], **more)

    def next(self) -> tuple[Any, Any]:
        return self.heard.get(timeout=60)

    def answer(self) -> tuple[list[Any], Any]:
        """Everything up to the last response: the responses, or the error."""
        responses = []
        while True:
            result, error = self.next()
            if error is not None:
                return responses, error
            responses.append(result.get_response())
            if parameter(responses[-1], "triton_final_response"):
                return responses, None


@pytest.fixture
def conversation(client: triton.InferenceServerClient) -> Iterator[Conversation]:
    yield Conversation(client)
    client.stop_stream(cancel_requests=True)


def said_in(response: Any) -> str:
    raw: bytes = response.raw_output_contents[0]
    return raw[4:].decode()


def test_the_server_and_its_models_describe_themselves(client: triton.InferenceServerClient) -> None:
    # Given the client, when it asks what there is, then everything it knows how to ask is answered
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(SPEAKER)
    assert client.get_server_metadata().name == "freeroam"
    assert [tensor.name for tensor in client.get_model_metadata(SEER).inputs] == ["prompt", "image"]
    assert client.get_model_config(SPEAKER).config.model_transaction_policy.decoupled
    assert client.get_model_config(SEER, "1", as_json=True)["config"]["backend"] == "freeroam"
    assert client.get_inference_statistics(SEER).model_stats[0].name == SEER
    index = client.get_model_repository_index().models
    assert {(entry.name, entry.version, entry.state) for entry in index} == {
        (SEER, "1", "READY"),
        (SPEAKER, "1", "READY"),
    }


def test_tensors_go_both_ways(client: triton.InferenceServerClient, picture: bytes) -> None:
    # Given a prompt with pixels, and one with a file, when they are asked, then every output comes back
    answer = client.infer(
        SEER, [texts("prompt", b"what"), pixels(20, 30, 3)], request_id="7", compression_algorithm="gzip"
    )
    assert answer.get_response().id == "7"
    assert answer.as_numpy("text").tolist() == [b"1 frames, asked: what"]
    assert answer.as_numpy("boxes").tolist() == [[0.0, 0.0, 30.0, 20.0]]
    wanted = [triton.InferRequestedOutput("confidence")]
    answer = client.infer(SEER, [texts("text_input", b"what"), texts("image", picture)], outputs=wanted)
    assert answer.as_numpy("confidence").tolist() == [0.5]
    assert answer.as_numpy("text") is None


def test_parameters_reach_the_model(client: triton.InferenceServerClient) -> None:
    # Given parameters of the types that the client knows, when it asks, then the model was tuned by them
    tuned = {"max_tokens": 5, "temperature": "0.5", "choices": '["x", "y"]', "client_id": "me"}
    answer = client.infer(SPEAKER, [texts("prompt", b"echo it")], priority=3, timeout=5_000_000, parameters=tuned)
    params = json.loads(answer.as_numpy("text")[0])["params"]
    assert params == {"max_tokens": 5, "temperature": 0.5, "choices": ["x", "y"]}


@pytest.mark.parametrize(
    "limit", [{"timeout": 200_000}, {"headers": {"x-request-timeout-ms": "200"}}, {"client_timeout": 0.2}]
)
def test_every_kind_of_deadline_ends_a_call(
    client: triton.InferenceServerClient, doors: Doors, limit: dict[str, Any]
) -> None:
    # Given an answer of minutes, when the request, its metadata or the call itself has a limit, then it is kept
    with pytest.raises(InferenceServerException) as failure:
        client.infer(SPEAKER, [texts("prompt", b"count 20000")], **limit)
    assert failure.value.status() == "StatusCode.DEADLINE_EXCEEDED"
    doors.service.wait(doors.is_at_rest, limit_s=20)


def test_a_call_that_is_cancelled_frees_its_place(client: triton.InferenceServerClient, doors: Doors) -> None:
    # Given an answer of minutes, when the client cancels the call, then nothing of it is left
    doors.service.wait(doors.is_at_rest)
    before = doors.cancelled()
    call = client.async_infer(SPEAKER, [texts("prompt", b"count 20000")], callback=lambda result, error: None)
    doors.service.wait(lambda: not doors.is_at_rest())
    call.cancel()
    doors.service.wait(doors.is_at_rest, limit_s=20)
    assert doors.cancelled() == before + 1


def test_a_stream_answers_piece_by_piece(conversation: Conversation) -> None:
    # Given a question on a stream, when it is answered, then no word is lost or doubled, and the last one says so
    conversation.ask(b"count 30", request_id="a")
    responses, error = conversation.answer()
    assert error is None
    *pieces, last = responses
    assert "".join(said_in(piece) for piece in pieces) == "".join(f"word{n} " for n in range(30))
    index = 0
    for piece in pieces:
        assert (piece.id, parameter(piece, "index")) == ("a", index)
        index += parameter(piece, "count")
    assert index == 30
    assert (said_in(last), last.model_version, parameter(last, "finish_reason")) == ("", "1", "stop")
    assert parameter(last, "completion_tokens") == 30


def test_questions_of_one_stream_are_answered_side_by_side(conversation: Conversation) -> None:
    # Given a long question and a short one after it, when both are asked, then the short one does not wait
    conversation.ask(b"count 300", request_id="long", enable_empty_final_response=True)
    conversation.ask(b"count 2", request_id="short")
    finished = []
    while len(finished) < 2:
        result, error = conversation.next()
        assert error is None
        if parameter(result.get_response(), "triton_final_response"):
            finished.append(result.get_response().id)
    assert finished == ["short", "long"]


def test_a_question_that_fails_leaves_its_stream_open(conversation: Conversation) -> None:
    # Given a stream, when questions on it fail in several ways, then each is told, and the next one is answered
    conversation.ask(b"what", model="nobody")
    assert "not found" in str(conversation.answer()[1])
    conversation.ask(b"")
    assert "empty" in str(conversation.answer()[1])
    conversation.ask(b"break 9")
    responses, error = conversation.answer()
    assert len(responses) >= 1
    assert "broke" in str(error)
    conversation.ask(b"count 2")
    assert conversation.answer()[1] is None


def test_a_question_on_a_stream_that_is_turned_away_is_counted(conversation: Conversation, doors: Doors) -> None:
    # Given a question that may take no time at all, and one that is wrong, when both are told so
    pieces: list[Any] = [None]
    while pieces:  # one that began to be answered all the same was not turned away
        before = [doors.counted("freeroam_rejected_total", label) for label in ('"deadline"', "reason")]
        conversation.ask(b"count 20000", timeout=1)
        pieces, error = conversation.answer()
        assert "deadline" in str(error)
    conversation.ask(b"")
    assert "empty" in str(conversation.answer()[1])

    # Then the first alone is counted, by its reason
    after = [doors.counted("freeroam_rejected_total", label) for label in ('"deadline"', "reason")]
    assert after == [count + 1 for count in before]


def test_a_stream_that_is_cancelled_frees_every_place(client: triton.InferenceServerClient, doors: Doors) -> None:
    # Given three answers of minutes on one stream, when the client cancels it, then nothing of them is left
    doors.service.wait(doors.is_at_rest)
    before = doors.cancelled()
    conversation = Conversation(client)
    for _ in range(3):
        conversation.ask(b"count 20000", parameters={"max_tokens": 4000})
    for _ in range(6):
        conversation.next()
    client.stop_stream(cancel_requests=True)
    doors.service.wait(doors.is_at_rest, limit_s=20)
    assert doors.cancelled() == before + 3


async def test_the_asynchronous_client_streams_too(doors: Doors) -> None:
    # Given the asynchronous client, when it asks over a stream, then it hears the same
    async def questions() -> AsyncIterator[dict[str, Any]]:
        yield {"model_name": SPEAKER, "inputs": [texts("prompt", b"count 4")]}

    said = ""
    async with triton_aio.InferenceServerClient(doors.grpc) as client:
        assert await client.is_server_live()
        async for result, error in client.stream_infer(questions()):
            assert error is None
            said += said_in(result.get_response())
    assert said == "word0 word1 word2 word3 "


def test_shared_memory_is_refused_clearly(client: triton.InferenceServerClient) -> None:
    # Given a client that would share memory, when it registers or names a region, then it is told what to do
    with pytest.raises(InferenceServerException, match="send tensors inside the request") as refusal:
        client.register_system_shared_memory("region", "/key", 64)
    assert refusal.value.status() == "StatusCode.UNIMPLEMENTED"
    tensor = triton.InferInput("prompt", [1], "BYTES")
    tensor.set_shared_memory("region", 64)
    with pytest.raises(InferenceServerException, match="send tensors inside the request"):
        client.infer(SPEAKER, [tensor])


def test_models_are_loaded_and_unloaded_by_name(client: triton.InferenceServerClient) -> None:
    # Given a model of a built-in type, when it is loaded and unloaded, then it answers in between and is gone after
    client.load_model("third", config=json.dumps({"model_type": "fake", "version": "3"}))
    assert client.infer("third", [texts("prompt", b"q")]).get_response().model_version == "3"
    client.unload_model("third")
    assert not any(entry.name == "third" for entry in client.get_model_repository_index().models)
    for deed, wrong, code in (
        (client.unload_model, "nobody", "NOT_FOUND"),
        (client.unload_model, SPEAKER, "ALREADY_EXISTS"),
        (client.load_model, "nobody", "NOT_FOUND"),
    ):
        with pytest.raises(InferenceServerException) as refusal:
            deed(wrong)
        assert refusal.value.status() == f"StatusCode.{code}"


def test_health_and_reflection_are_as_tools_expect(channel: grpc.Channel) -> None:
    # Given the standard health client, when it checks, then service and models are told apart from what is unknown
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE, SPEAKER):
        assert (
            health.Check(health_pb2.HealthCheckRequest(service=name)).status == health_pb2.HealthCheckResponse.SERVING
        )
    with pytest.raises(grpc.RpcError) as refusal:
        health.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    unknown = next(health.Watch(health_pb2.HealthCheckRequest(service="nobody")))
    assert unknown.status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

    # And a tool that knows nothing finds the methods by reflection
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
    assert "ModelStreamInfer" in {
        method.name for method in database.FindFileContainingSymbol(SERVICE).service[0].method
    }


async def test_what_is_open_to_all_is_bounded(channel: grpc.Channel) -> None:
    # Given strangers who open streams and ask nothing
    health, reflection = (
        "/grpc.health.v1.Health/Check",
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    )
    for method, bound in ((health, MAX_HERE_OF_ONE), (reflection, MAX_STREAMS)):
        kept: queue.Queue[bytes | None] = queue.Queue()
        calls = [channel.stream_stream(method)(iter(kept.get, None)) for _ in range(bound + 8)]

        # When there are too many of them, then the last are refused
        await until(lambda calls=calls: sum(call.done() for call in calls) >= 8)
        refused = [call for call in calls if call.done()]
        assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        for call in calls:
            call.cancel()
            kept.put(None)

    # And once they are gone, there is room again
    stub = health_pb2_grpc.HealthStub(channel)

    def is_serving() -> bool:
        try:
            return stub.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        except grpc.RpcError:
            return False

    await until(is_serving)


def infer_request(**more: Any) -> bytes:
    tensor = wire.ModelInferRequest.InferInputTensor(name="prompt", datatype="BYTES", shape=[1])
    told = {"model_name": SPEAKER, "inputs": [tensor], "raw_input_contents": [b"\4\0\0\0what"], **more}
    return wire.ModelInferRequest(**told).SerializeToString()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xff\xff",
        bytes(range(256)) * 4,
        b"\x0a\x02\xff\xfe",
        infer_request(raw_input_contents=[b"\xff\xff\xff\xffx"]),
        infer_request(raw_input_contents=[]),
        infer_request(model_version="\x00"),
        infer_request(model_name=""),
        infer_request(model_name="x" * 100_000),
        infer_request(parameters={"temperature": wire.InferParameter(double_param=float("nan"))}),
        infer_request(parameters={"timeout": wire.InferParameter(int64_param=-1)}),
        infer_request(parameters={"max_tokens": wire.InferParameter(uint64_param=2**64 - 1)}),
        infer_request(outputs=[wire.ModelInferRequest.InferRequestedOutputTensor(name="colour")]),
    ],
)
def test_hostile_messages_are_the_callers_fault(channel: grpc.Channel, data: bytes) -> None:
    # Given bytes that are no question, when they are sent, then the status blames the caller and the server lives
    call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
    with pytest.raises(grpc.RpcError) as refusal:
        call(data)
    assert refusal.value.code() in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}, refusal.value
    assert refusal.value.details()
    assert channel.unary_unary(f"/{SERVICE}/ServerLive")(b"") == wire.ServerLiveResponse(live=True).SerializeToString()


def test_hostile_messages_on_a_stream_are_told_and_passed_over(channel: grpc.Channel) -> None:
    # Given a stream with garbage and a good question, when it is read, then both are answered
    call = channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer", response_deserializer=wire.ModelStreamInferResponse.FromString
    )
    heard = list(call(iter([b"\xff\xff", infer_request(raw_input_contents=[b"\x07\0\0\0count 1"])])))
    assert sum(bool(response.error_message) for response in heard) == 1
    assert any(said_in(response.infer_response) == "word0 " for response in heard if not response.error_message)


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        os.urandom(4096),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + os.urandom(4096),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff\xff\xff\x01\x04\0\0\0\x01" + b"\0" * 4096,
    ],
)
def test_noise_on_the_port_hurts_nobody(doors: Doors, channel: grpc.Channel, noise: bytes) -> None:
    # Given a connection that speaks something else, when it has spoken, then others are served as before
    host, _, port = doors.grpc.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(noise)
        connection.settimeout(10)
        try:
            while connection.recv(65536):
                pass
        except OSError:
            pass
    assert channel.unary_unary(f"/{SERVICE}/ServerLive")(b"")


@pytest.mark.parametrize("method", ["ModelInfer", "RepositoryModelLoad", "ModelStreamInfer"])
def test_a_stranger_is_refused_before_its_message_is_read(channel: grpc.Channel, method: str) -> None:
    # Given a caller from elsewhere that keeps its message back, when it calls
    kept: queue.Queue[bytes | None] = queue.Queue()
    call = channel.stream_stream(f"/{SERVICE}/{method}")
    try:
        with pytest.raises(grpc.RpcError) as refusal:
            next(call(iter(kept.get, None), metadata=(("x-forwarded-for", "198.51.100.7"),), timeout=60))
    finally:
        kept.put(None)

    # Then it is refused all the same, so that no stranger fills the memory
    assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_call_that_brings_no_message_is_the_callers_fault(channel: grpc.Channel) -> None:
    # Given a call that ends before its message, when it is made, then the status says what is missing
    with pytest.raises(grpc.RpcError) as refusal:
        next(channel.stream_stream(f"/{SERVICE}/ModelInfer")(iter(())))
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_metadata_and_messages_that_are_too_large_are_refused(channel: grpc.Channel) -> None:
    # Given metadata and a message over their limits, when they are sent, then the status says that it is too much
    call = channel.unary_unary(f"/{SERVICE}/ServerLive")
    with pytest.raises(grpc.RpcError) as refusal:
        call(b"", metadata=(("x-long", "x" * 100_000),))
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError) as refusal:
        channel.unary_unary(f"/{SERVICE}/ModelInfer")(b"\0" * (33 * 2**20))
    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert call(b"")


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_our_messages_live_beside_those_of_the_official_client(first: str) -> None:
    # Given a program that imports both packages, whose messages have the same names, in either order
    ours = "from freeroam.api.grpc import inference_pb2 as ours"
    theirs = "from tritonclient.grpc import service_pb2 as theirs"
    lines = [ours, theirs] if first == "ours" else [theirs, ours]

    # When one writes and the other reads, then they mean the same
    lines += ["data = theirs.ModelInferRequest(raw_input_contents=[b'x']).SerializeToString()"]
    lines += ["assert ours.ModelInferRequest.FromString(data).raw_input_contents[0] == b'x'"]
    subprocess.run([sys.executable, "-c", "; ".join(lines)], check=True, env={"PYTHONPATH": str(ROOT / "src")})
