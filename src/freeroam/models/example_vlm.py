"""A model to copy from: the smallest one that works, with a comment at each decision that you will make."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from freeroam.models.base import BaseVLM
from freeroam.vocabulary.model import ModelWishes


class ExampleVLM(BaseVLM):
    """Says how bright a scene is. Start it with ``MODEL_TYPE=example_vlm``, your copy with ``my_module:MyVLM``."""

    async def initialize(self, model_path: str, device: str = "auto") -> None:
        """Load weights; runs once in the model's own process, which may take its time and may block.

        ``model_path`` is what ``MODEL_PATH`` says, ``device`` what ``DEVICE`` says. An exception here is shown to the
        operator as it is.
        """
        self.weights = model_path or "none needed"
        self.device = "cpu" if device == "auto" else device
        self.dark_below = 0.25

    async def predict(self, frames: list[NDArray[np.uint8]], prompt: str) -> dict[str, Any]:
        """Answer one question about the frames (oldest first, RGB, ``[h, w, 3]``); the list may be empty.

        Return ``predictions``; ``text``, ``confidence`` and ``metadata`` are optional. A box is in pixels of the frame
        that you were given. numpy numbers are fine. An exception fails this question and no other.
        """
        if not frames:
            return {"predictions": [], "text": f"I was shown nothing. You asked: {prompt}"}
        brightness = float(np.mean(frames[-1])) / 255.0
        height, width = frames[-1].shape[:2]
        label = "dark scene" if brightness < self.dark_below else "bright scene"
        return {
            "predictions": [{"label": label, "confidence": 1.0, "bbox": [0, 0, width, height]}],
            "text": f"A {label}, brightness {brightness:.0%}.",
            "metadata": {"brightness": brightness},
        }

    def get_model_info(self) -> dict[str, Any]:
        """Describe the model; ``model_type`` is required and appears in every result."""
        return {"model_type": "example_vlm", "device": self.device, "weights": self.weights}

    def get_wishes(self) -> ModelWishes:
        """Say what you would like to be given; leave this method out and you get whole frames, several a question.

        With ``max_batch`` above 1, override ``predict_batch(questions)`` too and answer them in one call.
        """
        return ModelWishes(width_px=448, height_px=448, window=1)
