"""The finished answer about one clip of one job."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from freeroam.vocabulary.inference import Prediction
from freeroam.vocabulary.job import JobStatus


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


class ResultsPage(BaseModel):
    """Some results of a job, oldest first.

    Attributes:
        total_results: How many are stored in all.
    """

    job_id: str
    status: JobStatus
    results: list[Result]
    total_results: int


class EventKind(StrEnum):
    """What a listener may be told; the names are those of the server-sent events."""

    RESULT = "result"
    TOKEN = "token"  # noqa: S105 - a piece of text, not a secret
    STATUS = "status"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing told to the listeners of a job.

    Attributes:
        kind: A committed result, a piece of one still being spoken, a change of the job, or its end.
        job_id: The job.
        id: The result's id; None for every other kind.
        data: The event's body as compact JSON: a ``Result``; ``{job_id, text, index, count, frame_ids}``;
            ``{job_id, status, error, error_code, closing}``; ``{job_id, status, error, error_code, total_results}``.
    """

    kind: EventKind
    job_id: str
    id: int | None
    data: bytes
