"""A model with chosen latency and answers, for tests and benchmarks; it looks at nothing and is never a default."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freeroam.models.base import BaseVLM, Question, Said, Speaker
from freeroam.models.speaking import TurnTaking
from freeroam.vocabulary.model import ModelWishes


class FakeModel(BaseVLM):
    """Answers every question alike, after a chosen time.

    Words in a prompt make it misbehave: ``crash`` ends the process, ``hang`` sleeps for an hour, ``fail`` raises,
    ``malformed`` returns what no model may return.

    Args:
        latency_ms: Time of one call, whatever its size.
        item_latency_ms: Time on top for each question in it.
        token_latency_ms: Time of each step while text is spoken, whatever the number of answers.
        tokens: Words of a spoken answer; 0 makes it a model that does not stream.
        load_ms: Time to load.
        load_error: Raise this while loading.
        label: What it always sees.
        max_batch: Questions in one call.
        window: Frames a question.
        width_px: Width of the box it wants frames in; None takes them as they are.
        height_px: Height of that box.
        is_busy: Spend the time computing instead of sleeping.
    """

    def __init__(  # noqa: PLR0913 - every one is a knob of its own
        self,
        *,
        latency_ms: float = 2.0,
        item_latency_ms: float = 0.0,
        token_latency_ms: float = 0.0,
        tokens: int = 0,
        load_ms: float = 0.0,
        load_error: str = "",
        label: str = "thing",
        max_batch: int = 64,
        window: int | None = 1,
        width_px: int | None = None,
        height_px: int | None = None,
        is_busy: bool = False,
    ) -> None:
        self._latency_ms = latency_ms
        self._item_latency_ms = item_latency_ms
        self._token_latency_ms = token_latency_ms
        self._tokens = tokens
        self._load_ms = load_ms
        self._load_error = load_error
        self._label = label
        self._is_busy = is_busy
        self._wishes = ModelWishes(
            width_px=width_px, height_px=height_px, window=window, max_batch=max_batch, streams_text=tokens > 0
        )

    async def initialize(self, model_path: str, device: str = "auto") -> None:  # noqa: ARG002 - nothing to load
        """Take the time that was chosen."""
        self._spend(self._load_ms)
        if self._load_error:
            raise RuntimeError(self._load_error)

    def get_wishes(self) -> ModelWishes:
        """Return what was chosen."""
        return self._wishes

    def get_model_info(self) -> dict[str, Any]:
        """Say that it is no real model."""
        return {"model_type": "fake", "device": "cpu", "latency_ms": self._latency_ms}

    async def predict(self, frames: list[NDArray[np.uint8]], prompt: str) -> dict[str, Any]:
        """Answer one question."""
        self._spend(self._latency_ms + self._item_latency_ms)
        return self._answer(len(frames), frames[-1].shape if frames else None, prompt)

    async def predict_batch(self, questions: Sequence[Question]) -> list[dict[str, Any] | Exception]:
        """Answer several questions in one call."""
        self._spend(self._latency_ms + self._item_latency_ms * len(questions))
        answers: list[dict[str, Any] | Exception] = []
        for question in questions:
            shape = question.frames[-1].shape if question.frames else None
            try:
                answers.append(self._answer(len(question.frames), shape, question.prompt))
            except RuntimeError as error:
                answers.append(error)
        return answers

    def speak(self, question: Question) -> Generator[str, None, dict[str, Any]]:
        """Speak the chosen number of words, one a step."""
        answer = self._answer(len(question.frames), None, question.prompt)
        count = min(self._tokens, question.most_tokens())
        for index in range(count):
            yield f"word{index} "
            if f"crash at {index}" in question.prompt:
                os._exit(13)
        return {
            **answer,
            "text": "".join(f"word{index} " for index in range(count)),
            "prompt_tokens": len(question.prompt.split()),
            "finish_reason": "length" if count < self._tokens else "stop",
        }

    def open_speaker(self) -> Speaker:
        """Return what takes the time of a step once, however many answers move on in it."""
        return _Paced(self)

    def spend_step(self) -> None:
        """Take the time of one step of speech."""
        self._spend(self._token_latency_ms)

    def _answer(self, count: int, shape: tuple[int, ...] | None, prompt: str) -> dict[str, Any]:
        words = prompt.split()
        if words[:1] == ["crash"] and words[1:2] != ["at"]:
            os._exit(13)
        if words[:1] == ["hang"]:
            time.sleep(3600.0)
        if words[:1] == ["fail"]:
            raise RuntimeError("asked to fail")
        if words[:1] == ["malformed"]:
            return {"predictions": [{"confidence": 0.5}]}
        height_px, width_px = (shape[0], shape[1]) if shape else (1, 1)
        return {
            "predictions": [{"label": self._label, "confidence": 0.5, "bbox": [0, 0, width_px, height_px]}],
            "text": f"{count} frames, asked: {prompt}",
        }

    def _spend(self, duration_ms: float) -> None:
        if duration_ms <= 0:
            return
        if not self._is_busy:
            time.sleep(duration_ms / 1000.0)
            return
        end_s = time.perf_counter() + duration_ms / 1000.0
        while time.perf_counter() < end_s:
            pass


class _Paced(TurnTaking):
    """Speaks one word of every answer in each step."""

    def __init__(self, model: FakeModel) -> None:
        super().__init__(model)
        self._paced = model

    def step(self) -> list[Said]:
        """Take the time of a step, then the next word of every answer."""
        self._paced.spend_step()
        return super().step()
