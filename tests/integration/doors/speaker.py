"""A model that speaks as it is told to by the first word of the question; run as MODEL_TYPE=...speaker:Speaker."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from typing import Any

import numpy as np

from freeroam import BaseVLM
from freeroam.models.base import Question
from freeroam.vocabulary.model import ModelWishes

STEP_S = 0.01


class Speaker(BaseVLM):
    """Says so many words (``count 5``), what it was asked (``echo``), its first choice (``choose``), or breaks."""

    async def initialize(self, model_path: str, device: str = "auto") -> None:
        """Load nothing."""

    def get_wishes(self) -> ModelWishes:
        return ModelWishes(streams_text=True, max_batch=32)

    def get_model_info(self) -> dict[str, Any]:
        return {"model_type": "speaker", "device": "cpu"}

    async def predict(self, frames: list[np.ndarray], prompt: str) -> dict[str, Any]:
        return {"predictions": [], "text": prompt}

    def speak(self, question: Question) -> Generator[str, None, dict[str, Any]]:
        deed, _, rest = question.prompt.partition(" ")
        if deed == "echo":
            params = question.params.model_dump(exclude_none=True)
            shapes = [list(frame.shape) for frame in question.frames]
            yield json.dumps({"prompt": question.prompt, "params": params, "shapes": shapes})
            return {}
        if deed == "choose":
            yield (question.params.choices or ["nothing"])[0]
            return {}
        if deed == "flood":
            for _ in range(int(rest)):
                yield "x" * 20_000
            return {}
        wanted = int(rest or 5)
        count = min(wanted, question.params.max_tokens or wanted)
        for index in range(count):
            time.sleep(STEP_S)
            yield f"word{index} "
            if deed == "break" and index == 2:
                raise RuntimeError("it broke on purpose")
        return {"finish_reason": "length" if count < wanted else "stop", "prompt_tokens": 7}
