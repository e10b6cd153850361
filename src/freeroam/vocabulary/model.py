"""A model as the outside sees it: name, version, state and what it would like to be given."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class ModelState(StrEnum):
    """Where a model version is in its life."""

    LOADING = "loading"
    WARMING = "warming"
    READY = "ready"
    DEGRADED = "degraded"
    DRAINING = "draining"
    FAILED = "failed"
    UNLOADED = "unloaded"


class ModelWishes(BaseModel):
    """What a model would like to be given; a plain ``BaseVLM`` says none of it.

    Attributes:
        width_px: Box that frames should fit in, aspect kept; None takes the source's own size.
        height_px: Height of that box.
        window: Frames a question; None means ``MAX_BATCH_SIZE``.
        max_batch: Requests it can answer in one call; 1 for a plain ``BaseVLM``.
        streams_text: Whether it can give its text piece by piece.
    """

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    width_px: int | None = None
    height_px: int | None = None
    window: int | None = None
    max_batch: int = 1
    streams_text: bool = False


class ModelInfo(BaseModel):
    """One version of one model.

    Attributes:
        info: What the model's own ``get_model_info`` returned.
        replicas: Replica processes that are ready, and how many are wanted.
        queued: Requests that wait for it.
        running: Requests that it is answering.
        queued_by: ``queued`` by the name of their priority.
        running_by: ``running`` by the name of their priority.
        statistics: Counters and latency percentiles, milliseconds.
        error: Why it is degraded or failed.
        share: Its part of the requests that name no version, 0 to 1.
    """

    model_config = ConfigDict(protected_namespaces=())

    name: str
    version: str
    model_type: str
    state: ModelState
    device: str
    wishes: ModelWishes = Field(default_factory=ModelWishes)
    info: dict[str, Any] = Field(default_factory=dict)
    replicas_ready: int = 0
    replicas_wanted: int = 1
    queued: int = 0
    running: int = 0
    queued_by: dict[str, int] = Field(default_factory=dict)
    running_by: dict[str, int] = Field(default_factory=dict)
    statistics: dict[str, Any] = Field(default_factory=dict)
    error: str | None = None
    share: float = 1.0
