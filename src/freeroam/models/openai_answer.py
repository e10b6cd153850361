"""An answer as it comes in chunks: what may be given out of it, how it ended, and which choice it makes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import orjson

from freeroam.models.openai_failures import malformed
from freeroam.vocabulary.errors import ModelError
from freeroam.vocabulary.inference import InferenceParams

_SAID_CHARS = 200
_WRAPPING = " \t\r\n\"'`*_.,;:!?()[]{}"


class Reply:
    """Collects one answer.

    Args:
        params: What the caller tuned.
        where: The address that sends, for errors.

    Attributes:
        is_over: A stop text was found, so the rest is not wanted.
        has_ended: The server said why the answer ended.
    """

    def __init__(self, params: InferenceParams, where: str) -> None:
        self._choices = params.choices
        self._where = where
        self._stop = _StopSearch(params.stop or ())
        self._texts: list[str] = []
        self._usage: dict[str, Any] = {}
        self._finish_reason: str | None = None
        self.is_over = False

    @property
    def has_ended(self) -> bool:
        """Whether the server said why the answer ended, or its end was found."""
        return self.is_over or self._finish_reason is not None

    def take(self, chunk: dict[str, Any]) -> str:
        """Take a chunk (or a whole completion); return the text that may be given out now.

        Raises:
            UpstreamError: It has not the shape of one.
        """
        if isinstance(usage := chunk.get("usage"), dict):
            self._usage = usage
        choices = chunk.get("choices")
        if choices is not None and not isinstance(choices, list):
            raise malformed(self._where, f"'choices' that is {type(choices).__name__} instead of a list")
        if not choices:
            return ""
        first = choices[0]
        said = (first.get("delta") or first.get("message") or {}) if isinstance(first, dict) else None
        content = said.get("content") if isinstance(said, dict) else said
        if not isinstance(said, dict) or not (content is None or isinstance(content, str)):
            raise malformed(self._where, "a choice without a message in it")
        if isinstance(reason := first.get("finish_reason"), str):
            self._finish_reason = reason
        return self._add(self._stop.pass_on(content)) if content else ""

    def end(self) -> tuple[str, dict[str, Any]]:
        """Return the text that was still held back, and the answer as ``BaseVLM.predict`` gives it.

        Raises:
            ModelError: It makes none of the choices (``no_choice``).
        """
        last = "" if self.is_over else self._add(self._stop.rest())
        text = "".join(self._texts)
        answer: dict[str, Any] = {"finish_reason": "length" if self._finish_reason == "length" else "stop"}
        if self._choices:
            last = text = self._choice(text)
        if self.is_over:
            answer["finish_reason"] = "stop"
        elif self._finish_reason not in {None, "stop", "length"}:
            answer["metadata"] = {"upstream_finish_reason": self._finish_reason}
        for name in ("prompt_tokens", "completion_tokens"):
            if isinstance(count := self._usage.get(name), int):
                answer[name] = count
        return last, {**answer, "text": text}

    def _add(self, text: str) -> str:
        """Keep a text; nothing of an answer that is to be a choice is given out before it is one."""
        self._texts.append(text)
        self.is_over = self.is_over or self._stop.is_found
        return "" if self._choices else text

    def _choice(self, text: str) -> str:
        choice = chosen(text, self._choices or ())
        if choice is None:
            raise ModelError(
                f'the model answered "{" ".join(text.split())[:_SAID_CHARS]}", which is none of the choices '
                f"{', '.join(self._choices or ())[:_SAID_CHARS]}; ask for them in the prompt, or use a model that "
                "keeps to a JSON schema",
                code="no_choice",
            )
        return choice


def chosen(text: str, choices: Sequence[str]) -> str | None:
    """Return which of the choices a text makes, None if none or if it cannot be told.

    In this order: the value in a JSON object, the text itself whatever its case and punctuation, the choice that it
    begins with, the only one that stands in it as whole words (a longer one hides a shorter one inside it).
    """
    text = _unpacked(text)
    for fold in (str, _folded):
        for choice in choices:
            if fold(text) == fold(choice):
                return choice
    found = _occurring(text, choices)
    if not found:
        return None
    at, first = min(found)
    if not text[:at].strip(_WRAPPING) or len({choice for _, choice in found}) == 1:
        return first
    return None


def _unpacked(text: str) -> str:
    """Return the text in a JSON object with one value, such as ``{"choice": "yes"}``; other text as it is."""
    bare = re.sub(r"^\s*```(?:json)?|```\s*$", "", text).strip()
    try:
        value = orjson.loads(bare)
    except ValueError:
        return text
    if isinstance(value, dict):
        value = value.get("choice", next(iter(value.values())) if len(value) == 1 else None)
    return value if isinstance(value, str) else text


def _folded(text: str) -> str:
    return text.strip(_WRAPPING).casefold()


def _occurring(text: str, choices: Sequence[str]) -> list[tuple[int, str]]:
    """Return place and choice of each occurrence as whole words, the longest choices first taking their place."""
    taken: list[tuple[int, int]] = []
    found: list[tuple[int, str]] = []
    for choice in sorted((choice for choice in choices if choice.strip()), key=len, reverse=True):
        for match in re.finditer(rf"(?<!\w){re.escape(choice.strip())}(?!\w)", text, re.IGNORECASE):
            if all(match.end() <= begin or match.start() >= end for begin, end in taken):
                taken.append(match.span())
                found.append((match.start(), choice))
    return found


class _StopSearch:
    """Looks for stop texts in a text that comes in pieces, and holds back what may be the beginning of one.

    Args:
        stops: The texts; none of them is ever given out.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.is_found = False

    def pass_on(self, text: str) -> str:
        """Return what may be given out now."""
        if not self._stops or self.is_found:
            return "" if self.is_found else text
        self._held += text
        places = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            self.is_found = True
            return self._held[: min(places)]
        keep = max(self._overlap(stop) for stop in self._stops)
        cut = len(self._held) - keep
        given, self._held = self._held[:cut], self._held[cut:]
        return given

    def rest(self) -> str:
        """Return what was held back in vain."""
        held, self._held = self._held, ""
        return "" if self.is_found else held

    def _overlap(self, stop: str) -> int:
        """Return how many letters at the end of what is held begin ``stop``."""
        longest = min(len(stop) - 1, len(self._held))
        return next((count for count in range(longest, 0, -1) if self._held.endswith(stop[:count])), 0)
