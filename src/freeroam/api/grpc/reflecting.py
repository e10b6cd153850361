"""Reflection, open to all as the description of the HTTP door is, and bounded because it is open to all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection

from freeroam.api.grpc.passage import Context

MAX_STREAMS = 32
STREAM_S = 60.0
"""How long one may stay; tools ask what they want to know and go."""


class Reflection(reflection.aio.ReflectionServicer):  # type: ignore[misc]  # the library has no types
    """Tells tools which methods there are.

    Args:
        service_names: All services.
        pool: Their descriptions.
    """

    def __init__(self, service_names: tuple[str, ...], pool: Any) -> None:
        super().__init__(service_names, pool)
        self._open = 0

    async def ServerReflectionInfo(self, request_iterator: Any, context: Context) -> AsyncIterator[Any]:  # noqa: N802 - gRPC's name
        """Answer each question of a stream, for a while."""
        if self._open >= MAX_STREAMS:
            message = f"{MAX_STREAMS} ask for descriptions already; come back"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
        self._open += 1
        try:
            async with (
                asyncio.timeout(STREAM_S),
                aclosing(super().ServerReflectionInfo(request_iterator, context)) as told,
            ):
                async for answer in told:
                    yield answer
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"a stream ends after {STREAM_S:g} s; open another")
        finally:
            self._open -= 1
