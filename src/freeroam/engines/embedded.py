"""The embedded engine: every model in processes of this machine, started and watched by this one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from freeroam.batching.policy import MAX_BATCH
from freeroam.clock import Clock
from freeroam.engines.registry import Registry
from freeroam.engines.served_model import ServedModel
from freeroam.engines.specs import EngineConfig, ModelSpec
from freeroam.models.loading import check_model_type
from freeroam.observability.metrics import Metrics
from freeroam.vocabulary.errors import ConfigurationError
from freeroam.vocabulary.inference import InferenceRequest, Output, Piece
from freeroam.vocabulary.model import ModelInfo, ModelState

__all__ = ["EmbeddedEngine", "EngineConfig", "ModelSpec"]

_SETTLED = frozenset({ModelState.READY, ModelState.FAILED, ModelState.UNLOADED})


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
        await asyncio.gather(*(model.stop() for model in self._registry))

    async def ask(self, request: InferenceRequest) -> Output:
        """Answer one request; cancelling takes it out of its queue, or drops its answer."""
        model = self._registry.resolve(request.model)
        ticket = model.admit(request)
        try:
            return await ticket.answer
        except asyncio.CancelledError:
            model.abandon(ticket)
            raise

    async def stream(self, request: InferenceRequest) -> AsyncIterator[Piece | Output]:
        """Answer one request piece by piece; a model that does not stream gives its text as one piece.

        A slow reader gets what has come since its last piece as one piece, so nothing grows behind it.
        """
        model = self._registry.resolve(request.model)
        ticket = model.admit(replace(request, wants_pieces=True))
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
