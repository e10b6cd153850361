"""The route of metrics, for Prometheus and for people."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query
from fastapi.responses import JSONResponse, Response

from freeroam.api.models import named_models
from freeroam.api.parts import Parts, TheParts
from freeroam.api.problems import responses
from freeroam.observability.metrics import CONTENT_TYPE

router = APIRouter(tags=["metrics"])


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        **responses(),
        200: {"description": "Metrics.", "content": {"text/plain": {}, "application/json": {}}},
    },
    summary="Metrics",
)
async def get_metrics(
    parts: TheParts,
    metrics_format: Annotated[Literal["prometheus", "json"] | None, Query(alias="format")] = None,
    accept: Annotated[str, Header()] = "",
) -> Response:
    """Return Prometheus text, or with ``format=json`` or ``Accept: application/json`` each model's statistics."""
    if metrics_format == "json" or (metrics_format is None and "application/json" in accept):
        return JSONResponse(statistics_by_model(parts))
    await parts.refresh_metrics()
    return Response(parts.metrics.render(), media_type=CONTENT_TYPE)


def statistics_by_model(parts: Parts) -> dict[str, dict[str, Any]]:
    """Return ``{model: {p50, p95, p99, throughput, error_rate, ...}}``, milliseconds and answers a second.

    Of a model with several versions they are those of the version that answers most; ``versions`` has all of them.
    """
    return {
        name: {
            **model.versions[model.version].statistics,
            "version": model.version,
            "queued": model.versions[model.version].queued,
            "versions": {version: info.statistics for version, info in model.versions.items()},
        }
        for name, model in named_models(parts).items()
    }
