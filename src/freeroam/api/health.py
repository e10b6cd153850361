"""Routes for those who watch over the service: is it healthy, ready, alive."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

import freeroam
from freeroam.api.documents import in_words, iso_time
from freeroam.api.parts import Parts, TheParts
from freeroam.vocabulary.errors import FreeroamError, StoreError
from freeroam.vocabulary.health import Health, Liveness, Readiness
from freeroam.vocabulary.model import ModelState

router = APIRouter(prefix="/health", tags=["health"])


@router.get("", response_model=Health, summary="How the service is")
async def get_health(request: Request, parts: TheParts) -> Health:
    """Always 200 while the process runs; ``status`` says how well."""
    is_loaded = _is_model_loaded(parts)
    uptime_s = parts.clock.monotonic_s() - parts.started_monotonic_s
    is_well = is_loaded and parts.store.health.is_writable
    return Health(
        status="draining" if parts.lifecycle.is_draining else "healthy" if is_well else "degraded",
        uptime_seconds=round(uptime_s, 3),
        uptime_formatted=in_words(uptime_s),
        timestamp=iso_time(parts.clock.epoch_s()),
        model_loaded=is_loaded,
        active_connections=request.scope.get("freeroam.connections", 0),
        active_streams=parts.desk.active_streams + parts.calls.streams,
        version=freeroam.__version__,
    )


@router.get(
    "/ready",
    response_model=Readiness,
    responses={503: {"model": Readiness, "description": "Not ready."}},
    summary="Whether it can take work",
)
async def get_readiness(parts: TheParts) -> JSONResponse:
    """200 when models are loaded, the store takes writes and the service is not stopping; else 503.

    Of the models of the start the default one must answer; each other one must be ready, or have failed.
    """
    checks = {
        "model_loaded": _is_model_loaded(parts),
        "models_started": parts.engine.has_started,
        "store": await _does_store_answer(parts),
        "accepting": not parts.lifecycle.is_draining,
    }
    is_ready = all(checks.values())
    document = Readiness(
        ready=is_ready,
        status="ready" if is_ready else "not_ready",
        checks=checks,
        timestamp=iso_time(parts.clock.epoch_s()),
    )
    return JSONResponse(document.model_dump(), status_code=200 if is_ready else 503)


@router.get("/live", response_model=Liveness, summary="Whether the process runs")
async def get_liveness(parts: TheParts) -> Liveness:
    """200 as long as the event loop turns."""
    return Liveness(timestamp=iso_time(parts.clock.epoch_s()))


def _is_model_loaded(parts: Parts) -> bool:
    try:
        return parts.engine.describe().state in {ModelState.READY, ModelState.DEGRADED}
    except FreeroamError:
        return False


async def _does_store_answer(parts: Parts) -> bool:
    try:
        await parts.store.check()
    except StoreError:
        return False
    return True
