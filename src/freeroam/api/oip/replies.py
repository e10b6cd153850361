"""Answers of the protocol's REST door: whole ones with their tensors as JSON or bytes, and the events of a stream."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.responses import Response

from freeroam.api.oip.answers import answer_tensors, parameters_of
from freeroam.api.oip.requests import InferMessage
from freeroam.api.openai.answers import to_json
from freeroam.security.redaction import redact_text
from freeroam.vocabulary.errors import FreeroamError
from freeroam.vocabulary.inference import Output, Piece

HEADER_LENGTH = "Inference-Header-Content-Length"


def write_infer(message: InferMessage, wanted: tuple[str, ...], output: Output) -> Response:
    """Return the answer to an infer request: JSON, and after it the outputs that are wanted as bytes."""
    described, packed = [], []
    for tensor in answer_tensors(output, wanted):
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if message.outputs.get(tensor.name, message.is_binary):
            packed.append(tensor.packed())
            entry["parameters"] = {"binary_data_size": len(packed[-1])}
        else:
            entry["data"] = tensor.listed()
        described.append(entry)
    body: dict[str, Any] = {"model_name": output.model, "model_version": output.version}
    if message.id:
        body["id"] = message.id
    head = to_json({**body, "parameters": parameters_of(output), "outputs": described})
    if not packed:
        return Response(head, media_type="application/json")
    return Response(
        b"".join((head, *packed)), media_type="application/octet-stream", headers={HEADER_LENGTH: str(len(head))}
    )


def write_generated(request_id: str, output: Output) -> dict[str, Any]:
    """Return the body of a whole generated answer, which is also the last event of a stream but for its text."""
    body: dict[str, Any] = {"model_name": output.model, "model_version": output.version}
    if request_id:
        body["id"] = request_id
    body |= {"text_output": output.text or "", **parameters_of(output)}
    if output.predictions:
        body["predictions"] = [prediction.model_dump() for prediction in output.predictions]
    return body


class GeneratedEvents:
    """Writes an answer as ``generate_stream`` gives it: an event a piece, the last one with what ended it.

    Args:
        request_id: The client's own name for the request.
        model: As it was asked for; the last event says which version spoke.
    """

    def __init__(self, request_id: str, model: str) -> None:
        self._id = request_id
        self._head: dict[str, Any] = {"model_name": model}
        if request_id:
            self._head["id"] = request_id

    def begin(self) -> bytes:
        """Return nothing: the first event is the first piece."""
        return b""

    def piece(self, piece: Piece) -> bytes:
        """Return one event."""
        body = {**self._head, "text_output": piece.text, "index": piece.index}
        return _event(body if piece.count == 1 else {**body, "count": piece.count})

    def end(self, output: Output, usage: dict[str, int]) -> bytes:
        """Return the last event; its text is empty, because all of it has been given."""
        counted = {"completion_tokens": usage["completion_tokens"]}
        return _event({**write_generated(self._id, output), **counted, "text_output": ""})

    def error(self, error: FreeroamError, usage: dict[str, int]) -> bytes:  # noqa: ARG002 - this shape has no place for it
        """Return the event that says why the answer breaks off."""
        return _event({"error": redact_text(error.message)})


def _event(body: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % to_json(body)


def as_json(body: Any, status: int = 200) -> Response:
    """Return a JSON answer."""
    return Response(orjson.dumps(body, default=str), status_code=status, media_type="application/json")
