"""A model that keeps what it is shown."""

from __future__ import annotations

from typing import Any

import numpy as np

from freeroam import BaseVLM


class Keeper(BaseVLM):
    """Keeps the first frame that it is shown and tells its sum with each answer."""

    first: np.ndarray | None = None

    async def initialize(self, model_path: str, device: str = "auto") -> None:
        pass

    async def predict(self, frames: list[np.ndarray], prompt: str) -> dict[str, Any]:
        if self.first is None:
            self.first = frames[0]
        return {"predictions": [], "metadata": {"sums": [int(self.first.sum()), *(int(each.sum()) for each in frames)]}}

    def get_model_info(self) -> dict[str, Any]:
        return {"model_type": "keeper", "device": "cpu"}
