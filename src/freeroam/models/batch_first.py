"""Models whose own way is the batch: one question is a batch of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freeroam.models.base import BaseVLM, Question
from freeroam.vocabulary.inference import InferenceParams


class BatchFirst(BaseVLM):
    """A model that answers one question as it answers many."""

    async def predict(self, frames: list[NDArray[np.uint8]], prompt: str) -> dict[str, Any]:
        """Answer one question."""
        (answer,) = await self.predict_batch([Question(tuple(frames), prompt, InferenceParams())])
        if isinstance(answer, Exception):
            raise answer
        return answer


class SpeakerFirst(BatchFirst):
    """A model that has a speaker; it answers a batch by letting all of it speak to the end."""

    async def predict_batch(self, questions: Sequence[Question]) -> list[dict[str, Any] | Exception]:
        """Answer several questions that all join at once, each with its ``text``."""
        speaker = self.open_speaker()
        texts: dict[int, list[str]] = {}
        answers: dict[int, dict[str, Any] | Exception] = {}
        for key, question in enumerate(questions):
            try:
                speaker.join(key, question)
                texts[key] = []
            except Exception as error:  # a question that cannot be put to the model costs itself only
                answers[key] = error
        while len(answers) < len(questions):
            for said in speaker.step():
                texts[said.key].extend(said.texts)
                if said.answer is not None:
                    answers[said.key] = said.answer
        for key, answer in answers.items():
            if isinstance(answer, dict):
                answer.setdefault("text", "".join(texts[key]))
        return [answers[key] for key in range(len(questions))]
