"""The embedded engine: every model in processes of this machine, started and watched by this one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace

from freeroam.batching.policy import MAX_BATCH
from freeroam.clock import Clock
from freeroam.engines.engine import Place
from freeroam.engines.registry import Registry
from freeroam.engines.served_model import ServedModel
from freeroam.engines.specs import EngineConfig, ModelSpec
from freeroam.models.loading import check_model_type
from freeroam.observability.metrics import Metrics
from freeroam.vocabulary.errors import ConfigurationError, Conflict, InvalidInput, ModelError
from freeroam.vocabulary.inference import InferenceRequest, Output, Piece, Priority
from freeroam.vocabulary.model import ModelInfo, ModelState

__all__ = ["EmbeddedEngine", "EngineConfig", "ModelSpec"]

_SETTLED = frozenset({ModelState.READY, ModelState.FAILED, ModelState.UNLOADED})
_LOOK_S = 0.05


class EmbeddedEngine:
    """Models in replica processes on this machine; see ``engines.engine.Engine`` for what its methods promise.

    Args:
        models: What to load at the start; the first is the default model.
        config: What holds for all of them.
        clock: Where time comes from.
        metrics: The service's metrics; None counts for ``describe`` only.

    Raises:
        ConfigurationError: A spec names no model, or a number is out of its range.
    """

    def __init__(
        self, models: Sequence[ModelSpec], config: EngineConfig, clock: Clock, metrics: Metrics | None = None
    ) -> None:
        for spec in models:
            check_spec(spec)
        self._specs = tuple(models)
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self._registry = Registry()
        self._changing: set[str] = set()
        self._ending: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start loading the models; returns when loading has begun, not when it is done."""
        for spec in self._specs:
            model = ServedModel(spec, self._config, self._clock, self._metrics)
            self._registry.add(model)
            model.start()

    async def wait_ready(self, timeout_s: float) -> bool:
        """Wait until every model is ready or failed, at most ``timeout_s``; return whether all are ready."""
        sleeping = asyncio.ensure_future(self._clock.sleep(timeout_s))
        try:
            while not all(model.state in _SETTLED for model in self._registry) and not sleeping.done():
                changes = [asyncio.ensure_future(model.changed.wait()) for model in self._registry]
                for model in self._registry:
                    model.changed.clear()
                try:
                    await asyncio.wait([*changes, sleeping], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for change in changes:
                        change.cancel()
        finally:
            sleeping.cancel()
        return all(model.state is ModelState.READY for model in self._registry)

    async def stop(self) -> None:
        """End every child; requests still waiting or being answered fail with ``Draining``."""
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)
        await asyncio.gather(*(model.stop() for model in self._registry))

    def reserve(self, model: str, priority: Priority) -> Place:
        """Take a place in a model's queue before anything costly is done for a request."""
        return self._registry.resolve(model).reserve(priority)

    async def ask(self, request: InferenceRequest, place: Place | None = None) -> Output:
        """Answer one request; cancelling takes it out of its queue, or drops its answer."""
        model = self._registry.resolve(request.model)
        ticket = model.admit(request, has_place=_released(place))
        try:
            return await ticket.answer
        except asyncio.CancelledError:
            model.abandon(ticket)
            raise

    async def stream(self, request: InferenceRequest, place: Place | None = None) -> AsyncIterator[Piece | Output]:
        """Answer one request piece by piece; a model that does not stream gives its text as one piece.

        A slow reader gets what has come since its last piece as one piece, so nothing grows behind it.
        """
        model = self._registry.resolve(request.model)
        ticket = model.admit(replace(request, wants_pieces=True), has_place=_released(place))
        try:
            while not ticket.is_over or ticket.has_piece:
                await ticket.news()
                piece = ticket.take_piece()
                if piece is not None:
                    yield piece
            output = await ticket.answer
            if not ticket.given and output.text:
                yield Piece(output.text, 0)
            yield output
        finally:
            if not ticket.is_over:
                ticket.answer.cancel()
                model.abandon(ticket)

    def describe(self, model: str | None = None) -> ModelInfo:
        """Return the version of ``model`` that would answer now; ``NotFound`` if there is none."""
        return self._registry.resolve(model).describe()

    def list_models(self) -> list[ModelInfo]:
        """Return every version of every model, default first."""
        return [model.describe() for model in self._registry]

    async def load_model(
        self, spec: ModelSpec, *, keep_previous: bool = False, unload_first: bool = False
    ) -> ModelInfo:
        """Load one version beside what is there, and return it once it is ready; see ``Engine.load_model``."""
        check_spec(spec)
        if spec.name in self._changing:
            raise Conflict(f"model {spec.name} is being changed now")
        self._changing.add(spec.name)
        try:
            before = self._registry.versions(spec.name)
            model = ServedModel(spec, self._config, self._clock, self._metrics)
            self._registry.add(model)
            try:
                if unload_first:
                    await asyncio.gather(*(self._end(old) for old in before))
                model.start()
                while model.state not in _SETTLED:
                    model.changed.clear()
                    await model.changed.wait()
                if model.state is not ModelState.READY:
                    raise ModelError(
                        f"model {spec.name}@{spec.version} did not load: {model.describe().error}", code="load_failed"
                    )
            except BaseException:
                self._registry.remove(model)
                await model.stop()
                raise
            if not keep_previous:
                self._registry.activate(spec.name, spec.version)
                self._ending |= {asyncio.create_task(self._end(old)) for old in before if not unload_first}
            return model.describe()
        finally:
            self._changing.discard(spec.name)

    async def unload_model(self, name: str, version: str) -> None:
        """Let a version finish what it has begun, end it and forget it; see ``Engine.unload_model``."""
        model = self._registry.resolve(f"{name}@{version}")
        if name in self._changing:
            raise Conflict(f"model {name} is being changed now")
        if len(self._registry.versions(name)) == 1 and self._registry.resolve(None) is model:
            raise Conflict(f"{name}@{version} is the only version of the default model")
        await self._end(model)

    def set_traffic(self, name: str, shares: Mapping[str, float]) -> None:
        """Give the requests that name no version to the one with the greatest share."""
        if not all(0.0 <= share < float("inf") for share in shares.values()) or not any(shares.values()):
            raise InvalidInput(f"shares are {dict(shares)}: expected numbers from 0, one of them above 0")
        for version in shares:
            self._registry.resolve(f"{name}@{version}")
        self._registry.activate(name, max(shares, key=lambda version: shares[version]))

    async def check_model(self, reference: str) -> ModelInfo:
        """Return what the model is."""
        return self.describe(reference)

    async def _end(self, model: ServedModel) -> None:
        self._registry.remove(model)
        while not model.is_idle:
            await self._clock.sleep(_LOOK_S)
        await model.stop()

    def change_batching(
        self, model: str, *, max_batch: int | None = None, max_batch_wait_ms: float | None = None
    ) -> None:
        """Change how batches of a model are made, at once.

        Raises:
            NotFound: No such model or version.
            ConfigurationError: ``max_batch`` is not 1 to 64, or ``max_batch_wait_ms`` not 0 to 100.
        """
        served = self._registry.resolve(model)
        check_spec(
            replace(
                served.spec,
                max_batch=served.spec.max_batch if max_batch is None else max_batch,
                max_batch_wait_ms=served.spec.max_batch_wait_ms if max_batch_wait_ms is None else max_batch_wait_ms,
            )
        )
        served.change_rules(max_batch, max_batch_wait_ms)

    def replica_pids(self, model: str | None = None) -> list[int]:
        """Return the process ids of a model's replicas, for operators and tests."""
        return self._registry.resolve(model).pids


def _released(place: Place | None) -> bool:
    """Give a reserved place back to the queue that its request enters now; return whether there was one."""
    if place is not None:
        place.release()
    return place is not None


def check_spec(spec: ModelSpec) -> None:
    """Refuse a spec that cannot be loaded, before anything is started.

    Raises:
        ConfigurationError: The message names the setting, its value and what is allowed.
    """
    check_model_type(spec.model_type)
    if not spec.name or "@" in spec.name or "@" in spec.version:
        raise ConfigurationError(f"a model's name is {spec.name!r}: it must not be empty or hold an @")
    if not 1 <= spec.max_batch <= MAX_BATCH:
        raise ConfigurationError(f"MAX_BATCH_SIZE={spec.max_batch}: expected 1 to {MAX_BATCH}")
    if not 0.0 <= spec.max_batch_wait_ms <= 100.0:
        raise ConfigurationError(f"MAX_BATCH_WAIT_MS={spec.max_batch_wait_ms}: expected 0 to 100")
    if spec.replicas < 1:
        raise ConfigurationError(f"NUM_REPLICAS={spec.replicas}: expected at least 1")
