"""The finished answer about one clip of one job."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from freeroam.vocabulary.inference import Prediction


class ResultMetadata(BaseModel):
    """Where a result came from.

    Attributes:
        num_frames: Frames in the clip.
        frame_shape: ``[height, width, 3]`` of the pictures that the model was given.
        timestamp: Epoch seconds when the answer was complete.
        frame_ids: The source's own names of the frames, oldest first.
        stream_time: Stream seconds of the last frame.
        source_size: ``[height, width]`` of the video before scaling.
        timings_ms: ``decode``, ``wait``, ``model``, ``total``.
    """

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    num_frames: int
    frame_shape: list[int]
    prompt: str
    model_type: str
    device: str
    timestamp: float
    model: str
    model_version: str
    prompt_version: int
    frame_ids: list[str]
    stream_time: float
    source_size: list[int]
    timings_ms: dict[str, float] = Field(default_factory=dict)


class Result(BaseModel):
    """One result; ``id`` grows by one in a job, from 1.

    Attributes:
        error: Set when the question failed for good; ``predictions`` is then empty.
    """

    id: int
    predictions: list[Prediction]
    confidence: list[float]
    text: str | None = None
    error: dict[str, Any] | None = None
    metadata: ResultMetadata
