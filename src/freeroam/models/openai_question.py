"""A question in the words of the OpenAI API, and how those words change for servers that do not know all of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from freeroam.models.base import Question
from freeroam.models.openai_failures import UpstreamCode, UpstreamError
from freeroam.vocabulary.errors import InvalidInput, MissingExtra
from freeroam.vocabulary.inference import InferenceParams

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

JPEG_QUALITY = 85
MAX_STOPS = 4
"""As many as the API takes; all of them are looked for on this side too."""


class ChoiceForm(StrEnum):
    """How a server is held to the choices, the strictest first; the next one is tried when one is refused.

    ``json_schema`` is OpenAI's, vLLM's, SGLang's, Ollama's and llama.cpp's, ``json_object`` with a schema that of
    llama-cpp-python and others, ``guided_choice`` that of older vLLM; ``text`` only asks for it.
    """

    JSON_SCHEMA = "json_schema"
    JSON_OBJECT = "json_object"
    GUIDED_CHOICE = "guided_choice"
    TEXT = "text"


_NEXT_FORM = dict(zip(ChoiceForm, list(ChoiceForm)[1:], strict=False))
LENGTH_FIELDS = ("max_tokens", "max_completion_tokens")
_LENGTH_WORDS = (*LENGTH_FIELDS, "context length", "context window", "context size")
_FORM_WORDS = ("response_format", "json_schema", "json_object", "schema", "grammar", "structured")


@dataclass(frozen=True, slots=True)
class Wording:
    """The words that servers differ in.

    Attributes:
        asks_usage: Whether ``stream_options`` asks for the count of tokens.
        length_field: What the greatest length is called.
        choice_form: How choices are put.
    """

    asks_usage: bool = True
    length_field: str = "max_tokens"
    choice_form: ChoiceForm = ChoiceForm.JSON_SCHEMA


class Dialect:
    """What a server has shown to understand; learned from its refusals, and kept for the next question.

    Args:
        wording: What is tried first.
        is_choice_form_fixed: Whether the form of choices is the operator's and never changed.
    """

    def __init__(self, wording: Wording, *, is_choice_form_fixed: bool = False) -> None:
        self.wording = wording
        self._is_choice_form_fixed = is_choice_form_fixed

    def learn(self, failure: UpstreamError, sent: Wording, body: dict[str, Any]) -> bool:
        """Return whether asking again in other words makes sense, having changed them.

        Each change goes one way, so a question is asked again at most once for each word and form.

        Args:
            failure: How the server refused.
            sent: The wording it refused.
            body: What was sent.
        """
        if failure.upstream_code not in {UpstreamCode.REJECTED, UpstreamCode.FAILED} or not failure.said:
            return False
        said = failure.said.lower()
        better = sent
        if "stream_options" in body and ("stream_options" in said or "include_usage" in said):
            better = replace(better, asks_usage=False)
        if "max_tokens" in body and "max_completion_tokens" in said:
            better = replace(better, length_field="max_completion_tokens")
        is_form_refused = "response_format" in body and any(word in said for word in _FORM_WORDS)
        is_form_refused |= "guided_choice" in body and "guided_choice" in said
        if is_form_refused and not self._is_choice_form_fixed:
            better = replace(better, choice_form=_NEXT_FORM.get(sent.choice_form, ChoiceForm.TEXT))
        if better == sent:
            return False
        if self.wording == sent:
            self.wording = better
        return True


def is_length_refused(failure: UpstreamError) -> bool:
    """Return whether a server refused a question because its answer could be longer than the server can have it."""
    is_refused = failure.upstream_code is UpstreamCode.REJECTED
    return is_refused and any(word in failure.said.lower() for word in _LENGTH_WORDS)


def body_of(
    model: str,
    question: Question,
    pictures: Sequence[str],
    wording: Wording,
    detail: str,
    most_tokens: int | None,
) -> dict[str, Any]:
    """Return the body of ``POST /chat/completions``.

    Args:
        model: The model's name there.
        question: What is asked.
        pictures: Data URLs, oldest first.
        wording: Words that servers differ in.
        detail: ``low``, ``high`` or ``auto`` for pictures; empty says nothing.
        most_tokens: Greatest length of the answer; None says nothing.

    Raises:
        InvalidInput: There are pictures or choices, and no message of the user.
    """
    params = question.params
    body: dict[str, Any] = {"model": model, "messages": _messages(question, pictures, detail), "stream": True}
    if wording.asks_usage:
        body["stream_options"] = {"include_usage": True}
    if most_tokens is not None:
        body[wording.length_field] = most_tokens
    for name in ("temperature", "top_p", "seed"):
        value = getattr(params, name)
        if value is not None:
            body[name] = value
    if params.stop:
        body["stop"] = params.stop[:MAX_STOPS]
    if params.choices:
        body.update(_choice_fields(params.choices, wording.choice_form))
    return body


def data_urls(frames: Sequence[NDArray[np.uint8]], quality: int = JPEG_QUALITY) -> list[str]:
    """Return frames ``[h, w, 3]`` uint8 RGB as data URLs of JPEG pictures.

    Raises:
        MissingExtra: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("pillow", "openai") from error
    urls = []
    for frame in frames:
        packed = io.BytesIO()
        Image.fromarray(frame).save(packed, "JPEG", quality=quality)
        urls.append("data:image/jpeg;base64," + base64.b64encode(packed.getbuffer()).decode())
    return urls


def _messages(question: Question, pictures: Sequence[str], detail: str) -> list[dict[str, Any]]:
    """Return the conversation; pictures stand before the text of its last question, to which they belong."""
    said: list[Any] = [*(question.params.messages or [])] or [{"role": "user", "content": question.prompt}]
    messages: list[dict[str, Any]] = [{"role": turn["role"], "content": turn["content"]} for turn in said]
    asked = [place for place, turn in enumerate(messages) if turn["role"] == "user"]
    if (pictures or question.params.choices) and not asked:
        raise InvalidInput("messages: there is none of the user, to which the pictures or the choices could belong")
    if question.params.choices:
        last = messages[asked[-1]]
        last["content"] = f"{last['content']}\n\n{_request_for_choice(question.params)}"
    if pictures:
        last = messages[asked[-1]]
        shown = [{"url": url, "detail": detail} if detail else {"url": url} for url in pictures]
        parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": picture} for picture in shown]
        last["content"] = [*parts, {"type": "text", "text": last["content"]}]
    return messages


def _request_for_choice(params: InferenceParams) -> str:
    lines = "\n".join(f"- {choice}" for choice in params.choices or ())
    return f"Answer with exactly one of these and nothing else:\n{lines}"


def _choice_fields(choices: list[str], form: ChoiceForm) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {"choice": {"type": "string", "enum": choices}},
        "required": ["choice"],
        "additionalProperties": False,
    }
    if form is ChoiceForm.JSON_SCHEMA:
        described = {"name": "choice", "strict": True, "schema": schema}
        return {"response_format": {"type": "json_schema", "json_schema": described}}
    if form is ChoiceForm.JSON_OBJECT:
        return {"response_format": {"type": "json_object", "schema": schema}}
    return {"guided_choice": choices} if form is ChoiceForm.GUIDED_CHOICE else {}
