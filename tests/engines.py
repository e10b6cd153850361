"""Engines and questions for the tests of them."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from freeroam.clock import SystemClock
from freeroam.engines.embedded import EmbeddedEngine, EngineConfig, ModelSpec
from freeroam.engines.specs import EnsembleSpec
from freeroam.vocabulary.frame import Frame
from freeroam.vocabulary.inference import InferenceRequest

LOAD_LIMIT_S = 60.0
_numbers = itertools.count()


def frame_of(picture: np.ndarray | None = None) -> Frame:
    """Return a frame of a picture ``[h, w, 3]``; a small grey one if none is given."""
    pixels = np.full((36, 64, 3), 128, np.uint8) if picture is None else np.ascontiguousarray(picture, np.uint8)
    height_px, width_px = pixels.shape[:2]
    return Frame(
        pixels=pixels.tobytes(),
        width_px=width_px,
        height_px=height_px,
        frame_id="0",
        stream_time_s=0.0,
        sample_time_s=0.0,
        captured_epoch_s=0.0,
        due_monotonic_s=0.0,
        source_width_px=width_px,
        source_height_px=height_px,
    )


def question(prompt: str = "what", model: str = "", **more: Any) -> InferenceRequest:
    """Return a request with one frame."""
    more.setdefault("frames", (frame_of(),))
    return InferenceRequest(request_id=str(next(_numbers)), model=model, prompt=prompt, **more)


def fake(name: str = "fake", **more: Any) -> ModelSpec:
    """Return the spec of a fake model; what ``ModelSpec`` does not know is an option of the model."""
    known = {key: more.pop(key) for key in list(more) if key in ModelSpec.__dataclass_fields__}
    return ModelSpec(name, model_type="fake", options=more, **known)


@asynccontextmanager
async def running(
    *specs: ModelSpec | EnsembleSpec, is_awaited: bool = True, **config: Any
) -> AsyncIterator[EmbeddedEngine]:
    """Run an engine; wait until its models are ready."""
    config.setdefault("stop_grace_s", 0.2)
    engine = EmbeddedEngine(specs or [fake()], EngineConfig(**config), SystemClock())
    await engine.start()
    try:
        if is_awaited:
            assert await engine.wait_ready(LOAD_LIMIT_S), engine.list_models()
        yield engine
    finally:
        await engine.stop()
