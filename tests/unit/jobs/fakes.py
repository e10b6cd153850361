"""Fakes of what jobs work with: a model that answers when told, a source that gives what a test puts in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Self

from freeroam.clock import Clock
from freeroam.jobs.desk import JobDesk
from freeroam.jobs.parts import JobConfig, JobParts
from freeroam.jobs.supervisor import Supervisor
from freeroam.prompts.library import PromptConfig, PromptLibrary
from freeroam.results.hub import ResultHub
from freeroam.results.writer import ResultWriter
from freeroam.sources.source import SourceFacts, SourceRequest
from freeroam.store.store import Store, StoreConfig
from freeroam.vocabulary.errors import FreeroamError, InvalidInput, NotFound
from freeroam.vocabulary.frame import Frame, FrameWish
from freeroam.vocabulary.inference import InferenceRequest, Output, Piece, Prediction
from freeroam.vocabulary.job import Policy, SourceState, SourceStatus
from freeroam.vocabulary.model import ModelInfo, ModelState, ModelWishes


def frame(number: int, *, fps: float = 2.0, due_s: float = 1000.0, width: int = 4, height: int = 2) -> Frame:
    time_s = number / fps
    return Frame(
        pixels=bytes(width * height * 3),
        width_px=width,
        height_px=height,
        frame_id=f"{round(time_s * 1000)}",
        stream_time_s=time_s,
        sample_time_s=time_s,
        captured_epoch_s=1_700_000_000.0 + time_s,
        due_monotonic_s=due_s,
        source_width_px=1920,
        source_height_px=1080,
        decode_ms=1.5,
    )


class FakeEngine:
    """Answers at once, or holds questions until a test lets them go."""

    def __init__(self) -> None:
        self.state = ModelState.READY
        self.wishes = ModelWishes(window=1, max_batch=4)
        self.holds = False
        self.is_exchanged = False
        self.asked: list[InferenceRequest] = []
        self.held: list[tuple[InferenceRequest, asyncio.Future[Output]]] = []
        self.failures: list[Exception] = []
        self.cancelled = 0
        self.pieces: list[str] = []
        self.answers: list[dict[str, Any]] = []

    def output(self, request: InferenceRequest) -> Output:
        said = self.answers.pop(0) if self.answers else {}
        return Output(
            **{
                "predictions": [Prediction(label="person", confidence=0.9, bbox=[0.0, 0.0, 2.0, 2.0])],
                "text": "1 person",
                "confidence": [0.9],
                "extra": {"colour": "red"},
                "model": request.model.partition("@")[0],
                "version": "1",
                "model_type": "fake",
                "device": "cpu",
                "model_ms": 2.0,
                "started_monotonic_s": 1000.0,
                **said,
            }
        )

    async def ask(self, request: InferenceRequest) -> Output:
        self.asked.append(request)
        if self.failures:
            raise self.failures.pop(0)
        if not self.holds:
            return self.output(request)
        held: asyncio.Future[Output] = asyncio.get_running_loop().create_future()
        self.held.append((request, held))
        try:
            return await held
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def stream(self, request: InferenceRequest):
        for index, text in enumerate(self.pieces):
            yield Piece(text, index)
        yield await self.ask(request)

    def release(self, index: int = 0, failure: Exception | None = None) -> None:
        request, held = self.held.pop(index)
        if failure:
            held.set_exception(failure)
        else:
            held.set_result(self.output(request))

    def describe(self, model: str | None = None) -> ModelInfo:
        name, _, version = (model or "fake").partition("@")
        if name not in {"fake", "other"}:
            raise NotFound(f"Model {name} not found")
        return ModelInfo(
            name=name,
            version=version or "1",
            model_type="fake",
            state=self.state,
            device="cpu",
            wishes=self.wishes if self.state is ModelState.READY else ModelWishes(),
        )

    def wishes_of(self, model: str | None = None) -> ModelWishes:
        return self.describe(model).wishes

    def awaits_successor(self, model: str | None = None) -> bool:
        self.describe(model)
        return self.is_exchanged

    def list_models(self) -> list[ModelInfo]:
        return [self.describe()]


class FakeSource:
    """One reference: frames go in at ``put`` and come out at every subscription."""

    def __init__(self, *, is_live: bool = True) -> None:
        self.facts: SourceFacts | None = SourceFacts(kind="fake", is_live=is_live, codec="h264")
        self.status = SourceStatus(state=SourceState.CONNECTING, kind="fake")
        self.requests: list[SourceRequest] = []
        self.wishes: list[FrameWish] = []
        self.dropped: dict[str, int] = {}
        self.open = 0
        self._frames: asyncio.Queue[Frame | Exception | None] = asyncio.Queue()
        self.taken = 0

    def put(self, *frames: Frame) -> None:
        for one in frames:
            self._frames.put_nowait(one)

    def end(self, error: Exception | None = None) -> None:
        self._frames.put_nowait(error)

    def subscribe(self, request: SourceRequest) -> FakeSubscription:
        self.requests.append(request)
        return FakeSubscription(self, request)

    async def next(self) -> Frame | None:
        item = await self._frames.get()
        if isinstance(item, Exception):
            self.status = SourceStatus(
                state=SourceState.FAILED,
                last_error=getattr(item, "code", None),
                last_error_message=str(item),
            )
            raise item
        if item is not None:
            self.taken += 1
            self.status = SourceStatus(state=SourceState.RUNNING, kind="fake")
        return item


class FakeSubscription:
    def __init__(self, source: FakeSource, request: SourceRequest) -> None:
        self._source = source
        self._request = request
        self.dropped = source.dropped

    async def __aenter__(self) -> Self:
        self._source.open += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._source.open -= 1

    @property
    def waits(self) -> bool:
        facts = self._source.facts
        return self._request.waits or (facts is not None and not facts.is_live)

    @property
    def facts(self) -> SourceFacts | None:
        return self._source.facts

    @property
    def status(self) -> SourceStatus:
        return self._source.status

    def change_wish(self, wish: FrameWish) -> None:
        self._source.wishes.append(wish)

    async def frames(self) -> AsyncGenerator[Frame, None]:
        while (one := await self._source.next()) is not None:
            yield one


class FakeReference:
    kind = "fake"

    def __init__(self, policy: Policy) -> None:
        self.default_policy = policy


class FakeOpener:
    def classify(self, stream_ref: str, options: object = None) -> FakeReference:
        if stream_ref.startswith("bad:"):
            raise InvalidInput("stream_ref is bad")
        return FakeReference(Policy.BLOCK if stream_ref.startswith("redis") else Policy.LATEST)


class FakeSources:
    """Hands out one ``FakeSource`` a reference."""

    def __init__(self) -> None:
        self.by_ref: dict[str, FakeSource] = {}

    def of(self, ref: str, *, is_live: bool = True) -> FakeSource:
        if ref not in self.by_ref:
            self.by_ref[ref] = FakeSource(is_live=is_live)
        return self.by_ref[ref]

    def subscribe(self, request: SourceRequest) -> FakeSubscription:
        return self.of(request.stream_ref).subscribe(request)


class Workplace:
    """Everything round a desk, on a real store in a folder; may be killed and opened again."""

    def __init__(self, folder: Path, clock: Clock, config: JobConfig | None = None) -> None:
        self.folder = folder
        self.clock = clock
        self.config = config or JobConfig()
        self.engine = FakeEngine()
        self.sources = FakeSources()

    async def open(self) -> Self:
        self.store = Store(StoreConfig(f"sqlite:///{self.folder}/freeroam.db"), self.clock)
        await self.store.open()
        self.library = PromptLibrary(self.store, PromptConfig(), self.clock)
        await self.library.load()
        self.hub = ResultHub(self.store)
        self.parts = JobParts(
            sources=self.sources,
            can_go_back=lambda ref: ref.startswith("redis"),
            engine=self.engine,
            library=self.library,
            writer=ResultWriter(self.store, self.hub),
            hub=self.hub,
            store=self.store,
            clock=self.clock,
        )
        self.supervisor = Supervisor(self.parts, self.config, "node")
        self.desk = JobDesk(self.parts, FakeOpener(), self.supervisor, self.config)
        await self.supervisor.start()
        return self

    async def close(self) -> None:
        await self.supervisor.stop()
        await self.store.close()

    async def restart(self) -> None:
        """As after a crash: nothing is drained."""
        await self.close()
        await self.open()


__all__ = ["FakeEngine", "FakeSource", "FakeSources", "FreeroamError", "Workplace", "frame"]
