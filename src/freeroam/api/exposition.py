"""The route of metrics, for Prometheus and for people."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query
from fastapi.responses import JSONResponse, Response

from freeroam.api.parts import TheParts
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
        return JSONResponse({model.name: model.statistics for model in parts.engine.list_models()})
    await parts.refresh_metrics()
    return Response(parts.metrics.render(), media_type=CONTENT_TYPE)
