"""Between the protocol's messages and the words of ``api.oip``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from google.protobuf.json_format import ParseDict
from google.protobuf.message import DecodeError, Message

from freeroam.api.grpc import inference_pb2 as wire
from freeroam.api.oip.questions import refuse_what_is_not_offered
from freeroam.api.oip.requests import MAX_ID_CHARS, MAX_INPUTS
from freeroam.api.oip.tensors import (
    MAX_DIMENSIONS,
    MAX_LISTED,
    Answered,
    Tensor,
    read_elements,
    read_listed,
    read_packed,
)
from freeroam.vocabulary.errors import InvalidInput

M = TypeVar("M", bound=Message)

MAX_PARAMETERS = 256


def decode(kind: type[M], data: bytes) -> M:
    """Return the message that ``data`` holds.

    Raises:
        InvalidInput: It holds none.
    """
    try:
        message: M = kind.FromString(data)
    except DecodeError:
        raise InvalidInput(f"the message is no {kind.DESCRIPTOR.full_name}") from None
    return message


def from_json(kind: type[M], document: Mapping[str, Any]) -> M:
    """Return a description as its message; both have the same names."""
    message: M = ParseDict(dict(document), kind())
    return message


def values_of(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as plain values; one without a value is left out.

    Raises:
        InvalidInput: There are too many.
    """
    if len(parameters) > MAX_PARAMETERS:
        raise InvalidInput(f"{len(parameters)} parameters; at most {MAX_PARAMETERS} may come")
    found: dict[str, Any] = {}
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        if kind is not None:
            found[name] = getattr(parameter, kind)
    return found


def read_request(request: wire.ModelInferRequest) -> tuple[list[Tensor], dict[str, Any], list[str]]:
    """Return the tensors, the parameters and the names of the outputs that are wanted.

    Raises:
        InvalidInput: Something does not fit.
    """
    if not request.model_name:
        raise InvalidInput("model_name is required")
    if len(request.id) > MAX_ID_CHARS:
        raise InvalidInput(f"id must have at most {MAX_ID_CHARS} characters")
    if len(request.inputs) > MAX_INPUTS or len(request.outputs) > MAX_INPUTS:
        raise InvalidInput(f"at most {MAX_INPUTS} inputs and outputs may be named")
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidInput(f"raw_input_contents has {len(raw)} entries for {len(request.inputs)} inputs")
    tensors = []
    for place, given in enumerate(request.inputs):
        refuse_what_is_not_offered(values_of(given.parameters))
        tensors.append(_read_input(given, raw[place] if raw else None))
    for wanted in request.outputs:
        refuse_what_is_not_offered(values_of(wanted.parameters))
    return tensors, values_of(request.parameters), [wanted.name for wanted in request.outputs]


def _read_input(given: wire.ModelInferRequest.InferInputTensor, raw: bytes | None) -> Tensor:
    # Lengths first: what is short in a message may be long as values, and making them would hold the event loop.
    name, datatype, shape = given.name, given.datatype, tuple(given.shape[: MAX_DIMENSIONS + 1])
    if raw is not None:
        if given.HasField("contents"):
            raise InvalidInput(f"input {name!r} has contents, and raw_input_contents came too; send one of them")
        return read_packed(name, datatype, shape, raw)
    if not given.HasField("contents"):
        raise InvalidInput(f"input {name!r} has no contents")
    listed = max(len(given.contents.bytes_contents), len(given.contents.uint_contents))
    if listed > MAX_LISTED:
        raise InvalidInput(f"input {name!r} lists more than {MAX_LISTED} elements; send them as raw_input_contents")
    if datatype == "BYTES":
        return read_elements(name, shape, list(given.contents.bytes_contents))
    return read_listed(name, datatype, shape, list(given.contents.uint_contents))


def write_response(
    request: wire.ModelInferRequest,
    answered: Sequence[Answered],
    parameters: Mapping[str, Any],
    model: str,
    version: str,
) -> wire.ModelInferResponse:
    """Return a response with its tensors as bytes, which every client can read without walking lists."""
    response = wire.ModelInferResponse(model_name=model, model_version=version, id=request.id)
    for name, value in parameters.items():
        _set_parameter(response.parameters[name], value)
    for tensor in answered:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(tensor.packed())
    return response


def _set_parameter(parameter: wire.InferParameter, value: Any) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    else:
        parameter.string_param = sayable(str(value))


def sayable(text: str) -> str:
    """Return ``text`` as UTF-8 can say it: halves of surrogate pairs are replaced."""
    return text.encode("utf-8", "replace").decode()
