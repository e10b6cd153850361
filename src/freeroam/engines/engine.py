"""The contract of an engine: requests in, pieces and outputs out; nobody above can tell where models run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from freeroam.engines.specs import ModelSpec
from freeroam.vocabulary.inference import InferenceRequest, Output, Piece, Priority
from freeroam.vocabulary.model import ModelInfo, ModelWishes


class Place(Protocol):
    """A place in a model's queue, held while a request is made ready (its pictures decoded), and counted meanwhile."""

    def release(self) -> None:
        """Give it back; does nothing the second time, or once a request has taken it."""
        ...


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

    @property
    def has_started(self) -> bool:
        """Whether every model of the start has been ready, or has failed."""
        ...

    async def stop(self) -> None:
        """End every child; requests still waiting fail with ``Draining``."""
        ...

    def reserve(self, model: str, priority: Priority, *, waits_for_load: bool = False) -> Place:
        """Take a place in a model's queue before anything costly is done for a request.

        With an ensemble it is one in each queue that the request may need, also behind a gate.

        Args:
            model: ``name`` or ``name@version``; empty is the default model.
            priority: Of the request.
            waits_for_load: As the request will say.

        Raises:
            NotFound: No such model or version.
            QueueFull: As many wait as may, of this priority.
            Draining: The engine is stopping.
            ModelNotReady: The model loads for the first time and the request does not wait for that, or it has failed
                and is not being started again now.
        """
        ...

    async def ask(self, request: InferenceRequest, place: Place | None = None) -> Output:
        """Answer one request, in the place that was reserved for it if there is one.

        Cancelling the call takes the request out of its queue, or drops its answer.

        Raises:
            NotFound: No such model or version.
            QueueFull: Refused at once, before any work.
            Draining: The engine is stopping.
            ModelNotReady: The model loads for the first time and the request does not wait for that
                (``waits_for_load``), or it has failed and is not being started again now.
            DeadlineExceeded: The request's deadline passed.
            ModelError: The model raised, or its process died twice under this request.
        """
        ...

    def stream(self, request: InferenceRequest, place: Place | None = None) -> AsyncIterator[Piece | Output]:
        """Answer one request piece by piece; the last item is the ``Output``. Raises as ``ask`` does."""
        ...

    def describe(self, model: str | None = None) -> ModelInfo:
        """Return the version of ``model`` (``name`` or ``name@version``; None: the default) that would answer now.

        Raises:
            NotFound: No such model or version.
        """
        ...

    def wishes_of(self, model: str | None = None) -> ModelWishes:
        """Return what the version that ``describe`` names would like to be given; cheap enough for every question.

        Raises:
            NotFound: No such model or version.
        """
        ...

    def awaits_successor(self, model: str | None = None) -> bool:
        """Tell whether the version that answered has made room (``unload_first``) for one that is not there yet.

        Questions wait for it meanwhile. Cheap enough for every question.

        Raises:
            NotFound: No such model or version.
        """
        ...

    def list_models(self) -> list[ModelInfo]:
        """Return every version of every model, default first."""
        ...

    async def load_model(
        self, spec: ModelSpec, *, keep_previous: bool = False, unload_first: bool = False
    ) -> ModelInfo:
        """Load one version beside what is there, warm it, check it, and return it once it is ready.

        For a name that is loaded already this is a hot swap: between two batches all traffic goes to the new version,
        what waits goes with it, the old one finishes what it has begun, ends, and its memory is free. One swap a name
        at a time. A load that fails leaves everything as it was.

        Args:
            spec: What to load.
            keep_previous: Leave the older versions loaded and give the new one no share of the traffic yet.
            unload_first: Where both do not fit: end the old version first, with the questions waiting; should the load
                fail, the old version is loaded again.

        Raises:
            Conflict: The name has this version already, is being changed now, or belongs to an ensemble; or an
                ensemble names the version that would go.
            ConfigurationError: The spec cannot be loaded.
            ModelError: The load failed (``load_failed``), or the check of the loaded model did.
            Draining: The engine is stopping.
        """
        ...

    async def unload_model(self, name: str, version: str) -> None:
        """Let a version finish what it has begun, end it and forget it; its share goes to the versions left.

        Raises:
            NotFound: No such model or version.
            Conflict: It is the only version of the default model, an ensemble needs it, or the name is being changed
                now.
        """
        ...

    def set_traffic(self, name: str, shares: Mapping[str, float]) -> None:
        """Split the requests that name no version; shares are made to sum to 1, versions left out get none.

        Raises:
            NotFound: No such model or version.
            InvalidInput: A share is negative or not finite, or none is above zero.
            Conflict: The name is being changed now.
        """
        ...

    async def check_model(self, reference: str) -> ModelInfo:
        """Let the model look at itself now, and return what it is after that.

        Raises:
            NotFound: No such model or version.
        """
        ...

    def change_batching(
        self, model: str, *, max_batch: int | None = None, max_batch_wait_ms: float | None = None
    ) -> None:
        """Change how batches of a model are made, at once.

        Raises:
            NotFound: No such model or version.
            ConfigurationError: ``max_batch`` is not 1 to 64, or ``max_batch_wait_ms`` not 0 to 100.
        """
        ...
