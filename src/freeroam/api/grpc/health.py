"""``grpc.health.v1``: open to all, and true at the moment it is asked."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from freeroam.api.grpc.outlets import Context, Outlet, Outlets
from freeroam.api.grpc.passage import SERVICE
from freeroam.api.grpc.strangers import Reception
from freeroam.api.oip.descriptions import is_answering
from freeroam.api.parts import Parts

HEALTH_SERVICE = "grpc.health.v1.Health"
LOOK_EVERY_S = 0.5
"""How often a watcher looks."""

MAX_WATCHERS = 64


class Health:
    """Answers whether the service, or a model by its name, can take work.

    Args:
        parts: The engine, and whether the service stops.
        outlets: Where answers go out.
    """

    def __init__(self, parts: Parts, outlets: Outlets) -> None:
        self._parts = parts
        self._outlets = outlets
        self._reception = Reception()
        self._watchers = 0

    def table(self) -> Any:
        """Return what gRPC looks methods up in."""
        methods = {
            # Streams of one, because gRPC reads the message of a unary call before it asks whether it is wanted.
            name: grpc.stream_stream_rpc_method_handler(
                behaviour, response_serializer=health_pb2.HealthCheckResponse.SerializeToString
            )
            for name, behaviour in (("Check", self.check), ("Watch", self.watch))
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

    async def check(self, _: Any, context: Context) -> None:
        """Answer once."""
        service = await self._read(context)
        status = self.status_of(service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"there is no service or model {service[:100]!r}")
        async with self._outlets.open(context, f"/{HEALTH_SERVICE}/Check") as outlet:
            await outlet.write_only(health_pb2.HealthCheckResponse(status=status))

    async def watch(self, _: Any, context: Context) -> None:
        """Answer now, and again whenever it changes; ends when the service has begun to stop."""
        service = await self._read(context)
        if self._watchers >= MAX_WATCHERS:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{MAX_WATCHERS} watch already; use Check")
        self._watchers += 1
        try:
            async with self._outlets.open(context, f"/{HEALTH_SERVICE}/Watch") as outlet:
                await self._tell_changes(service, outlet)
        finally:
            self._watchers -= 1

    async def _tell_changes(self, service: str, outlet: Outlet) -> None:
        told = None
        while True:
            is_last = self._parts.lifecycle.is_draining
            status = self.status_of(service)
            if status is None:
                status = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            if status != told:
                told = status
                await outlet.write(health_pb2.HealthCheckResponse(status=status))
            if is_last:
                return
            await self._parts.clock.sleep(LOOK_EVERY_S)

    async def _read(self, context: Context) -> str:
        """Return what is asked for; the call ends if that cannot be read."""
        try:
            question = health_pb2.HealthCheckRequest.FromString(await self._reception.hear(context))
        except DecodeError:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message is no question of health")
        return str(question.service)
