"""The composition root: builds every part from the settings, starts them in order and stops them in reverse."""

from __future__ import annotations

import asyncio
import socket
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Self

from freeroam.api.model_loading import ModelLoads
from freeroam.api.parts import Lifecycle, OpenCalls, Parts
from freeroam.clock import Clock, SystemClock
from freeroam.engines.embedded import EmbeddedEngine, ModelSpec
from freeroam.jobs.desk import JobDesk
from freeroam.jobs.parts import JobParts
from freeroam.jobs.retention import Retention
from freeroam.jobs.supervisor import Supervisor
from freeroam.observability.logs import get_logger
from freeroam.observability.loop_lag import LoopLag
from freeroam.observability.metrics import Metrics
from freeroam.prompts.library import PromptConfig, PromptLibrary
from freeroam.results.hub import ResultHub
from freeroam.results.writer import ResultWriter
from freeroam.security.dialing import Dialer, DialTimeouts
from freeroam.security.url_policy import UrlPolicy
from freeroam.settings import Settings
from freeroam.sources.decoding.pool import DecoderPool
from freeroam.sources.demo import DemoSource
from freeroam.sources.fetching import Fetcher, FetchTimeouts
from freeroam.sources.file import FileSource
from freeroam.sources.hls import HlsConfig, hls_factory
from freeroam.sources.http import http_factory
from freeroam.sources.http_files import TemporarySpace
from freeroam.sources.opening import Opener, load_plugins
from freeroam.sources.probing import probe
from freeroam.sources.redis_stream import RedisSources
from freeroam.sources.rtsp import RtspSources
from freeroam.sources.sharing import SharedSources
from freeroam.sources.source import SourceFactory
from freeroam.store.store import Store, StoreConfig
from freeroam.vocabulary.job import JobStatus, SourceState
from freeroam.vocabulary.model import ModelState
from freeroam.vocabulary.probe import ProbeReport

log = get_logger(__name__)


class Runtime:
    """Every part of one process; ``async with Runtime(settings) as runtime`` runs it.

    Args:
        settings: Everything that can be chosen.
        clock: Tells the time to all parts.
        metrics: Counts for all parts.
        models: Served instead of those that the settings name; None serves those.

    Raises:
        ConfigurationError: A setting that only a part understands is wrong.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock | None = None,
        metrics: Metrics | None = None,
        models: Sequence[ModelSpec] | None = None,
    ) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self.metrics = metrics or Metrics()
        self.lifecycle = Lifecycle()
        self.calls = OpenCalls()
        self.loads = ModelLoads()
        self.store = Store(StoreConfig(settings.full_database_url), self.clock)
        self.prompts = PromptLibrary(self.store, PromptConfig(settings.max_prompt_chars), self.clock)
        self.hub = ResultHub(self.store)
        self.decoders = DecoderPool(settings.decoder_config(), self.clock)
        self._temporary = TemporarySpace(settings.source_disk_bytes, settings.source_file_bytes)
        self._policy = UrlPolicy(settings.allow_private_sources)
        self._dialer = Dialer(
            self._policy, timeouts=DialTimeouts(connect_s=settings.source_open_timeout), clock=self.clock
        )
        patience = FetchTimeouts(answer_s=settings.source_open_timeout, read_s=settings.source_read_timeout)
        self._fetcher = Fetcher(self._dialer, self.clock, patience, settings.source_limits())
        self.opener = Opener(self._source_factories(), self._policy, load_plugins())
        self.sources = SharedSources(self.opener.open, self.opener.can_go_back, settings.source_config(), self.clock)
        self._start_models = settings.model_specs() if models is None else tuple(models)
        self.engine = EmbeddedEngine(self._start_models, settings.engine_config(), self.clock, self.metrics)
        parts = JobParts(
            sources=self.sources,
            can_go_back=self.opener.can_go_back,
            engine=self.engine,
            library=self.prompts,
            writer=ResultWriter(self.store, self.hub),
            hub=self.hub,
            store=self.store,
            clock=self.clock,
            metrics=self.metrics,
        )
        jobs = settings.job_config()
        self.supervisor = Supervisor(parts, jobs, node=f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}")
        self.desk = JobDesk(parts, self.opener, self.supervisor, jobs)
        self._retention = Retention(self.store, self.clock, keep_s=jobs.retention_s, interval_s=jobs.cleanup_interval_s)
        self._loop_lag = LoopLag(self.clock, self.metrics)
        self._stack = AsyncExitStack()
        self._started_monotonic_s = self.clock.monotonic_s()

    @property
    def parts(self) -> Parts:
        """What the api's routes are given."""
        return Parts(
            desk=self.desk,
            prompts=self.prompts,
            hub=self.hub,
            engine=self.engine,
            store=self.store,
            clock=self.clock,
            metrics=self.metrics,
            lifecycle=self.lifecycle,
            refresh_metrics=self.refresh_metrics,
            started_monotonic_s=self._started_monotonic_s,
            open_pictures=self.decoders.open_pictures,
            calls=self.calls,
            loads=self.loads,
            start_models=tuple(spec for spec in self._start_models if isinstance(spec, ModelSpec)),
        )

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start every part; when one fails, those before it are stopped again.

        Raises:
            ConfigurationError: The data folder cannot be used, or another process holds it.
        """
        async with AsyncExitStack() as stack:
            await self.store.open()
            stack.push_async_callback(self.store.close)
            await self.prompts.load()
            self._fetcher.start()
            stack.push_async_callback(self._fetcher.aclose)
            stack.push_async_callback(self.engine.stop)
            stack.push_async_callback(self.loads.aclose)
            await self.engine.start()
            await self.decoders.start()
            stack.push_async_callback(self.decoders.stop)
            stack.push_async_callback(self.supervisor.stop)
            await self.supervisor.start()
            self._retention.start()
            stack.push_async_callback(self._retention.stop)
            self._loop_lag.start()
            stack.push_async_callback(self._loop_lag.stop)
            self._stack = stack.pop_all()
        self.metrics.build.info({"version": _version()})
        log.info("started", model=self.settings.model_type, data_dir=str(self.settings.data_dir))

    async def drain(self, timeout_s: float) -> None:
        """Admit nothing new, let questions in flight finish and be stored, and end streams with a last event."""
        self.lifecycle.begin_drain()
        log.info("draining", timeout_s=timeout_s)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.supervisor.drain(timeout_s))
            tasks.create_task(self.calls.drain(timeout_s))

    async def stop(self) -> None:
        """Stop every part, in reverse order; jobs stay active in the store and go on at the next start."""
        self.lifecycle.begin_drain()
        self.hub.close(lambda _: None)
        await self._stack.aclose()
        log.info("stopped")

    async def probe(self, stream_ref: str) -> ProbeReport:
        """Look at one video with nothing but the decoders running; for a runtime that was not started."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._fetcher.aclose)
            stack.push_async_callback(self.decoders.stop)
            await self.decoders.start()
            return await probe(self.opener, stream_ref, clock=self.clock)

    async def refresh_metrics(self) -> None:
        """Bring the gauges that nobody sets in passing up to date."""
        self.metrics.set_states(
            self.metrics.jobs, await self.desk.count_by_status(), [status.value for status in JobStatus]
        )
        running, _ = await self.desk.list(JobStatus.RUNNING.value, limit=1000)
        pending, _ = await self.desk.list(JobStatus.PENDING.value, limit=1000)
        states: dict[str, int] = {}
        for job in [*running, *pending]:
            states[job.source.state.value] = states.get(job.source.state.value, 0) + 1
        self.metrics.set_states(self.metrics.sources, states, [state.value for state in SourceState])
        self._show_models()
        self._show_video()

    def _show_video(self) -> None:
        metrics, decoders, space = self.metrics, self.decoders, self._temporary
        metrics.frame_memory.set(decoders.frame_bytes)
        metrics.temporary_bytes.set(space.used_bytes)
        for reason, count in decoders.replaced.items():
            metrics.count_up_to(metrics.decoder_restarts.labels(reason), count)
        metrics.count_up_to(metrics.frames_copied, decoders.refused_places)
        metrics.count_up_to(metrics.temporary_refused, space.refused)

    def _show_models(self) -> None:
        metrics = self.metrics
        for gauge in (metrics.requests_waiting, metrics.requests_running, metrics.model_state):
            gauge.clear()  # a version that was unloaded is gone
        infos = self.engine.list_models()
        metrics.keep_versions({(info.name, info.version) for info in infos})
        for info in infos:
            key = (info.name, info.version)
            for gauge, counts in (
                (metrics.requests_waiting, info.queued_by),
                (metrics.requests_running, info.running_by),
            ):
                for priority, count in counts.items():
                    gauge.labels(*key, priority).set(count)
            for state in ModelState:
                metrics.model_state.labels(*key, state.value).set(state is info.state)

    def _source_factories(self) -> dict[str, SourceFactory]:
        settings, clock = self.settings, self.clock
        hls = HlsConfig(stall_timeout_s=settings.source_stall_timeout)
        return {
            "hls": hls_factory(self._fetcher, self.decoders, clock, hls),
            "http": http_factory(self._fetcher, self.decoders, clock, hls, self._temporary),
            "rtsp": RtspSources(self._dialer, self.decoders, clock, settings.source_open_timeout),
            "redis": RedisSources(settings.redis_config(), self._dialer, self.decoders, clock),
            "file": partial(
                FileSource,
                root=settings.media_root,
                pool=self.decoders,
                clock=clock,
                limits=settings.source_limits(),
            ),
            "demo": partial(DemoSource, pool=self.decoders, clock=clock),
        }


def _version() -> str:
    import freeroam

    return freeroam.__version__
