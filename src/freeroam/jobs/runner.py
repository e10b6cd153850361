"""One job, from its source to its results: frames are sampled, gathered into clips, asked about, and answers stored.

::

    source --frames--> sampler --> window --clips--> questions in flight --answers, in order--> writer
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from enum import StrEnum

from freeroam.jobs.asking import Asker
from freeroam.jobs.parts import JobConfig, JobParts, Subscription
from freeroam.jobs.questions import Question, QuestionLine
from freeroam.jobs.report import Report
from freeroam.sampling.interval import IntervalSampler
from freeroam.sampling.window import Window, window_of
from freeroam.sources.source import SourceRequest
from freeroam.store.records import StoredJob
from freeroam.vocabulary.errors import FreeroamError, LeaseLost, ModelNotReady, StoreError
from freeroam.vocabulary.frame import Clip, Frame, FrameWish
from freeroam.vocabulary.job import JobSpec, JobStatus, Policy
from freeroam.vocabulary.model import ModelInfo, ModelState

MODEL_PAUSE_S = 0.1
"""Between two looks at a model that is loading: what it wishes is known only then."""


class Outcome(StrEnum):
    """Why a run ended."""

    VIDEO_ENDED = "video_ended"
    VIDEO_FAILED = "video_failed"
    LIMIT_REACHED = "limit_reached"
    DRAINED = "drained"


class Runner:
    """Runs one job under one lease; everything that it starts ends with ``run``.

    Args:
        stored: The job as the store has it, with the cursor to go on from.
        parts: What it works with.
        config: How much may be in flight.

    Attributes:
        spec: The job as it is wished now.
        model: The model that it asks.
        report: Counts and states.
        failure: Why the video failed for good; None unless it did.
    """

    def __init__(self, stored: StoredJob, parts: JobParts, config: JobConfig) -> None:
        self.spec: JobSpec = stored.job.spec
        self.model: ModelInfo = parts.engine.describe(self.spec.model)
        self.report = Report(stored, parts)
        self.asker = Asker(self, parts.engine, parts.library, parts.hub, parts.clock)
        self.failure: FreeroamError | None = None
        self._stored, self._parts, self._config = stored, parts, config
        self._sampler = IntervalSampler(self.spec.fps)
        self._window = Window(1)
        self._cursor = stored.job.cursor
        self._clips = 0
        self._subscription: Subscription | None = None
        self._reading: asyncio.Task[Outcome] | None = None
        self._resumed = asyncio.Event()
        self._stop: Outcome | None = None

    @property
    def waits(self) -> bool:
        """Whether no frame may be dropped: the job says so, or leaves it open and its video turned out to end."""
        ends = self._subscription is not None and self._subscription.waits
        return self.spec.policy is Policy.BLOCK or (self.spec.policy_is_default and ends)

    async def run(self) -> Outcome:
        """Run until the video ends or fails, a limit is reached, or ``drain`` is called; then store what is in flight.

        Raises:
            LeaseLost: Another process runs the job now, or it is over.
            Draining: The engine stopped before all was answered.
        """
        try:
            async with asyncio.TaskGroup() as self._tasks:
                self._line = QuestionLine(self.asker.ask, self._tasks, self.report.drop)
                self._tasks.create_task(self._store_answers())
                timer = self._tasks.create_task(self._limit_time())
                outcome = await self._watch()
                timer.cancel()
                self._line.close(asks_waiting=outcome is not Outcome.DRAINED)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group
        return outcome

    async def _watch(self) -> Outcome:
        """Read the video, anew after each pause, until something ends it."""
        await self._learn_model()
        self.amend(self.spec)
        while self._stop is None:
            self._reading = self._tasks.create_task(self._read())
            await asyncio.wait({self._reading})
            if not self._reading.cancelled():
                return self._reading.result()
        if self._stop is Outcome.LIMIT_REACHED:
            await self._ask_about(self._window.rest())
        return self._stop

    async def _read(self) -> Outcome:
        await self._resumed.wait()
        self._window.rest()
        try:
            async with self._parts.sources.subscribe(self._request()) as self._subscription:
                self.report.follow(self._subscription)
                try:
                    async with aclosing(self._subscription.frames()) as frames:
                        async for frame in frames:
                            await self._take(frame)
                            if self._frames_left() <= 0:
                                return Outcome.LIMIT_REACHED
                    await self._ask_about(self._window.rest())
                finally:
                    self.report.leave(paused=self.spec.paused)
        except FreeroamError as error:
            self.failure = error
            return Outcome.VIDEO_FAILED
        return Outcome.VIDEO_ENDED

    async def _take(self, frame: Frame) -> None:
        if self.report.note_frame(frame):
            self._tasks.create_task(self._store_beginning())
        if self._sampler.wants(frame):
            clip = self._window.add(frame)
            if clip is None and self._frames_left() <= len(self._window):
                clip = self._window.rest()
            await self._ask_about(clip)

    async def _ask_about(self, clip: Clip | None) -> None:
        """Put a question; returns when there is a place for it (``block``), or at once."""
        if clip is None:
            return
        last = clip.frames[-1]
        self._clips += 1
        facts = self._subscription.facts if self._subscription else None
        is_named = self._parts.can_go_back(self.spec.stream_ref) or (facts is not None and not facts.is_live)
        key = last.frame_id if is_named else f"{self._stored.epoch}.{self._clips}"
        cursor = {"frame_id": last.frame_id, "next_due_s": last.sample_time_s + 1.0 / self.spec.fps}
        limit = self._config.in_flight_latest
        if self.waits:
            limit = max(limit, min(2 * self.model.wishes.max_batch, self._config.in_flight_block))
        await self._line.put(Question(clip, key, cursor), limit=limit, waits=self.waits)
        self._cursor = cursor

    async def _store_answers(self) -> None:
        async with aclosing(self._line.answers()) as answers:
            async for answer in answers:
                if answer.body is None:
                    self.report.drop(answer.dropped or "unanswered", len(answer.question.clip.frames))
                elif await self._parts.writer.write(self.report.row(answer)):
                    self.report.note_answer(answer)

    def amend(self, spec: JobSpec) -> None:
        """Take a changed wish; it takes hold at the next question."""
        faster_or_slower = spec.fps != self.spec.fps
        self.spec, self.model = spec, self._parts.engine.describe(spec.model)
        self._window.size = window_of(spec.window, self.model.wishes.window, self._config.max_batch_size)
        if faster_or_slower:
            self._sampler.change_fps(spec.fps)
            if self._subscription is not None:
                self._subscription.change_wish(self._request().wish)
        if not spec.paused:
            self._resumed.set()
        elif self._resumed.is_set():
            self._resumed.clear()
            self._interrupt()

    def drain(self) -> None:
        """Stop to read; ``run`` returns when what is in flight is stored."""
        self._end(Outcome.DRAINED)

    def _end(self, outcome: Outcome) -> None:
        self._stop = self._stop or outcome
        self._resumed.set()
        self._interrupt()

    def _interrupt(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    async def _limit_time(self) -> None:
        if self.spec.max_seconds is None:
            return
        await self.report.begun.wait()
        clock, began_at = self._parts.clock, self.report.started_at or 0.0
        await clock.sleep(self.spec.max_seconds - (clock.epoch_s() - began_at))
        self._end(Outcome.LIMIT_REACHED)

    def _frames_left(self) -> float:
        asked = self._stored.job.frames_processed + self._line.frames_asked
        return float("inf") if self.spec.max_frames is None else self.spec.max_frames - asked

    async def _learn_model(self) -> None:
        """Wait until the model is loaded: before, its wishes are not known."""
        while self._stop is None:
            self.model = self._parts.engine.describe(self.spec.model)
            if self.model.state in {ModelState.READY, ModelState.DEGRADED}:
                return
            failed = self.model.state is ModelState.FAILED
            self.asker.trouble = ModelNotReady(self.model.error or "the model failed to load") if failed else None
            await self._parts.clock.sleep(MODEL_PAUSE_S)

    def _request(self) -> SourceRequest:
        box, options = self.model.wishes, self.spec.source
        is_own = options.width_px is not None or options.height_px is not None
        width_px, height_px = (options.width_px, options.height_px) if is_own else (box.width_px, box.height_px)
        return SourceRequest(
            stream_ref=self.spec.stream_ref,
            wish=FrameWish(self.spec.fps, width_px, height_px),
            options=options,
            resume_after=self._cursor.get("frame_id"),
            resume_due_s=self._cursor.get("next_due_s"),
            waits=self.spec.policy is Policy.BLOCK,
        )

    async def _store_beginning(self) -> None:
        """Note the first frame; if the database fails now, the first result does so as well."""
        job_id = self.spec.job_id
        try:
            await self._parts.store.begin_job(job_id, self._stored.epoch, self.report.started_at or 0.0)
        except LeaseLost:
            raise
        except StoreError:
            return
        self._parts.hub.publish_status(job_id, JobStatus.RUNNING.value)
