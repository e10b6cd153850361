"""The inference server for those who start it from a program of their own.

::

    server = InferenceServer(max_batch_size=32, max_batch_wait_ms=50)
    server.register_model(ModelConfig(name="gpt2", version="1.0.0", model_path="/models/gpt2", device="cuda"))
    asyncio.run(server.start(host="0.0.0.0", port=8000))

Everything else is a setting, read from the environment as ``freeroam serve`` reads it. The program needs no
``__main__`` guard: models live in processes that do not import it.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import freeroam
from freeroam.clock import SystemClock
from freeroam.engines.embedded import check_spec
from freeroam.engines.specs import ModelSpec
from freeroam.models.base import BaseVLM
from freeroam.models.paths import guess_model_type
from freeroam.observability.logs import configure_logs, get_logger
from freeroam.runtime import Runtime
from freeroam.settings import Settings, load_settings
from freeroam.vocabulary.errors import ConfigurationError, Conflict, Draining, FreeroamError
from freeroam.vocabulary.model import ModelInfo

if TYPE_CHECKING:
    from freeroam.http_server import HttpServer

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One model version to serve.

    Attributes:
        name: What clients call it.
        version: Several versions of a name may be loaded; whoever names none is answered by the one registered last.
        model_path: Folder, file or hub id.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        quantization: As the model's class takes it (``8bit``, ``4bit``, ``dynamic8``); None for none.
        warmup: Whether the model warms up before it is called ready.
        model_type: A built-in name, ``package.module:Class``, or a ``BaseVLM`` class; found out from the path if None.
        replicas: Processes that run it.
        max_batch_size: Questions in one call; None takes the server's.
        max_batch_wait_ms: Longest wait for a fuller batch, milliseconds; None takes the server's.
        options: Keyword arguments of the model's class.
    """

    name: str
    version: str = "1"
    model_path: str = ""
    device: str = "auto"
    quantization: str | None = None
    warmup: bool = True
    model_type: str | type[BaseVLM] | None = None
    replicas: int = 1
    max_batch_size: int | None = None
    max_batch_wait_ms: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


class InferenceServer:
    """Serves models over HTTP, as ``freeroam serve`` does.

    Args:
        max_connections: Requests, streams and sockets open at once.
        request_timeout: Seconds until an answer must have begun.
        max_batch_size: Questions in one model call, 1 to 64.
        max_batch_wait_ms: Longest wait for a fuller batch, milliseconds.
        enable_metrics: Serve ``/metrics``.
        log_level: Least level that is logged.
        rate_limit_per_minute: Requests a minute and client.
        settings: Further settings, by their field names (``api_key=...``, ``data_dir=...``); they win over the
            environment.

    Raises:
        ConfigurationError: A value is not allowed; the message names it.
    """

    def __init__(
        self,
        *,
        max_connections: int = 256,
        request_timeout: float = 30.0,
        max_batch_size: int = 32,
        max_batch_wait_ms: float = 50,
        enable_metrics: bool = True,
        log_level: str = "INFO",
        rate_limit_per_minute: int = 1000,
        **settings: Any,
    ) -> None:
        unknown = sorted(set(settings) - set(Settings.model_fields))
        if unknown:
            raise ConfigurationError(f"InferenceServer: unknown setting {', '.join(unknown)}")
        self._given: dict[str, Any] = {
            "max_connections": max_connections,
            "request_timeout": request_timeout,
            "max_batch_size": max_batch_size,
            "max_batch_wait_ms": max_batch_wait_ms,
            "enable_metrics": enable_metrics,
            "log_level": log_level,
            "rate_limit_per_minute": rate_limit_per_minute,
            **settings,
        }
        load_settings(**self._given)
        # What the next start loads; by name and version, in the order of registration.
        self._specs: dict[tuple[str, str], ModelSpec] = {}
        self._begun: set[tuple[str, str]] = set()
        self._runtime: Runtime | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._server: HttpServer | None = None
        self._serving: asyncio.Task[None] | None = None
        self.address: str | None = None

    def register_model(self, config: ModelConfig) -> None:
        """Have a model served: from the start, or, while the server runs, as soon as it is loaded.

        While it runs this returns at once, from any thread; the log and ``GET /models`` tell how the loading goes. A
        name that is served already is swapped for the new version between two batches. A version that did not load, or
        was swapped for another, may be registered again, and is not loaded at the next start.

        Raises:
            ConfigurationError: It cannot be loaded as it is described.
            Conflict: The name has this version already.
        """
        spec = self._spec_of(config)
        self._keep(spec)
        runtime, loop = self._runtime, self._loop
        if runtime is not None and loop is not None:
            loop.call_soon_threadsafe(self._begin, runtime, spec)

    async def load_model(self, config: ModelConfig) -> ModelInfo:
        """Load a model into the running server and return when it is ready.

        Raises:
            InvalidInput: It does not load; the message says why.
            Conflict: The name has this version already, or is being changed now.
            ConfigurationError: The server does not run.
        """
        runtime = self._the_runtime()
        spec = self._spec_of(config)
        self._keep(spec)
        self._begun.add((spec.name, spec.version))
        try:
            info = await runtime.loads.load(runtime.engine, spec)
        except BaseException:
            self._drop(spec)
            raise
        self._drop_older(spec)
        return info

    async def unload_model(self, name: str, version: str) -> None:
        """Let a version of the running server finish what it has begun, and free its memory.

        Raises:
            NotFound: No such model or version.
            Conflict: It is the only version of the default model.
            ConfigurationError: The server does not run.
        """
        await self._the_runtime().engine.unload_model(name, version)
        self._specs.pop((name, version), None)
        self._begun.discard((name, version))

    async def start(self, host: str | None = None, port: int | None = None) -> None:
        """Serve until a signal, ``stop``, or the cancelling of this call; questions in flight are answered first.

        Args:
            host: Address to listen on; None takes ``HOST``.
            port: Port; 0 takes a free one (``address`` has it then), None takes ``PORT``.

        Raises:
            ConfigurationError: A setting is wrong, or the data folder cannot be used.
            FreeroamError: The port is taken.
        """
        from freeroam.asgi import build_application
        from freeroam.http_server import HttpServer, address_of, bind, check_certificate

        if self._serving is not None:
            raise ConfigurationError("this InferenceServer runs already")
        given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
        settings = load_settings(**self._given, **given)
        configure_logs(settings.log_level, settings.log_format)
        check_certificate(settings)
        listener = bind(settings)
        failures: list[FreeroamError] = []

        def keep_failure(error: FreeroamError) -> None:
            failures.append(error)
            logging.getLogger("uvicorn.error").disabled = True  # it would add its traceback to what is raised below

        def say_where() -> None:
            sys.stdout.write(f"Freeroam {freeroam.__version__} listens on {self.address}\n")
            sys.stdout.flush()

        self.address = address_of(settings, listener)
        models = self._models_of_start()
        self._begun = {(spec.name, spec.version) for spec in models}
        app = build_application(settings, self._take_runtime, failed=keep_failure, models=models)
        server = HttpServer(app, settings, say_where)
        self._loop = asyncio.get_running_loop()
        self._server = server
        self._serving = asyncio.create_task(server.serve(sockets=[listener]), name="inference-server")
        try:
            await asyncio.shield(self._serving)
        except asyncio.CancelledError:
            await self._drain(settings.drain_timeout)
            server.should_exit = True
            await self._serving
            raise
        finally:
            self._runtime = self._loop = self._serving = self._server = None
            listener.close()
        if failures:
            raise failures[0]

    async def stop(self) -> None:
        """Admit nothing new, let questions in flight be answered, and end; returns when it has.

        A server that is still starting ends as soon as it has started; one that does not run is left as it is.
        """
        # A start that its caller gave to a task just now has not begun yet; its turn is before this one.
        await SystemClock().sleep(0.0)
        serving, server = self._serving, self._server
        if serving is None or server is None:
            return
        if self._runtime is not None:
            await self._drain(self._runtime.settings.drain_timeout)
        server.should_exit = True
        await asyncio.wait([serving])

    async def _take_runtime(self, runtime: Runtime) -> None:
        self._runtime = runtime
        # Registered since the start began, when there was nothing yet that could load them.
        for spec in list(self._specs.values()):
            self._begin(runtime, spec)

    def _models_of_start(self) -> tuple[ModelSpec, ...]:
        """Return what a start loads; of several versions of a name the last one is asked, as after a swap."""
        specs = list(self._specs.values())
        last = {spec.name: spec for spec in specs}
        return tuple(replace(spec, share=1.0) if last[spec.name] is spec else spec for spec in specs)

    def _begin(self, runtime: Runtime, spec: ModelSpec) -> None:
        """Load what was registered while the server runs; to be called on its loop."""
        key = (spec.name, spec.version)
        if key not in self._begun:
            self._begun.add(key)
            loading = runtime.loads.begin(runtime.engine, spec)
            loading.add_done_callback(lambda _: self._note_loaded(spec, loading))

    def _note_loaded(self, spec: ModelSpec, loading: asyncio.Task[ModelInfo]) -> None:
        if loading.cancelled() or isinstance(error := loading.exception(), Draining):
            return  # the server stops, and its next start loads it
        if error is None:
            self._drop_older(spec)
        else:
            self._drop(spec)

    def _drop(self, spec: ModelSpec) -> None:
        key = (spec.name, spec.version)
        if self._specs.get(key) is spec:
            del self._specs[key]
            self._begun.discard(key)

    def _drop_older(self, spec: ModelSpec) -> None:
        """Drop what was swapped for ``spec``: the versions of its name that were registered before it."""
        for older in list(self._specs.values()):
            if older is spec:
                return
            if older.name == spec.name:
                self._drop(older)

    async def _drain(self, timeout_s: float) -> None:
        from freeroam.asgi import drain_budget_s

        if self._runtime is not None:
            await self._runtime.drain(drain_budget_s(timeout_s))

    def _the_runtime(self) -> Runtime:
        if self._runtime is None:
            raise ConfigurationError("the server does not run; use register_model before start")
        return self._runtime

    def _keep(self, spec: ModelSpec) -> None:
        key = (spec.name, spec.version)
        if key in self._specs:
            raise Conflict(f"model {spec.name} has version {spec.version} already")
        self._specs[key] = spec

    def _spec_of(self, config: ModelConfig) -> ModelSpec:
        """Return what the engine is given for ``config``.

        Raises:
            ConfigurationError: It cannot be loaded as it is described.
        """
        options = dict(config.options)
        if config.quantization not in {None, "none"}:
            options["quantization"] = config.quantization
        wait_ms = self._given["max_batch_wait_ms"] if config.max_batch_wait_ms is None else config.max_batch_wait_ms
        spec = ModelSpec(
            name=config.name,
            version=config.version,
            model_type=_type_of(config),
            model_path=config.model_path,
            device=config.device,
            replicas=config.replicas,
            max_batch=config.max_batch_size or self._given["max_batch_size"],
            max_batch_wait_ms=wait_ms,
            options=options,
            warmup=config.warmup,
        )
        check_spec(spec)
        return spec


def _type_of(config: ModelConfig) -> str:
    if isinstance(config.model_type, type):
        return f"{config.model_type.__module__}:{config.model_type.__qualname__}"
    if config.model_type:
        return config.model_type
    if not config.model_path:
        raise ConfigurationError(f"ModelConfig(name={config.name!r}): give model_path or model_type")
    return guess_model_type(config.model_path)
