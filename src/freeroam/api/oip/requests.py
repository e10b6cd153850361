"""Requests of the protocol's REST door: a JSON object, and after it the bytes of the tensors that it announces."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from freeroam.api.direct_route import refuse_intricate
from freeroam.api.oip.questions import refuse_what_is_not_offered
from freeroam.api.oip.tensors import MAX_LISTED, Tensor, read_listed, read_packed, read_shape
from freeroam.vocabulary.errors import InvalidInput, TooLarge, UnsupportedMedia

MAX_INPUTS = 64
MAX_ID_CHARS = 256
_WINDOWS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


@dataclass(frozen=True, slots=True)
class InferMessage:
    """One request.

    Attributes:
        id: The client's own name for it, given back.
        tensors: Inputs.
        parameters: Of the request.
        outputs: Names of the outputs that are wanted, and whether each is to come as bytes; empty means all.
        is_binary: Whether outputs that are not named come as bytes.
    """

    id: str
    tensors: list[Tensor]
    parameters: Mapping[str, Any]
    outputs: dict[str, bool]
    is_binary: bool


def decompressed(body: bytes, encoding: str, limit_bytes: int) -> bytes:
    """Return a body as it was before ``Content-Encoding``; runs in a thread, the lock is free meanwhile.

    Raises:
        UnsupportedMedia: The encoding is not known.
        InvalidInput: The body is not what it says.
        TooLarge: It unfolds to more than ``limit_bytes``.
    """
    name = encoding.strip().lower()
    if name in {"", "identity"}:
        return body
    if name not in _WINDOWS:
        raise UnsupportedMedia(f"Content-Encoding {encoding[:40]!r} is not known; known are gzip, deflate")
    unpacking = zlib.decompressobj(_WINDOWS[name])
    try:
        data = unpacking.decompress(body, limit_bytes + 1)
    except zlib.error:
        raise InvalidInput(f"the body is not {name}, as its Content-Encoding says") from None
    if len(data) > limit_bytes:
        raise TooLarge(f"the body unfolds to more than {limit_bytes} bytes (MAX_BODY_BYTES)")
    if not unpacking.eof:
        raise InvalidInput(f"the {name} body ends too early")
    return data


def read_object(text: bytes | memoryview) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        InvalidInput: It is none.
        TooLarge: It holds too many values to be read on the event loop.
    """
    refuse_intricate(text, 2 * MAX_LISTED)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"The body is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInput("The body must be a JSON object")
    return value


def read_infer(body: bytes, header_length: str | None) -> InferMessage:
    """Return the request that a body holds.

    Args:
        body: All of it.
        header_length: The header ``Inference-Header-Content-Length``; None if all of the body is JSON.

    Raises:
        InvalidInput: Something does not fit.
    """
    at = len(body) if header_length is None else _read_length(header_length, len(body))
    view = memoryview(body)
    head = read_object(view[:at])
    parameters = read_parameters(head)
    inputs = head.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise InvalidInput("inputs is required: a list of tensors")
    if len(inputs) > MAX_INPUTS:
        raise InvalidInput(f"inputs: {len(inputs)} tensors; at most {MAX_INPUTS} may come")
    tensors, rest = [], view[at:]
    for place, given in enumerate(inputs):
        tensor, rest = _read_input(given, f"inputs.{place}", rest)
        tensors.append(tensor)
    if len(rest):
        raise InvalidInput(f"{len(rest)} bytes are left after the tensors that the header announces")
    request_id = head.get("id", "")
    if not isinstance(request_id, str) or len(request_id) > MAX_ID_CHARS:
        raise InvalidInput(f"id must be a text of at most {MAX_ID_CHARS} characters")
    is_binary = parameters.get("binary_data_output") is True
    return InferMessage(request_id, tensors, parameters, _read_outputs(head.get("outputs"), is_binary), is_binary)


def read_parameters(given: Mapping[str, Any], field: str = "parameters") -> dict[str, Any]:
    """Return the parameters of a request, a tensor or an output.

    Raises:
        InvalidInput: They are no object, or ask for what is not offered.
    """
    parameters = given.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidInput(f"{field} must be an object")
    refuse_what_is_not_offered(parameters)
    return parameters


def _read_length(text: str, size: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) > size:
        raise InvalidInput(f"Inference-Header-Content-Length must be a whole number up to the body's {size} bytes")
    return int(text)


def _read_input(given: Any, field: str, rest: memoryview) -> tuple[Tensor, memoryview]:
    """Return one input, and what is left of the bytes after it."""
    if not isinstance(given, dict):
        raise InvalidInput(f"{field} must be an object")
    name, datatype = given.get("name"), given.get("datatype")
    if not isinstance(name, str) or not name:
        raise InvalidInput(f"{field}.name is required")
    if not isinstance(datatype, str):
        raise InvalidInput(f"{field}.datatype is required")
    shape = read_shape(name, given.get("shape"))
    size = read_parameters(given, f"{field}.parameters").get("binary_data_size")
    if size is None:
        if "data" not in given:
            raise InvalidInput(f"{field}.data is required, or binary_data_size with the bytes after the JSON")
        return read_listed(name, datatype, shape, given["data"]), rest
    if type(size) is not int or size < 0:
        raise InvalidInput(f"{field}: binary_data_size must be a whole number")
    if size > len(rest):
        raise InvalidInput(f"{field}: {size} bytes are announced; {len(rest)} are left of the body")
    return read_packed(name, datatype, shape, rest[:size]), rest[size:]


def _read_outputs(given: Any, is_binary: bool) -> dict[str, bool]:
    if given is None:
        return {}
    if not isinstance(given, list) or len(given) > MAX_INPUTS:
        raise InvalidInput(f"outputs must be a list of at most {MAX_INPUTS} outputs")
    outputs: dict[str, bool] = {}
    for place, wanted in enumerate(given):
        if not isinstance(wanted, dict) or not isinstance(wanted.get("name"), str):
            raise InvalidInput(f"outputs.{place}.name is required")
        if wanted["name"] in outputs:
            raise InvalidInput(f"outputs.{place}: {wanted['name'][:100]!r} is asked for twice")
        parameters = read_parameters(wanted, f"outputs.{place}.parameters")
        outputs[wanted["name"]] = bool(parameters.get("binary_data", is_binary))
    return outputs
