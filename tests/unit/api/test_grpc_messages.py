"""The protocol's messages: generated fresh, apart from other packages' of the same names, and read with suspicion."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

from freeroam.api.grpc import inference_pb2 as wire
from freeroam.api.grpc.messages import decode, read_request, values_of, write_response
from freeroam.api.grpc.passage import address_of
from freeroam.api.oip.tensors import Answered
from freeroam.api.problems import GRPC_CODE_OF, STATUS_OF
from freeroam.vocabulary.errors import FreeroamError, InvalidInput

ROOT = Path(__file__).parents[3]


def test_the_generated_messages_are_fresh() -> None:
    # Given the generator
    spec = importlib.util.spec_from_file_location("make_grpc", ROOT / "scripts/make_grpc.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)

    # Then every file is as it would write it now
    for path, text in generator.documents().items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)} is not fresh; run make grpc"


def test_every_message_has_the_numbers_of_the_official_client() -> None:
    # Given the official client's descriptors
    from tritonclient.grpc import model_config_pb2, service_pb2

    theirs = {**service_pb2.DESCRIPTOR.message_types_by_name, **model_config_pb2.DESCRIPTOR.message_types_by_name}

    # Then each of our fields has the same number, type and repetition there
    def compare(mine: Any, other: Any) -> None:
        for field in mine.fields:
            twin = other.fields_by_name[field.name]
            assert (field.number, field.type, field.is_repeated) == (twin.number, twin.type, twin.is_repeated), (
                field.full_name
            )
        for inner in mine.nested_types:
            compare(inner, other.nested_types_by_name[inner.name])

    for name, message in wire.DESCRIPTOR.message_types_by_name.items():
        compare(message, theirs[name])
    service = wire.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    official = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for method in service.methods:
        twin = official.methods_by_name[method.name]
        assert (method.input_type.name, method.output_type.name) == (twin.input_type.name, twin.output_type.name)


def request(**more: Any) -> wire.ModelInferRequest:
    return wire.ModelInferRequest(model_name="fake", **more)


def tensor(**more: Any) -> wire.ModelInferRequest.InferInputTensor:
    return wire.ModelInferRequest.InferInputTensor(**{"name": "prompt", "datatype": "BYTES", "shape": [1], **more})


def test_tensors_come_as_contents_or_raw() -> None:
    # Given one question in both forms, when they are read, then they are the same
    contents = request(inputs=[tensor(contents=wire.InferTensorContents(bytes_contents=[b"what"]))])
    raw = request(inputs=[tensor()], raw_input_contents=[b"\4\0\0\0what"])
    assert read_request(contents)[0][0].data == read_request(raw)[0][0].data == [b"what"]


@pytest.mark.parametrize(
    "message",
    [
        request(inputs=[tensor()]),
        request(inputs=[tensor()], raw_input_contents=[b"", b""]),
        request(inputs=[tensor()], raw_input_contents=[b"\xff\xff\xff\xff"]),
        request(inputs=[tensor(contents=wire.InferTensorContents())], raw_input_contents=[b"\0\0\0\0"]),
        request(inputs=[tensor(contents=wire.InferTensorContents(bytes_contents=[b"a", b"b"]))]),
        request(inputs=[tensor(shape=[2**62, 2**62])], raw_input_contents=[b""]),
        request(inputs=[tensor(shape=[-(2**63)])], raw_input_contents=[b""]),
        request(inputs=[tensor(datatype="FP32")], raw_input_contents=[b"\0\0\xc0\x7f"]),
        request(inputs=[tensor(datatype="UINT8", contents=wire.InferTensorContents(uint_contents=[2**31]))]),
        request(inputs=[tensor(parameters={"shared_memory_region": wire.InferParameter(string_param="r")})]),
        request(inputs=[tensor()] * 65, raw_input_contents=[b"\0\0\0\0"] * 65),
        request(id="x" * 300),
        wire.ModelInferRequest(),
    ],
)
def test_a_request_that_does_not_hold_together_is_refused(message: wire.ModelInferRequest) -> None:
    # Given a broken request, when it is read, then it is invalid input and nothing else
    with pytest.raises(InvalidInput):
        read_request(message)


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff", b"\x0a\x02\xff\xfe", b"\0" * 100])
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    # Given garbage, also text that is no UTF-8, when it is decoded, then it is invalid input
    with pytest.raises(InvalidInput):
        decode(wire.ModelInferRequest, data)


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        ({"datatype": "UINT8", "shape": [2_000_000]}, "lists more than"),
        ({"datatype": "BYTES", "shape": [2_000_000]}, "lists more than"),
        ({"datatype": "UINT8", "shape": [1] * 1000}, "dimensions"),
    ],
)
def test_what_is_short_on_the_wire_and_long_as_values_is_refused_unread(tensor: dict[str, Any], reason: str) -> None:
    # Given a tensor of millions of small elements, or of dimensions, when it is read, then its length is enough
    given = wire.ModelInferRequest.InferInputTensor(name="image", **tensor)
    given.contents.uint_contents.extend(range(2) if "dim" in reason else [0] * 2_000_000)
    with pytest.raises(InvalidInput, match=reason):
        read_request(request(inputs=[given]))


def test_parameters_are_bounded() -> None:
    # Given more parameters than anybody has use for, when they are read, then they are refused
    message = request()
    for number in range(300):
        message.parameters[str(number)].int64_param = number
    with pytest.raises(InvalidInput, match="at most"):
        read_request(message)


def test_parameters_keep_their_types() -> None:
    # Given parameters of each type and one of none, when they are read, then the values are plain
    given = {
        "a": wire.InferParameter(bool_param=True),
        "b": wire.InferParameter(int64_param=-1),
        "c": wire.InferParameter(double_param=0.5),
        "d": wire.InferParameter(),
    }
    assert values_of(given) == {"a": True, "b": -1, "c": 0.5}


def test_a_response_says_what_it_answers() -> None:
    # Given an answer, when it is written, then id, parameters and bytes are there
    answered = [Answered("text", "BYTES", (1,), ["hi"])]
    response = write_response(
        request(id="7"), answered, {"finish_reason": "st\ud800p", "n": 3, "last": True}, "fake", "1"
    )
    assert (response.id, list(response.raw_output_contents)) == ("7", [b"\2\0\0\0hi"])
    assert values_of(response.parameters) == {"finish_reason": "st?p", "n": 3, "last": True}


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:127.0.0.1:4711", "127.0.0.1"),
        ("ipv6:[::1]:4711", "::1"),
        ("ipv6:%5B::1%5D:4711", "::1"),
        ("unix:/run/x", None),
        ("vsock:3", ""),
    ],
)
def test_a_peers_address_is_found_in_its_name(peer: str, address: str | None) -> None:
    # Given gRPC's name of a peer, when the address is looked for, then it is found; what is unknown is nobody's
    assert address_of(peer) == address


def test_every_error_has_a_grpc_code() -> None:
    # Given the tree, then every class that has an HTTP status has a code, and the codes exist
    import grpc

    assert {code for _, code in GRPC_CODE_OF} <= {code.name for code in grpc.StatusCode}
    for kind, _ in STATUS_OF:
        assert any(issubclass(kind, base) for base, _ in GRPC_CODE_OF)
    assert GRPC_CODE_OF[-1][0] is FreeroamError
