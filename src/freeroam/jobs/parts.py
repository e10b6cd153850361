"""What jobs are built from, and how much of it they may take."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from freeroam.clock import Clock
from freeroam.engines.engine import Engine
from freeroam.observability.metrics import Metrics
from freeroam.prompts.library import PromptLibrary
from freeroam.results.hub import ResultHub
from freeroam.results.writer import ResultWriter
from freeroam.sources.source import SourceFacts, SourceRequest
from freeroam.store.store import Store
from freeroam.vocabulary.frame import Frame, FrameWish
from freeroam.vocabulary.job import SourceStatus


@dataclass(frozen=True, slots=True)
class JobConfig:
    """What jobs may be, and how they are kept.

    Attributes:
        default_fps: Samples per second of a job that does not say.
        max_fps: Most that a job may ask for.
        max_tokens: Longest spoken answer that a job may ask for.
        max_concurrent_streams: Active jobs at most.
        max_batch_size: Frames a question for a model that does not say.
        in_flight_latest: Questions of a ``latest`` job with the model: one in a call, one waiting beside it.
        in_flight_block: The same of a ``block`` job, at most.
        max_waiting_bytes: What the frames of a ``latest`` job may take that wait while its model is exchanged.
        retention_s: How long results and jobs that are over are kept.
        cleanup_interval_s: Between two clearings.
        lease_timeout_s: How long a lease holds without renewal.
    """

    default_fps: float = 2.0
    max_fps: float = 30.0
    max_tokens: int = 4096
    max_concurrent_streams: int = 10
    max_batch_size: int = 8
    in_flight_latest: int = 2
    in_flight_block: int = 16
    max_waiting_bytes: int = 64 * 1024 * 1024
    retention_s: float = 168 * 3600.0
    cleanup_interval_s: float = 300.0
    lease_timeout_s: float = 10.0

    def in_flight(self, max_batch: int, *, waits: bool) -> int:
        """Return how many questions of one job may be in flight with a model of ``max_batch`` questions a call."""
        if not waits:
            return self.in_flight_latest
        return max(self.in_flight_latest, min(2 * max_batch, self.in_flight_block))


class Subscription(Protocol):
    """A job's view of its source, see ``sources.sharing.Subscription``."""

    dropped: dict[str, int]

    @property
    def waits(self) -> bool:
        """Whether frames wait for the job instead of being dropped."""
        ...

    @property
    def facts(self) -> SourceFacts | None:
        """What is known of the open source."""
        ...

    @property
    def status(self) -> SourceStatus:
        """How the source is."""
        ...

    def change_wish(self, wish: FrameWish) -> None:
        """Ask for another rate from the next frame on."""
        ...

    def frames(self) -> AsyncGenerator[Frame, None]:
        """Give the job's samples."""
        ...


class Sources(Protocol):
    """Where subscriptions come from, see ``sources.sharing.SharedSources``."""

    def subscribe(self, request: SourceRequest) -> AbstractAsyncContextManager[Subscription]:
        """Return a subscription; entering it opens its source."""
        ...


@dataclass(frozen=True, slots=True)
class JobParts:
    """What a job works with.

    Attributes:
        sources: Opens its video.
        can_go_back: Whether a reference can be read again after a named frame, and never names two frames alike.
        engine: Answers its questions.
        library: Knows its prompt.
        writer: Keeps its results.
        hub: Tells them.
        store: Keeps its state.
        clock: Tells the time.
        metrics: Counts; None counts nothing.
    """

    sources: Sources
    can_go_back: Callable[[str], bool]
    engine: Engine
    library: PromptLibrary
    writer: ResultWriter
    hub: ResultHub
    store: Store
    clock: Clock
    metrics: Metrics | None = None
