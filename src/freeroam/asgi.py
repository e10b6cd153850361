"""The application for any ASGI server (``uvicorn freeroam.asgi:app``), with its start and its graceful stop.

Draining begins with the signal, because a server runs the lifespan's shutdown only after every connection has closed.
So the first signal is kept from the server until questions in flight are stored and streams have had their last event.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from freeroam.api.application import create_application
from freeroam.api.doorkeeper import Doorkeeper
from freeroam.clock import SystemClock
from freeroam.engines.specs import ModelSpec
from freeroam.observability.logs import configure_logs, get_logger
from freeroam.observability.metrics import Metrics
from freeroam.processes.memory import COLLECTOR_THRESHOLDS, keep_large_blocks_apart, leave_what_is_loaded
from freeroam.runtime import Runtime
from freeroam.settings import LATER_SETTINGS, Settings, load_settings, set_but_unused
from freeroam.vocabulary.errors import FreeroamError

if TYPE_CHECKING:
    from freeroam.api.grpc.door import GrpcDoor

SIGNALS = (signal.SIGINT, signal.SIGTERM)

Started = Callable[[Runtime], Awaitable[None]]

log = get_logger(__name__)


def build_application(
    settings: Settings,
    started: Started | None = None,
    failed: Callable[[FreeroamError], None] | None = None,
    force: Callable[[], None] | None = None,
    models: Sequence[ModelSpec] | None = None,
) -> FastAPI:
    """Return the application; its lifespan builds, starts and stops a ``Runtime``.

    Args:
        settings: Everything that can be chosen.
        started: Called when every part runs, before the first request.
        failed: Told why the start failed, before the server is.
        force: Called at the second signal; None tells the server to stop at once.
        models: Served instead of those that the settings name; None serves those.

    Raises:
        ConfigurationError: A setting is wrong.
    """
    clock, metrics = SystemClock(), Metrics()
    config = settings.api_config()
    doorkeeper = Doorkeeper(config, clock)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        keep_large_blocks_apart()
        async with AsyncExitStack() as stack:
            try:
                door = _bound_grpc_door(settings, doorkeeper)
                stack.push_async_callback(door.close)
                runtime = await stack.enter_async_context(Runtime(settings, clock, metrics, models))
                if started is not None:
                    await started(runtime)
            except FreeroamError as error:
                if failed is not None:
                    failed(error)
                raise
            app.state.parts = runtime.parts
            leave_what_is_loaded(COLLECTOR_THRESHOLDS)
            # Registered a second time, because it closes before the parts behind it do.
            stack.push_async_callback(door.close)
            await door.open(runtime.parts)
            with drained_on_signal(runtime, settings.drain_timeout, force):
                yield

    return create_application(config, clock, metrics, lifespan, doorkeeper)


def _bound_grpc_door(settings: Settings, doorkeeper: Doorkeeper) -> GrpcDoor:
    """Return the gRPC door with its port, before anything is started; without one if ``GRPC_PORT`` is 0."""
    from freeroam.api.grpc.door import DoorConfig, GrpcDoor

    is_wanted = "grpc_port" in settings.model_fields_set
    door = GrpcDoor(
        DoorConfig(settings.host, settings.grpc_port, is_wanted, settings.ssl_certfile, settings.ssl_keyfile),
        doorkeeper,
    )
    if settings.grpc_port:
        door.bind()
    return door


def drain_budget_s(drain_timeout_s: float) -> float:
    """Return how much of ``DRAIN_TIMEOUT`` questions in flight may take; the rest is for connections and children."""
    return max(0.5 * drain_timeout_s, drain_timeout_s - 6.0)


@contextmanager
def drained_on_signal(runtime: Runtime, timeout_s: float, force: Callable[[], None] | None = None) -> Iterator[None]:
    """Stand before the server's own signal handlers: the first signal drains, then goes on to them; a second forces.

    Does nothing off the main thread, where signals cannot be handled.

    Args:
        runtime: What drains.
        timeout_s: From the first signal; after it ``force`` is called.
        force: Ends the process at once; None tells the server to stop waiting.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    previous: dict[int, Any] = {}
    draining: list[asyncio.Task[None]] = []

    def pass_on(number: int) -> None:
        handler = previous[number]
        if callable(handler):
            handler(number, None)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt

    async def drain(number: int) -> None:
        try:
            await runtime.drain(drain_budget_s(timeout_s))
        finally:
            pass_on(number)

    def begin(number: int) -> None:
        if not draining:
            draining.append(loop.create_task(drain(number), name="drain"))
            if force is not None:
                # A thread, because what is late may be the event loop itself.
                deadline = threading.Timer(timeout_s, force)
                deadline.daemon = True
                deadline.start()
            return
        log.warning("stop_forced", signal=signal.Signals(number).name)
        if force is not None:
            force()
        # The server stops at the first interrupt, and stops waiting at the second.
        pass_on(signal.SIGINT)
        pass_on(signal.SIGINT)

    def on_signal(number: int, _: FrameType | None) -> None:
        loop.call_soon_threadsafe(begin, number)

    for handled in SIGNALS:
        previous[handled] = signal.signal(handled, on_signal)
    try:
        yield
    finally:
        for handled_number, handler in previous.items():
            signal.signal(handled_number, handler)
        for task in draining:
            task.cancel()


def _application() -> FastAPI:
    settings = load_settings()
    configure_logs(settings.log_level, settings.log_format)
    for name in set_but_unused():
        log.warning("setting_not_used_yet", setting=name, belongs_to=LATER_SETTINGS[name])
    return build_application(settings)


def __getattr__(name: str) -> Any:
    """Build ``app`` when a server asks for it, so that importing this module reads no settings."""
    if name != "app":
        raise AttributeError(f"module 'freeroam.asgi' has no attribute {name!r}")
    app = _application()
    globals()["app"] = app
    return app
