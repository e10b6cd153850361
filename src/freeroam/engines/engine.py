"""The contract of an engine: requests in, pieces and outputs out; nobody above can tell where models run."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from freeroam.vocabulary.inference import InferenceRequest, Output, Piece
from freeroam.vocabulary.model import ModelInfo


class Engine(Protocol):
    """Models that answer.

    Life: construct (no work), ``await start()``, use, ``await stop()``.
    """

    async def start(self) -> None:
        """Start loading the models; returns when loading has begun, not when it is done."""
        ...

    async def wait_ready(self, timeout_s: float) -> bool:
        """Wait until every model of the start is ready or failed; return whether all are ready."""
        ...

    async def stop(self) -> None:
        """End every child; requests still waiting fail with ``Draining``."""
        ...

    async def ask(self, request: InferenceRequest) -> Output:
        """Answer one request.

        Cancelling the call takes the request out of its queue, or drops its answer.

        Raises:
            NotFound: No such model or version.
            QueueFull: Refused at once, before any work.
            Draining: The engine is stopping.
            ModelNotReady: The model has failed and is not being started again now.
            DeadlineExceeded: The request's deadline passed.
            ModelError: The model raised, or its process died twice under this request.
        """
        ...

    def stream(self, request: InferenceRequest) -> AsyncIterator[Piece | Output]:
        """Answer one request piece by piece; the last item is the ``Output``. Raises as ``ask`` does."""
        ...

    def describe(self, model: str | None = None) -> ModelInfo:
        """Return the version of ``model`` (``name`` or ``name@version``; None: the default) that would answer now.

        Raises:
            NotFound: No such model or version.
        """
        ...

    def list_models(self) -> list[ModelInfo]:
        """Return every version of every model, default first."""
        ...
