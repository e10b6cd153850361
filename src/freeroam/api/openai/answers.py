"""Answers in OpenAI's words: whole ones, and streams of chunks."""

from __future__ import annotations

from typing import Any

import orjson

from freeroam.api.openai.formats import FREE, AnswerFormat
from freeroam.api.problems import detail_of, status_of
from freeroam.api.shapes import openai_error
from freeroam.security.redaction import redact_text
from freeroam.vocabulary.errors import FreeroamError, InvalidInput
from freeroam.vocabulary.inference import FinishReason, Output, Piece

DONE = b"data: [DONE]\n\n"


def chat_completion(
    request_id: str, created: int, output: Output, usage: dict[str, int], answer_format: AnswerFormat = FREE
) -> dict[str, Any]:
    """Return the body of a whole chat completion; what the model saw comes as a field of ours, ``predictions``."""
    message = {"role": "assistant", "content": answer_format.content_of(output), "refusal": None}
    return {
        "id": f"chatcmpl-{request_id}",
        "object": "chat.completion",
        "created": created,
        "model": output.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason(output)}],
        "usage": usage,
        **_further(output),
    }


def completion(request_id: str, created: int, output: Output, usage: dict[str, int]) -> dict[str, Any]:
    """Return the body of a whole completion."""
    choice = {"index": 0, "text": output.text or "", "logprobs": None, "finish_reason": finish_reason(output)}
    return {
        "id": f"cmpl-{request_id}",
        "object": "text_completion",
        "created": created,
        "model": output.model,
        "choices": [choice],
        "usage": usage,
        **_further(output),
    }


def finish_reason(output: Output) -> str:
    """Return ``stop`` or ``length``, the two that such an answer can end by here."""
    return "length" if output.finish_reason is FinishReason.LENGTH else "stop"


def _further(output: Output) -> dict[str, Any]:
    """Return the fields that are ours, and the version that spoke in the field that OpenAI has for such things."""
    further: dict[str, Any] = {"system_fingerprint": f"{output.model}@{output.version}"}
    if output.predictions:
        further["predictions"] = [prediction.model_dump() for prediction in output.predictions]
    return further


class Chunks:
    """Writes an answer as a stream of chunks.

    Args:
        request_id: Named in every chunk.
        created: Seconds since 1970.
        model: As it was asked for; which version spoke is in the last chunk.
        is_chat: Chat completions, else completions.
        wants_usage: End with a chunk that holds the usage.
        answer_format: How the content is to be.
    """

    def __init__(
        self,
        request_id: str,
        created: int,
        model: str,
        *,
        is_chat: bool,
        wants_usage: bool,
        answer_format: AnswerFormat = FREE,
    ) -> None:
        self._is_chat = is_chat
        self._wants_usage = wants_usage
        self._format = answer_format
        self._head: dict[str, Any] = {
            "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{request_id}",
            "object": "chat.completion.chunk" if is_chat else "text_completion",
            "created": created,
            "model": model,
        }
        if wants_usage:
            self._head["usage"] = None

    def begin(self) -> bytes:
        """Return the chunk that says who speaks."""
        return self._chunk({"role": "assistant", "content": ""}) if self._is_chat else b""

    def piece(self, piece: Piece) -> bytes:
        """Return the chunk of a piece; nothing while the content is held back."""
        return b"" if self._format.is_held else self._text(piece.text)

    def end(self, output: Output, usage: dict[str, int]) -> bytes:
        """Return the chunk with the finish reason and what was seen, the one with the usage, and the end mark."""
        body = b""
        if self._format.is_held:
            try:
                body = self._text(self._format.content_of(output))
            except InvalidInput as error:
                return self.error(error, usage)
        further = _further(output)
        body += self._chunk({} if self._is_chat else "", finish_reason(output), further)
        if self._wants_usage:
            body += _event({**self._head, "choices": [], "usage": usage})
        return body + DONE

    def error(self, error: FreeroamError, usage: dict[str, int]) -> bytes:  # noqa: ARG002 - this shape has no place for it
        """Return the chunk that tells why the answer breaks off, which clients raise, and the end mark."""
        return _event(openai_error(status_of(error), redact_text(error.message), detail_of(error))) + DONE

    def _text(self, text: str) -> bytes:
        return self._chunk({"content": text} if self._is_chat else text)

    def _chunk(self, said: Any, reason: str | None = None, further: dict[str, Any] | None = None) -> bytes:
        choice = {"index": 0, "delta" if self._is_chat else "text": said, "logprobs": None, "finish_reason": reason}
        return _event({**self._head, "choices": [choice], **(further or {})})


def _event(body: dict[str, Any]) -> bytes:
    return b"data: %b\n\n" % to_json(body)


def to_json(body: dict[str, Any]) -> bytes:
    """Return ``body`` as JSON; half a surrogate pair, which no UTF-8 can say, is replaced."""
    try:
        return orjson.dumps(body, default=str)
    except TypeError:
        return orjson.dumps(_sayable(body), default=str)


def _sayable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {name: _sayable(inner) for name, inner in value.items()}
    return [_sayable(inner) for inner in value] if isinstance(value, list | tuple) else value
