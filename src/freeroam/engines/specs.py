"""The values that configure an engine: specs of models and of ensembles, and what holds for all of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from freeroam.models.base import MAX_TOKENS


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model version to load.

    Attributes:
        name: What callers call it.
        version: Text; several versions of a name may be loaded.
        model_type: A built-in name, an entry point, or ``package.module:Class``.
        model_path: Given to ``initialize``; empty if none.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``.
        replicas: Processes wanted, at least 1.
        max_batch: Most requests in one call, 1 to 64; the model's own wish may be smaller.
        max_batch_wait_ms: Longest wait for a fuller batch, milliseconds.
        options: Keyword arguments of the model's class; ``threads`` also sets the native thread pools of its process.
        warmup: Whether its ``warm_up`` runs before it is called ready.
        share: At the start, its part of the requests that name no version; None for all versions of a name gives the
            first of them all.
    """

    name: str
    version: str = "1"
    model_type: str = "detector"
    model_path: str = ""
    device: str = "auto"
    replicas: int = 1
    max_batch: int = 8
    max_batch_wait_ms: float = 5.0
    options: Mapping[str, Any] = field(default_factory=dict)
    warmup: bool = True
    share: float | None = None

    @property
    def threads(self) -> int:
        """Native threads a replica: the option ``threads``, else this machine's cores shared among the replicas."""
        return int(self.options.get("threads") or max(1, usable_cores() // max(1, self.replicas)))


@dataclass(frozen=True, slots=True)
class Gate:
    """A model that is asked first, and what it must see for the next one to be asked.

    Attributes:
        model: ``name`` or ``name@version``.
        then: The model that is asked if it has seen that.
        prompt: Its question; None puts the request's own.
        labels: What it must see; none means anything.
        min_count: How many of them.
        threshold: Smallest confidence that counts, 0 to 1.
    """

    model: str
    then: str
    prompt: str | None = None
    labels: tuple[str, ...] = ()
    min_count: int = 1
    threshold: float = 0.0


@dataclass(frozen=True, slots=True)
class EnsembleSpec:
    """Several models under one name: all are asked at once, or one is the gate of another.

    Attributes:
        name: What callers call it.
        members: Models that are all asked; empty if there is a gate.
        gate: The gate; None if there are members.
    """

    name: str
    members: tuple[str, ...] = ()
    gate: Gate | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The models that it needs."""
        return self.members if self.gate is None else (self.gate.model, self.gate.then)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """What holds for every model of an engine.

    Attributes:
        max_queue: Requests that may wait for a model.
        max_priority_wait_s: After this a request is no longer held back by higher priorities.
        load_timeout_s: From the start of a replica to its being ready.
        max_tokens: Most tokens of any answer.
        inference_timeout_s: Silence of a replica that has work; then it is killed and replaced.
        max_deaths: Deaths in a row, none with an answered batch since the one before, that stop a model.
        death_window_s: Deaths further apart than this are no row.
        pause_s: How long a stopped model rests before it is tried again; doubles each time.
        max_pause_s: The longest rest.
        stop_grace_s: How long a replica may take to close its model when the engine stops.
        health_interval_s: Between two looks of a model at itself.
        drain_limit_s: How long a version that is unloaded may go on to finish what it has begun; as long as a model may
            take to load unless said otherwise.
    """

    max_queue: int = 1024
    max_priority_wait_s: float = 5.0
    load_timeout_s: float = 600.0
    max_tokens: int = MAX_TOKENS
    inference_timeout_s: float = 60.0
    max_deaths: int = 3
    death_window_s: float = 300.0
    pause_s: float = 5.0
    max_pause_s: float = 300.0
    stop_grace_s: float = 2.0
    health_interval_s: float = 30.0
    drain_limit_s: float = 600.0


def usable_cores() -> int:
    """Return the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
