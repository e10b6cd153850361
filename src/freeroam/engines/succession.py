"""How versions come and go while others answer: loading, swapping, unloading."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from freeroam.clock import Clock
from freeroam.engines.registry import Registry
from freeroam.engines.served_model import ServedModel
from freeroam.engines.specs import ModelSpec
from freeroam.observability.logs import get_logger
from freeroam.vocabulary.errors import Conflict, Draining, InvalidInput, ModelError, ModelNotReady, NotFound
from freeroam.vocabulary.model import ModelInfo

log = get_logger(__name__)


class Succession:
    """Changes which versions a registry holds; every version that leaves is ended by a task of this.

    Args:
        registry: What is loaded.
        make: Builds a version from its spec; nothing is started by that.
        clock: Where time comes from.
        drain_limit_s: How long a version that leaves may take to finish what it has.
    """

    def __init__(
        self, registry: Registry, make: Callable[[ModelSpec], ServedModel], clock: Clock, drain_limit_s: float
    ) -> None:
        self._registry = registry
        self._clock = clock
        self._drain_limit_s = drain_limit_s
        self._make = make
        self._ends: dict[ServedModel, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    async def load(self, spec: ModelSpec, *, keep_previous: bool, unload_first: bool) -> ModelInfo:
        """Load a version; see ``Engine.load_model``."""
        if self._is_stopping:
            raise Draining("the service is stopping")
        if keep_previous and unload_first:
            raise InvalidInput("keep_previous and unload_first contradict each other; give one of them")
        registry = self._registry
        registry.claim(spec.name)
        try:
            registry.refuse_taken(spec.name, spec.version)
            before = registry.versions(spec.name)
            for old in before if not keep_previous else ():
                self._refuse_needed(old, is_last=False)
            candidate = self._make(spec)
            registry.add(candidate, is_asked=not before)
            if before and unload_first:
                await self._load_after(candidate, before)
            else:
                await self._load_beside(candidate)
                if before and not keep_previous:
                    registry.share(spec.name, {spec.version: 1.0})
                    for old in before:
                        self._retire(old)
            log.info("version_loaded", model=spec.name, version=spec.version, before=[old.version for old in before])
            return registry.describe(candidate)
        finally:
            registry.release(spec.name)

    async def unload(self, model: ServedModel) -> None:
        """Unload a version, and return when it is gone; see ``Engine.unload_model``."""
        registry, name = self._registry, model.spec.name
        if model.is_retired:
            raise Conflict(f"model {name} version {model.version} is being unloaded already")
        registry.claim(name)
        try:
            if registry.versions(name) == [model] and registry.default == name:
                raise Conflict(f"{name}@{model.version} is the only version of the default model; load another first")
            self._refuse_needed(model, is_last=registry.versions(name) == [model])
            registry.stop_asking(model)
            end = self._retire(model)
        finally:
            registry.release(name)
        await self._wait_for([end])

    async def stop(self) -> None:
        """End every task; versions that were still finishing are left to the caller to stop."""
        self._is_stopping = True
        tasks = [*self._ends.values(), *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _load_beside(self, candidate: ServedModel) -> None:
        """Start a version and wait until it is ready and well; leave nothing of it if it does not get there."""
        try:
            candidate.start()
            await _wait_well(candidate)
        except BaseException as error:
            await self._finish(self._discard(candidate, error))
            raise

    async def _load_after(self, candidate: ServedModel, before: Sequence[ServedModel]) -> None:
        """End the versions before, then start the new one; requests wait for it meanwhile."""
        registry, name = self._registry, candidate.spec.name
        shares = registry.shares(name)
        candidate.assume(before[-1], hands_back=True)
        registry.share(name, {candidate.version: 1.0})
        try:
            await self._wait_for([self._retire(old) for old in before])
            candidate.start()
            await _wait_well(candidate)
        except BaseException as error:
            await self._finish(self._restore(candidate, before, shares, error))
            raise

    async def _restore(
        self, candidate: ServedModel, before: Sequence[ServedModel], shares: dict[str, float], error: BaseException
    ) -> None:
        """Bring the versions back that made room for one which did not load; what waits goes back to them."""
        registry, name = self._registry, candidate.spec.name
        log.warning("models_restored", model=name, versions=[old.version for old in before], why=str(error))
        if not self._is_stopping:
            for old in before:
                await self._bring_back(old)
            registry.share(name, shares)
            registry.rehome(name, candidate.give_away())
        await self._discard(candidate, error)

    async def _bring_back(self, old: ServedModel) -> None:
        end = self._ends.get(old)
        if end is not None and not old.is_ending:
            end.cancel()
            old.resume()
            return
        if end is not None:
            await asyncio.wait([end])
        again = self._make(old.spec)
        again.assume(old)
        self._registry.add(again)
        again.start()

    async def _discard(self, candidate: ServedModel, error: BaseException) -> None:
        """End a version that did not get ready; there is nothing to be polite for."""
        why = str(error) or "loading it was given up"
        self._registry.stop_asking(candidate)
        await candidate.stop(partial(ModelNotReady, why), grace_s=0.0)
        self._registry.remove(candidate)

    def _retire(self, old: ServedModel) -> asyncio.Task[None]:
        """Let a version take nothing new, and end it once it has finished what it has."""
        old.retire(partial(self._registry.rehome, old.spec.name))
        task = asyncio.create_task(self._end(old), name=f"end-{old.spec.name}@{old.version}")
        self._ends[old] = task
        task.add_done_callback(partial(self._forget_end, old))
        return task

    def _forget_end(self, old: ServedModel, task: asyncio.Task[None]) -> None:
        if self._ends.get(old) is task:
            del self._ends[old]

    async def _end(self, old: ServedModel) -> None:
        if not await self._is_done_in_time(old):
            log.warning("version_cut_off", model=old.spec.name, version=old.version, after_s=self._drain_limit_s)
        await old.stop(partial(NotFound, f"Model {old.spec.name} version {old.version} was unloaded"))
        self._registry.remove(old)
        log.info("version_unloaded", model=old.spec.name, version=old.version)

    async def _is_done_in_time(self, old: ServedModel) -> bool:
        """Wait until a version has finished what it has; return False if that takes too long."""
        ends = {asyncio.ensure_future(old.wait_done()), asyncio.ensure_future(self._clock.sleep(self._drain_limit_s))}
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        return old.is_done

    async def _wait_for(self, ends: Sequence[asyncio.Task[None]]) -> None:
        """Wait until versions have ended; they do so even if the caller goes away."""
        await asyncio.wait(ends)
        if self._is_stopping:
            raise Draining("the service is stopping")

    def _refuse_needed(self, model: ServedModel, *, is_last: bool) -> None:
        ensemble = self._registry.needed_by(model, is_last=is_last)
        if ensemble is not None:
            raise Conflict(f"ensemble {ensemble} needs {model.spec.name}@{model.version}")

    async def _finish(self, deed: Coroutine[Any, Any, None]) -> None:
        """Do something to its end, even if the caller is cancelled meanwhile."""
        task = asyncio.create_task(deed)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await asyncio.shield(task)


async def _wait_well(candidate: ServedModel) -> None:
    """Wait until a version is ready, and let it look at itself.

    Raises:
        ModelError: It did not load, or is not well.
    """
    await candidate.wait_loaded()
    await candidate.check()
    if candidate.error is not None:
        raise ModelError(
            f"model {candidate.spec.name}@{candidate.version} was loaded, but {candidate.error}", code="load_failed"
        )
