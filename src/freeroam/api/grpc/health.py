"""``grpc.health.v1``: open to all, and true at the moment it is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2

from freeroam.api.grpc.passage import SERVICE, Context
from freeroam.api.oip.descriptions import is_answering
from freeroam.api.parts import Parts

HEALTH_SERVICE = "grpc.health.v1.Health"
LOOK_EVERY_S = 0.5
"""How often a watcher looks."""

MAX_WATCHERS = 64
MAX_CHECKS = 64
CHECK_S = 5.0
"""How long the question of a check may take to come."""


class Health:
    """Answers whether the service, or a model by its name, can take work.

    Args:
        parts: The engine, and whether the service stops.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._watchers = 0
        self._checks = 0

    def table(self) -> Any:
        """Return what gRPC looks methods up in."""
        methods = {
            # As a stream of one, because gRPC reads the message of a unary method before it asks whether it is wanted.
            "Check": grpc.stream_stream_rpc_method_handler(
                self.check,
                request_deserializer=health_pb2.HealthCheckRequest.FromString,
                response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
            ),
            "Watch": grpc.unary_stream_rpc_method_handler(
                self.watch,
                request_deserializer=health_pb2.HealthCheckRequest.FromString,
                response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
            ),
        }
        return grpc.method_handlers_generic_handler(HEALTH_SERVICE, methods)

    def status_of(self, service: str) -> Any:
        """Return the status of the service (an empty name, or its own), or of a model; None if there is none such."""
        if service in {"", SERVICE}:
            is_well = not self._parts.lifecycle.is_draining and is_answering(self._parts.engine, None)
        elif any(service == info.name for info in self._parts.engine.list_models()):
            is_well = not self._parts.lifecycle.is_draining and is_answering(self._parts.engine, service)
        else:
            return None
        statuses = health_pb2.HealthCheckResponse
        return statuses.SERVING if is_well else statuses.NOT_SERVING

    async def check(self, requests: AsyncIterator[Any], context: Context) -> None:
        """Answer once."""
        request = await self._read(requests, context)
        status = self.status_of(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service or model {request.service[:100]!r}")
        await context.write(health_pb2.HealthCheckResponse(status=status))

    async def _read(self, requests: AsyncIterator[Any], context: Context) -> Any:
        """Return what is asked; strangers may ask, so few of them at once, and not for long."""
        if self._checks >= MAX_CHECKS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_CHECKS} are asking already")
        self._checks += 1
        try:
            async with asyncio.timeout(CHECK_S):
                request = await anext(aiter(requests), None)
        except TimeoutError:
            request = None
        finally:
            self._checks -= 1
        if request is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"no complete question came within {CHECK_S:g} s")
        return request

    async def watch(self, request: Any, context: Context) -> AsyncIterator[Any]:
        """Answer now, and again whenever it changes; ends when the service has begun to stop."""
        if self._watchers >= MAX_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHERS} watch already; use Check")
        self._watchers += 1
        try:
            told = None
            while True:
                is_last = self._parts.lifecycle.is_draining
                status = self.status_of(request.service)
                if status is None:
                    status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
                if status != told:
                    told = status
                    yield health_pb2.HealthCheckResponse(status=status)
                if is_last:
                    return
                await self._parts.clock.sleep(LOOK_EVERY_S)
        finally:
            self._watchers -= 1
