"""Loading models at run time: from a caller's wish to a spec, and the loads that nobody waits for."""

from __future__ import annotations

import asyncio
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from freeroam.engines.specs import ModelSpec
from freeroam.models.loading import BUILT_IN, GROUP
from freeroam.models.paths import guess_model_type
from freeroam.models.wished_places import checked_options, find_allowed
from freeroam.observability.logs import get_logger
from freeroam.security.redaction import redact_text
from freeroam.vocabulary.errors import ConfigurationError, FreeroamError, InvalidInput, ModelError
from freeroam.vocabulary.model import ModelInfo
from freeroam.vocabulary.model_calls import ModelWish

if TYPE_CHECKING:
    from freeroam.api.parts import ApiConfig
    from freeroam.engines.engine import Engine

_KEPT_FAILURES = 256
MAX_THREADS = 1024
"""Threads that a model may be given; its libraries start them without asking whether there are cores."""

log = get_logger(__name__)


def read_model_wish(wish: ModelWish, config: ApiConfig) -> ModelSpec:
    """Return the spec of a model version that a caller wants loaded.

    Raises:
        InvalidInput: The path lies outside ``MODEL_ROOTS``, the type is none that may be loaded at run time, or an
            option cannot be.
    """
    roots, addresses = config.model_roots, config.model_addresses
    path = find_allowed(wish.model_path, roots, addresses) if wish.model_path else ""
    model_type = wish.model_type
    if model_type is None:
        if not path:
            raise InvalidInput("model_type is required where model_path is not given")
        model_type = guess_model_type(path)
    # A class by its address would let a caller import, and so run, any module of this machine.
    allowed = [*BUILT_IN, *(point.name for point in entry_points(group=GROUP)), *config.model_types]
    if model_type not in allowed:
        raise InvalidInput(
            f"model_type: {model_type[:100]!r} cannot be loaded at run time; known: {', '.join(sorted(set(allowed)))}"
        )
    options: dict[str, Any] = checked_options(model_type, wish.options, roots, addresses)
    threads = options.get("threads", 0)
    if type(threads) is not int or not 0 <= threads <= MAX_THREADS:
        raise InvalidInput(f"options.threads: must be a whole number from 0 to {MAX_THREADS}")
    if wish.quantization not in {None, "none"}:
        options["quantization"] = wish.quantization
    return ModelSpec(
        name=wish.name,
        version=wish.version,
        model_type=model_type,
        model_path=path,
        device=wish.device,
        replicas=wish.replicas,
        max_batch=wish.max_batch_size or config.max_batch_size,
        max_batch_wait_ms=config.max_batch_wait_ms if wish.max_batch_wait_ms is None else wish.max_batch_wait_ms,
        options=options,
        warmup=wish.warmup,
    )


class ModelLoads:
    """The loads that were asked for at run time: those that go on while nobody waits, and why the last ones failed."""

    def __init__(self) -> None:
        self._failures: dict[str, str] = {}
        self._tasks: set[asyncio.Task[ModelInfo]] = set()

    def failure_of(self, name: str) -> str | None:
        """Return why the last load of a name failed; None if it did not."""
        return self._failures.get(name)

    async def load(
        self, engine: Engine, spec: ModelSpec, *, keep_previous: bool = False, unload_first: bool = False
    ) -> ModelInfo:
        """Load a version and return it when it is ready; see ``Engine.load_model``.

        Raises:
            InvalidInput: The model cannot be loaded as it was asked for; the message says why.
            Conflict: The version is there already, or its name is being changed now.
            Draining: The service is stopping.
        """
        try:
            info = await engine.load_model(spec, keep_previous=keep_previous, unload_first=unload_first)
        except (ConfigurationError, ModelError) as error:
            self._note_failure(spec, error)
            raise InvalidInput(error.message, code=error.code) from None
        except FreeroamError as error:
            self._note_failure(spec, error)
            raise
        self._failures.pop(spec.name, None)
        log.info("model_loaded", model=spec.name, version=spec.version, model_type=spec.model_type)
        return info

    def begin(
        self, engine: Engine, spec: ModelSpec, *, keep_previous: bool = False, unload_first: bool = False
    ) -> asyncio.Task[ModelInfo]:
        """Load a version in the background; the log and ``failure_of`` tell how that ended."""
        loading = self.load(engine, spec, keep_previous=keep_previous, unload_first=unload_first)
        task = asyncio.create_task(loading, name=f"load-{spec.name}")
        self._tasks.add(task)
        task.add_done_callback(self._forget)
        return task

    async def aclose(self) -> None:
        """Cancel what is still loading."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _forget(self, task: asyncio.Task[ModelInfo]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it was logged and kept where it was raised

    def _note_failure(self, spec: ModelSpec, error: FreeroamError) -> None:
        message = redact_text(error.message)
        log.warning("model_not_loaded", model=spec.name, version=spec.version, why=message, code=error.code)
        while len(self._failures) >= _KEPT_FAILURES:
            del self._failures[next(iter(self._failures))]
        self._failures[spec.name] = f"{spec.version}: {message}"
