"""The route that tells what the server does now."""

from __future__ import annotations

from fastapi import APIRouter, Request

from freeroam.api.parts import TheConfig, TheParts
from freeroam.api.problems import responses
from freeroam.vocabulary.model_calls import ServerStatus

router = APIRouter(tags=["models"])


@router.get("/status", response_model=ServerStatus, responses=responses(), summary="What the server does now")
async def get_status(request: Request, parts: TheParts, config: TheConfig) -> ServerStatus:
    """Return connections, streams, models and their queues."""
    models = parts.engine.list_models()
    return ServerStatus(
        connections=request.scope.get("freeroam.connections", 0),
        max_connections=config.max_connections,
        streams=parts.calls.streams,
        jobs=parts.desk.active_streams,
        calls=len(parts.calls),
        models={f"{model.name}@{model.version}": model.state for model in models},
        queues={f"{model.name}@{model.version}": model.queued for model in models},
        uptime_seconds=round(parts.clock.monotonic_s() - parts.started_monotonic_s, 3),
        draining=parts.lifecycle.is_draining,
    )
