"""What the routes are given: the parts that do the work, and what the api itself must know."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from freeroam.clock import Clock
from freeroam.observability.metrics import Metrics
from freeroam.security.keys import Caller, Key
from freeroam.security.limits import RateConfig
from freeroam.vocabulary.errors import Draining

if TYPE_CHECKING:
    from freeroam.engines.engine import Engine
    from freeroam.jobs.desk import JobDesk
    from freeroam.prompts.library import PromptLibrary
    from freeroam.results.hub import ResultHub
    from freeroam.store.store import Store


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """What the api must know of the settings.

    Attributes:
        keys: Empty means that only this machine is served, unless ``allow_anonymous``.
        own_names: Names that a ``Host`` header may give when there are no keys.
        request_timeout_s: Until an answer must have begun.
        stream_idle_timeout_s: How long a reader may drain nothing.
        ping_s: Between comments on a quiet event stream.
    """

    keys: tuple[Key, ...] = ()
    allow_anonymous: bool = False
    trusted_proxies: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()
    own_names: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    metrics_public: bool = False
    enable_metrics: bool = True
    rates: RateConfig = field(default_factory=RateConfig)
    max_connections: int = 256
    max_body_bytes: int = 32 * 2**20
    max_prompt_chars: int = 32_768
    request_timeout_s: float = 30.0
    stream_idle_timeout_s: float = 60.0
    ping_s: float = 15.0
    root_path: str = ""


class Lifecycle:
    """Where the service is between start and stop, as callers see it."""

    def __init__(self) -> None:
        self.is_draining = False

    def begin_drain(self) -> None:
        """Admit nothing new from now on."""
        self.is_draining = True

    def check_admission(self) -> None:
        """Return if new work is admitted.

        Raises:
            Draining: The service is stopping.
        """
        if self.is_draining:
            raise Draining("The service is stopping; start the job where it goes on", retry_after_s=5.0)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts behind the routes.

    Attributes:
        refresh_metrics: Brings gauges up to date before they are read.
        started_monotonic_s: When the service started.
    """

    desk: JobDesk
    prompts: PromptLibrary
    hub: ResultHub
    engine: Engine
    clock: Clock
    metrics: Metrics
    lifecycle: Lifecycle
    refresh_metrics: Callable[[], Awaitable[None]]
    store: Store
    started_monotonic_s: float


def _parts(connection: HTTPConnection) -> Parts:
    return cast("Parts", connection.app.state.parts)


def _config(connection: HTTPConnection) -> ApiConfig:
    return cast("ApiConfig", connection.app.state.config)


def _caller(connection: HTTPConnection) -> Caller:
    return cast("Caller", connection.scope["freeroam.caller"])


TheParts = Annotated[Parts, Depends(_parts)]
TheConfig = Annotated[ApiConfig, Depends(_config)]
TheCaller = Annotated[Caller, Depends(_caller)]
