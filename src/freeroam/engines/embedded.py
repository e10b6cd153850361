"""The embedded engine: every model in processes of this machine, started and watched by this one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace

from freeroam.batching.policy import MAX_BATCH
from freeroam.clock import Clock
from freeroam.engines.engine import Place
from freeroam.engines.ensembles import Ensemble, check_ensembles
from freeroam.engines.places import KeptPlace, Places
from freeroam.engines.registry import Answering, Registry
from freeroam.engines.served_model import ServedModel
from freeroam.engines.specs import EngineConfig, EnsembleSpec, ModelSpec
from freeroam.engines.succession import Succession
from freeroam.models.loading import check_model_type
from freeroam.observability.metrics import Metrics
from freeroam.vocabulary.errors import ConfigurationError, NotFound
from freeroam.vocabulary.inference import InferenceRequest, Output, Piece, Priority
from freeroam.vocabulary.model import ModelInfo, ModelState, ModelWishes

__all__ = ["EmbeddedEngine", "EngineConfig", "ModelSpec"]

_SETTLED = frozenset({ModelState.READY, ModelState.FAILED, ModelState.UNLOADED})


class EmbeddedEngine:
    """Models in replica processes on this machine; see ``engines.engine.Engine`` for what its methods promise.

    Args:
        models: What to load at the start, and ensembles of it; the first model is the default.
        config: What holds for all of them.
        clock: Where time comes from.
        metrics: The service's metrics; None counts for ``describe`` only.

    Raises:
        ConfigurationError: A spec names no model, a number is out of its range, or an ensemble can never answer.
    """

    def __init__(
        self,
        models: Sequence[ModelSpec | EnsembleSpec],
        config: EngineConfig,
        clock: Clock,
        metrics: Metrics | None = None,
    ) -> None:
        self._specs = tuple(models)
        for spec in models:
            if isinstance(spec, ModelSpec):
                check_spec(spec)
        _refuse_doubles(spec for spec in models if isinstance(spec, ModelSpec))
        check_ensembles(
            [spec for spec in models if isinstance(spec, EnsembleSpec)],
            [(spec.name, spec.version) for spec in models if isinstance(spec, ModelSpec)],
        )
        self._config = config
        self._clock = clock
        self._metrics = metrics
        self._registry = Registry()
        self._starting: list[ServedModel] = []
        self._succession = Succession(self._registry, self._make, clock, config.drain_limit_s)

    async def start(self) -> None:
        """Start loading the models; returns when loading has begun, not when it is done."""
        shares: dict[str, dict[str, float]] = {}
        for spec in self._specs:
            if isinstance(spec, EnsembleSpec):
                self._registry.add(Ensemble(spec, self), is_asked=True)
                continue
            self._registry.add(self._make(spec), is_asked=True)
            if spec.share is not None:
                shares.setdefault(spec.name, {})[spec.version] = spec.share
        for name, given in shares.items():
            self._registry.share(name, given)
        for model in self._registry.models:
            model.start()
        self._starting = self._registry.models

    async def wait_ready(self, timeout_s: float) -> bool:
        """Wait until every model of the start is ready or failed, at most ``timeout_s``; return whether all are."""
        started = self._registry.models
        sleeping = asyncio.ensure_future(self._clock.sleep(timeout_s))
        try:
            while not all(model.state in _SETTLED for model in started) and not sleeping.done():
                changes = [asyncio.ensure_future(model.changed.wait()) for model in started]
                for model in started:
                    model.changed.clear()
                try:
                    await asyncio.wait([*changes, sleeping], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for change in changes:
                        change.cancel()
        finally:
            sleeping.cancel()
        return all(model.state is ModelState.READY for model in started)

    @property
    def has_started(self) -> bool:
        """Whether every model of the start has been ready, or has failed; one that answers with fewer replicas has."""
        self._starting = [model for model in self._starting if model.state not in {*_SETTLED, ModelState.DEGRADED}]
        return not self._starting

    async def stop(self) -> None:
        """End every child; requests still waiting or being answered fail with ``Draining``."""
        await self._succession.stop()
        await asyncio.gather(*(model.stop() for model in self._registry.models))

    def reserve(self, model: str, priority: Priority, *, waits_for_load: bool = False) -> Place:
        """Take a place in a model's queue before anything costly is done for a request."""
        return self._registry.route(model).reserve(priority, waits_for_load=waits_for_load)

    async def ask(self, request: InferenceRequest, place: Place | None = None) -> Output:
        """Answer one request; cancelling takes it out of its queue, or drops its answer."""
        answering, has_place = self._find(request, place)
        if isinstance(answering, Ensemble):
            return await answering.ask(request, place if isinstance(place, Places) else None)
        ticket = answering.admit(request, has_place=has_place)
        try:
            return await ticket.answer
        except asyncio.CancelledError:
            # Whoever is cancelled in the moment of the answer was answered, and counted so.
            if ticket.answer.cancelled():
                ticket.abandon()
            raise

    async def stream(self, request: InferenceRequest, place: Place | None = None) -> AsyncIterator[Piece | Output]:
        """Answer one request piece by piece; a model that does not stream gives its text as one piece.

        A slow reader gets what has come since its last piece as one piece, so nothing grows behind it.
        """
        answering, has_place = self._find(request, place)
        if isinstance(answering, Ensemble):
            async with aclosing(answering.stream(request, place if isinstance(place, Places) else None)) as speech:  # type: ignore[type-var]
                async for item in speech:
                    yield item
            return
        ticket = answering.admit(replace(request, wants_pieces=True), has_place=has_place)
        try:
            while True:
                await ticket.news()
                piece = ticket.take_piece()
                if piece is None:
                    break
                yield piece
            output = await ticket.answer
            if not ticket.given and output.text:
                yield Piece(output.text, 0)
            yield output
        finally:
            if not ticket.is_over:
                ticket.answer.cancel()
                ticket.abandon()

    def describe(self, model: str | None = None) -> ModelInfo:
        """Return the version of ``model`` that would answer now; ``NotFound`` if there is none."""
        return self._registry.describe(self._registry.resolve(model))

    def wishes_of(self, model: str | None = None) -> ModelWishes:
        """Return the wishes of the version of ``model`` that would answer now; ``NotFound`` if there is none."""
        return self._registry.resolve(model).wishes

    def awaits_successor(self, model: str | None = None) -> bool:
        """Tell whether ``model`` waits for a version that another has made room for; ``NotFound`` if there is none."""
        return self._registry.resolve(model).awaits_load

    def list_models(self) -> list[ModelInfo]:
        """Return every version of every model, default first."""
        return [self._registry.describe(model) for model in self._registry]

    async def load_model(
        self, spec: ModelSpec, *, keep_previous: bool = False, unload_first: bool = False
    ) -> ModelInfo:
        """Load one version beside what is there, and return it once it is ready; see ``Engine.load_model``."""
        check_spec(spec)
        return await self._succession.load(spec, keep_previous=keep_previous, unload_first=unload_first)

    async def unload_model(self, name: str, version: str) -> None:
        """Let a version finish what it has begun, and end it; returns when it is gone. See ``Engine.unload_model``."""
        await self._succession.unload(self._served(f"{name}@{version}"))

    def set_traffic(self, name: str, shares: Mapping[str, float]) -> None:
        """Split the requests that name no version; see ``Engine.set_traffic``."""
        self._registry.refuse_changing(name)
        self._registry.share(name, shares)

    async def check_model(self, reference: str) -> ModelInfo:
        """Let the model, or each part of an ensemble, look at itself now, and return what it is after that."""
        found = self._registry.resolve(reference)
        if isinstance(found, ServedModel):
            await found.check()
        else:
            await asyncio.gather(*(self.check_model(part) for part in found.spec.parts))
        return self._registry.describe(found)

    def change_batching(
        self, model: str, *, max_batch: int | None = None, max_batch_wait_ms: float | None = None
    ) -> None:
        """Change how batches of a model are made, at once.

        Raises:
            NotFound: No such model or version, or it is an ensemble, whose parts have batches of their own.
            ConfigurationError: ``max_batch`` is not 1 to 64, or ``max_batch_wait_ms`` not 0 to 100.
        """
        served = self._served(model)
        check_spec(
            replace(
                served.spec,
                max_batch=served.spec.max_batch if max_batch is None else max_batch,
                max_batch_wait_ms=served.spec.max_batch_wait_ms if max_batch_wait_ms is None else max_batch_wait_ms,
            )
        )
        served.change_rules(max_batch, max_batch_wait_ms)

    def replica_pids(self, model: str | None = None) -> list[int]:
        """Return the process ids of a model's replicas, for operators and tests; of all models for ``*``."""
        served = self._registry.models if model == "*" else [self._served(model)]
        return [pid for one in served for pid in one.pids]

    def _make(self, spec: ModelSpec) -> ServedModel:
        return ServedModel(spec, self._config, self._clock, self._metrics)

    def _served(self, reference: str | None) -> ServedModel:
        found = self._registry.resolve(reference)
        if isinstance(found, Ensemble):
            raise NotFound(f"{found.spec.name} is an ensemble; name one of its parts: {', '.join(found.spec.parts)}")
        return found

    def _find(self, request: InferenceRequest, place: Place | None) -> tuple[Answering, bool]:
        """Return who answers a request, and whether it was counted there or in a version before it."""
        if isinstance(place, KeptPlace):
            kept = place.take()
            if place.model.is_open or "@" in request.model:
                return place.model, kept
            place.model.place_released()
            return self._registry.route(request.model), kept
        return self._registry.route(request.model), False


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


def _refuse_doubles(specs: Iterable[ModelSpec]) -> None:
    seen: set[tuple[str, str]] = set()
    for spec in specs:
        if (spec.name, spec.version) in seen:
            raise ConfigurationError(
                f"model {spec.name} has version {spec.version} twice; give one of them another version or name "
                "(the model of MODEL_TYPE counts too)"
            )
        seen.add((spec.name, spec.version))
