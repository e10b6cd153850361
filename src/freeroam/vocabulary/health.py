"""How the service is: well, ready, alive."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Health(BaseModel):
    """How the service is."""

    model_config = ConfigDict(protected_namespaces=())

    status: Literal["healthy", "degraded", "draining"]
    uptime_seconds: float
    uptime_formatted: str = Field(examples=["1h 0m 0s"])
    timestamp: str = Field(examples=["2026-01-19T12:00:00Z"])
    model_loaded: bool
    active_connections: int
    active_streams: int
    version: str


class Readiness(BaseModel):
    """Whether the service can take work, and what is missing."""

    ready: bool
    status: Literal["ready", "not_ready"]
    checks: dict[str, bool]
    timestamp: str


class Liveness(BaseModel):
    """The process runs."""

    alive: Literal[True] = True
    timestamp: str
