"""Reflection, open to all as the description of the HTTP door is, and bounded because it is open to all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection, reflection_pb2

from freeroam.api.grpc.outlets import Context, Outlet, Outlets
from freeroam.api.grpc.strangers import hear_one

MAX_STREAMS = 4
"""Each may fill ``MAX_BODY_BYTES`` of memory with a question before it is found too long."""

STREAM_S = 20.0
"""How long one may stay; tools ask what they want to know and go, or open another."""

METHOD = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # the library has no types
    """Tells tools which methods there are.

    Args:
        service_names: All services.
        pool: Their descriptions.
        outlets: Where answers go out.
    """

    def __init__(self, service_names: tuple[str, ...], pool: Any, outlets: Outlets) -> None:
        super().__init__(service_names, pool)
        self._outlets = outlets
        self._open = 0

    def table(self) -> Any:
        """Return what gRPC looks methods up in."""
        methods = {
            "ServerReflectionInfo": grpc.stream_stream_rpc_method_handler(
                self.tell, response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString
            )
        }
        return grpc.method_handlers_generic_handler(reflection.SERVICE_NAME, methods)

    async def tell(self, _: Any, context: Context) -> None:
        """Answer each question of a stream, for a while."""
        if self._open >= MAX_STREAMS:
            message = f"{MAX_STREAMS} ask for descriptions already; come back"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
        self._open += 1
        try:
            async with self._outlets.open(context, METHOD) as outlet:
                await self._tell_all(context, outlet)
        finally:
            self._open -= 1

    async def _tell_all(self, context: Context, outlet: Outlet) -> None:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + STREAM_S
        while (data := await hear_one(context, end_s - loop.time())) is not None:
            try:
                question = reflection_pb2.ServerReflectionRequest.FromString(data)
            except DecodeError:
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the message is no question of reflection")
            async for answer in self.ServerReflectionInfo(_only(question), context):
                await outlet.write(answer)


async def _only(question: Any) -> AsyncIterator[Any]:
    yield question
