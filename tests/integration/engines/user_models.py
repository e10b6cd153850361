"""Models as users write them, for the tests of the engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from freeroam import BaseVLM


class Awaiting(BaseVLM):
    """A model whose coroutines really wait, on tasks and threads of its own."""

    async def initialize(self, model_path: str, device: str = "auto") -> None:
        await asyncio.sleep(0.01)
        self.lock = asyncio.Lock()

    async def predict(self, frames: list[np.ndarray], prompt: str) -> dict[str, Any]:
        print("asked:", prompt)
        async with self.lock:
            first, second = await asyncio.gather(asyncio.sleep(0.01, "a"), asyncio.to_thread(str.upper, prompt))
        os.write(1, b"noise on standard output\n")
        return {
            "predictions": [{"label": first + second, "confidence": np.float32(0.5)}],
            "confidence": np.float64(0.5),
            "metadata": {"shapes": [frame.shape for frame in frames], "writeable": frames[0].flags.writeable},
        }

    def get_model_info(self) -> dict[str, Any]:
        return {"model_type": "awaiting", "device": "cpu", "size": np.int64(3)}


class Short(Awaiting):
    """Gives fewer answers than it was asked."""

    async def predict_batch(self, questions: Sequence[Any]) -> list[Any]:
        return []


class Bystander(Awaiting):
    """Dies at a chosen word; answers in batches, and remembers the pid that answered."""

    def get_wishes(self) -> Any:
        return super().get_wishes().model_copy(update={"max_batch": 8, "window": 1})

    async def predict_batch(self, questions: Sequence[Any]) -> list[Any]:
        await asyncio.sleep(0.005)
        if any(question.prompt == "poison" for question in questions):
            os._exit(9)
        return [{"predictions": [], "text": question.prompt, "pid": os.getpid()} for question in questions]


class Odd(Awaiting):
    """Answers with fields that are no fault of JSON and yet surprise: what the prompt names, a list for a word."""

    async def predict(self, frames: list[np.ndarray], prompt: str) -> dict[str, Any]:
        return {
            "predictions": [{"label": "cat", "confidence": 0.5, prompt: 15}],
            "metadata": {"finish_reason": ["stop"], "prompt_tokens": "many"},
        }
