"""What the routes are given: the parts that do the work, and what the api itself must know."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol, cast

from fastapi import Depends
from starlette.requests import HTTPConnection

from freeroam.api.model_loading import ModelLoads
from freeroam.api.picture_room import PictureRoom
from freeroam.api.spans import Spans
from freeroam.clock import Clock
from freeroam.observability.metrics import Metrics
from freeroam.security.keys import Caller, Key
from freeroam.security.limits import RateConfig
from freeroam.vocabulary.errors import Draining, FreeroamError
from freeroam.vocabulary.frame import FrameWish

if TYPE_CHECKING:
    from freeroam.engines.engine import Engine
    from freeroam.engines.specs import ModelSpec
    from freeroam.jobs.desk import JobDesk
    from freeroam.prompts.library import PromptLibrary
    from freeroam.results.hub import ResultHub
    from freeroam.sources.decoding.pictures import PictureFeed
    from freeroam.store.store import Store


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """What the api must know of the settings.

    Attributes:
        keys: Empty means that only this machine is served, unless ``allow_anonymous``.
        own_names: Names that a ``Host`` header may give when there are no keys.
        request_timeout_s: Until an answer must have begun.
        max_prompt_chars: Longest prompt.
        max_tokens: Longest spoken answer that may be asked for.
        max_images: Pictures that one question may bring.
        max_pixels: Pixels that one of them may have, and that may be decoded at once.
        max_picture_bytes: Decoded pictures of all open questions together.
        max_batch_size: Questions in one call of a model that is loaded at run time, unless it is said.
        max_batch_wait_ms: Its longest wait for a fuller batch, unless it is said.
        model_roots: Folders that models may be loaded from at run time; none allows no path.
        model_addresses: Addresses of servers below which models may be loaded at run time.
        model_types: Types that were named at the start, so that they may be loaded at run time too.
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
    max_tokens: int = 4096
    max_images: int = 16
    max_pixels: int = 50_000_000
    max_picture_bytes: int = 2**30
    max_batch_size: int = 8
    max_batch_wait_ms: float = 5.0
    model_roots: tuple[Path, ...] = ()
    model_addresses: tuple[str, ...] = ()
    model_types: tuple[str, ...] = ()
    request_timeout_s: float = 30.0
    stream_idle_timeout_s: float = 60.0
    ping_s: float = 15.0
    root_path: str = ""


class Lifecycle:
    """Where the service is between start and stop, as callers see it.

    Attributes:
        drain_began: Set when nothing new is admitted any more, for those who wait for it.
    """

    def __init__(self) -> None:
        self.is_draining = False
        self.drain_began = asyncio.Event()

    def begin_drain(self) -> None:
        """Admit nothing new from now on."""
        self.is_draining = True
        self.drain_began.set()

    def check_admission(self) -> None:
        """Return if new work is admitted.

        Raises:
            Draining: The service is stopping.
        """
        if self.is_draining:
            raise Draining("The service is stopping; start the job where it goes on", retry_after_s=5.0)


class Cuttable(Protocol):
    """A call that can be ended from outside."""

    def cut(self, error: FreeroamError) -> None:
        """End it; its caller is told ``error``."""


class OpenCalls:
    """The inference calls that are being answered, at every door, so that a stop can wait for them and then end them.

    Attributes:
        streams: How many of them give their answer piece by piece.
        spans: The time that those have whose door keeps none.
    """

    def __init__(self) -> None:
        self.streams = 0
        self.spans = Spans()
        self._calls: set[Cuttable] = set()
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: Cuttable) -> None:
        """Take in a call that begins."""
        self._calls.add(call)
        self._empty.clear()

    def discard(self, call: Cuttable) -> None:
        """Forget a call that is over."""
        self._calls.discard(call)
        if not self._calls:
            self._empty.set()

    async def drain(self, timeout_s: float, grace_s: float = 2.0) -> None:
        """Wait until every call is over; those that are not after ``timeout_s`` are cut, with ``grace_s`` to say so."""
        for patience_s in (timeout_s, grace_s):
            try:
                async with asyncio.timeout(patience_s):
                    await self._empty.wait()
                return
            except TimeoutError:
                for call in list(self._calls):
                    call.cut(Draining("The service stopped before the answer was complete", retry_after_s=5.0))


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts behind the routes.

    Attributes:
        refresh_metrics: Brings gauges up to date before they are read.
        started_monotonic_s: When the service started.
        open_pictures: Gives a decoder of pictures that fits them into a box; None where no decoders run.
        calls: Inference calls that are open now.
        picture_room: What the pictures of those calls take.
        loads: Models that are being loaded at a caller's wish.
        start_models: What the service was started with, for those who want one of them back.
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
    open_pictures: Callable[[FrameWish], PictureFeed] | None = None
    calls: OpenCalls = field(default_factory=OpenCalls)
    picture_room: PictureRoom = field(default_factory=PictureRoom)
    loads: ModelLoads = field(default_factory=ModelLoads)
    start_models: tuple[ModelSpec, ...] = ()


def _parts(connection: HTTPConnection) -> Parts:
    return cast("Parts", connection.app.state.parts)


def _config(connection: HTTPConnection) -> ApiConfig:
    return cast("ApiConfig", connection.app.state.config)


def _caller(connection: HTTPConnection) -> Caller:
    return cast("Caller", connection.scope["freeroam.caller"])


TheParts = Annotated[Parts, Depends(_parts)]
TheConfig = Annotated[ApiConfig, Depends(_config)]
TheCaller = Annotated[Caller, Depends(_caller)]
