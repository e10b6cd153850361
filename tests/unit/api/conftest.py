"""The application with parts that need no processes: a real store, hub and library, and doubles for what runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from freeroam.api.application import create_application
from freeroam.api.parts import ApiConfig, Lifecycle, Parts
from freeroam.observability.metrics import Metrics
from freeroam.prompts.library import PromptConfig, PromptLibrary
from freeroam.results.hub import ResultHub
from freeroam.store.store import Store
from freeroam.testing import FakeClock
from freeroam.vocabulary.errors import FreeroamError, NotFound
from freeroam.vocabulary.inference import FinishReason, InferenceRequest, Output, Piece, Prediction
from freeroam.vocabulary.model import ModelInfo, ModelState
from tests.stores import opened_store


class DeskDouble:
    """Knows no job and admits none; what it is told is kept."""

    active_streams = 0

    def __init__(self) -> None:
        self.started: list[tuple[Any, str, int | None]] = []

    async def start(self, wish: Any, owner: str = "", limit_of_owner: int | None = None) -> Any:
        self.started.append((wish, owner, limit_of_owner))
        return SimpleNamespace(spec=SimpleNamespace(job_id=wish.job_id or "made", stream_ref=wish.stream_ref))

    async def status(self, job_id: str) -> Any:
        raise NotFound(f"Job {job_id} not found")

    cancel = erase = status

    def capacity(self) -> dict[str, Any]:
        return {"streams": {"used": 0, "limit": 10, "free": 10}}


class EngineDouble:
    """One model in a chosen state."""

    state = ModelState.READY
    has_started = True

    def describe(self, model: str | None = None) -> ModelInfo:
        return ModelInfo(name="fake", version="1", model_type="fake", state=self.state, device="cpu")

    def list_models(self) -> list[ModelInfo]:
        return [self.describe()]


class TalkingEngine(EngineDouble):
    """Answers as it is told to: whole or in pieces, at once or when the test lets it, or not at all.

    Attributes:
        asked: Every request it was given.
        left: How many askers went away before they had their answer.
        failure: Raised instead of an answer; after the first piece if ``fails_late``.
        goes_on: Cleared, it stops before its answer, or after the first piece.
        reserved: Places that were taken and given back.
        extra: What the model tells besides.
    """

    def __init__(self) -> None:
        self.asked: list[InferenceRequest] = []
        self.left = 0
        self.pieces = [Piece("Once ", 0), Piece("upon a ", 1, 2), Piece("time", 3)]
        self.failure: FreeroamError | None = None
        self.fails_late = False
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.reserved: list[str] = []
        self.extra: dict[str, Any] = {}

    async def ask(self, request: InferenceRequest, place: Any = None) -> Output:
        self.asked.append(request)
        if self.failure is not None:
            raise self.failure
        await self._turn()
        return self.output()

    async def stream(self, request: InferenceRequest, place: Any = None) -> AsyncIterator[Piece | Output]:
        self.asked.append(request)
        if self.failure is not None and not self.fails_late:
            raise self.failure
        for index, piece in enumerate(self.pieces):
            if index == 1:
                await self._turn()
                if self.failure is not None:
                    raise self.failure
            yield piece
        yield self.output()

    def reserve(self, model: str, priority: Any) -> Any:
        self.reserved.append("taken")
        return SimpleNamespace(release=lambda: self.reserved.append("released"))

    def output(self) -> Output:
        return Output(
            predictions=[Prediction(label="cat", confidence=0.5, bbox=[0, 0, 4, 4])],
            text="Once upon a time",
            confidence=[0.5],
            extra=self.extra,
            model="gpt2",
            version="7",
            model_type="fake",
            device="cpu",
            finish_reason=FinishReason.LENGTH,
            prompt_tokens=3,
            completion_tokens=4,
            tokens=("Once ", "upon ", "a ", "time"),
        )

    async def _turn(self) -> None:
        try:
            await self.goes_on.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise


Ask = Callable[..., Any]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened_store(tmp_path, FakeClock()) as store:
        yield store


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def parts(store: Store, clock: FakeClock) -> Parts:
    async def refresh() -> None:
        return None

    return Parts(
        desk=DeskDouble(),  # type: ignore[arg-type]
        prompts=PromptLibrary(store, PromptConfig(), clock),
        hub=ResultHub(store),
        engine=EngineDouble(),  # type: ignore[arg-type]
        store=store,
        clock=clock,
        metrics=Metrics(),
        lifecycle=Lifecycle(),
        refresh_metrics=refresh,
        started_monotonic_s=clock.monotonic_s(),
    )


@pytest.fixture
def engine(parts: Parts) -> TalkingEngine:
    """The engine behind the routes, which answers as the test tells it to."""
    engine = TalkingEngine()
    object.__setattr__(parts, "engine", engine)
    return engine


@pytest.fixture
def connect(parts: Parts, clock: FakeClock) -> Callable[..., httpx.AsyncClient]:
    """Return what makes a client of an application with the given configuration, from a chosen peer."""

    def make(config: ApiConfig | None = None, peer: str = "127.0.0.1", **options: Any) -> httpx.AsyncClient:
        app = create_application(config or ApiConfig(**options), clock, parts.metrics)
        app.state.parts = parts
        transport = httpx.ASGITransport(app, client=(peer, 4711))
        return httpx.AsyncClient(transport=transport, base_url="http://localhost")

    return make
