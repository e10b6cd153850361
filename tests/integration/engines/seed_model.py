# ruff: noqa: I001, UP006, UP035 - the seeds' own example; only the package of BaseVLM is another
from freeroam import BaseVLM
import numpy as np
from typing import List


class MyVLM(BaseVLM):
    async def initialize(self, model_path: str, device: str = "auto"):
        # Load your model here
        pass

    async def predict(self, frames: List[np.ndarray], prompt: str):
        # Run inference here
        return {"predictions": [...][:0]}

    def get_model_info(self):
        return {"model_type": "my_vlm"}
