"""A model of one's own: three methods, no file of Freeroam edited.

Run it from this folder:

    PYTHONPATH=. MODEL_TYPE=own_model:Brightness freeroam run demo: --prompt "Is it bright?" --frames 5
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from freeroam import BaseVLM


class Brightness(BaseVLM):
    """Says how bright the pictures of a window are."""

    async def initialize(self, model_path: str, device: str = "auto") -> None:
        """Load weights here; this one has none."""
        self.device = device

    async def predict(self, frames: list[NDArray[np.uint8]], prompt: str) -> dict[str, Any]:
        """Answer one question about uint8 arrays ``[h, w, 3]``, RGB, oldest first."""
        mean = float(np.mean([frame.mean() for frame in frames])) / 255.0
        word = "bright" if mean > 0.5 else "dark"
        return {"text": f"{prompt} It is {word} ({mean:.0%}).", "predictions": [{"label": word, "confidence": mean}]}

    def get_model_info(self) -> dict[str, Any]:
        """Say what this is; every entry is shown in the API."""
        return {"model_type": "brightness", "device": self.device}
