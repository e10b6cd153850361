"""One job, from its source to its results: frames are sampled, gathered into clips, asked about, and answers stored.

::

    source --frames--> sampler --> window --clips--> questions in flight --answers, in order--> writer
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from functools import cached_property

from freeroam.jobs.asking import Asker
from freeroam.jobs.control import Control, Outcome
from freeroam.jobs.framing import question_of, request_of
from freeroam.jobs.parts import JobConfig, JobParts, Subscription
from freeroam.jobs.patience import Patience
from freeroam.jobs.questions import QuestionLine
from freeroam.jobs.report import Report
from freeroam.sampling.interval import IntervalSampler
from freeroam.sampling.window import Window, window_of
from freeroam.store.records import StoredJob
from freeroam.vocabulary.errors import FreeroamError, NotFound
from freeroam.vocabulary.frame import Clip, Frame
from freeroam.vocabulary.job import JobSpec, Policy
from freeroam.vocabulary.model import ModelInfo


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
        asker: Puts its questions.
        failure: Why the video failed for good; None unless it did.
    """

    def __init__(self, stored: StoredJob, parts: JobParts, config: JobConfig) -> None:
        self.spec: JobSpec = stored.job.spec
        self.model: ModelInfo = parts.engine.describe(self.spec.model)
        self.report = Report(stored, parts)
        self.asker = Asker(self, parts.engine, parts.library, parts.hub, parts.clock)
        self.failure: FreeroamError | None = None
        self._stored, self._parts, self._config = stored, parts, config
        self._patience = Patience(parts.engine, parts.clock, config.max_waiting_bytes)
        self._control = Control(paused=self.spec.paused)
        self._sampler = IntervalSampler(self.spec.fps)
        self._window = Window(1)
        self._cursor = stored.job.cursor
        self._clips = 0
        self._subscription: Subscription | None = None

    @property
    def waits(self) -> bool:
        """Whether no frame may be dropped: the job says so, or leaves it open and its video turned out to end."""
        ends = self._subscription is not None and self._subscription.waits
        return self.spec.policy is Policy.BLOCK or (self.spec.policy_is_default and ends)

    @cached_property
    def _can_go_back(self) -> bool:
        return self._parts.can_go_back(self.spec.stream_ref)

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
        while self._control.ending is None and not await self.asker.is_model_known():
            continue
        self.amend(self.spec)
        while (ending := self._control.ending) is None:
            if (outcome := await self._control.hold(self._tasks.create_task(self._read()))) is not None:
                return outcome
        if ending is Outcome.LIMIT_REACHED:
            await self._ask_about(self._window.rest())
        return ending

    async def _read(self) -> Outcome:
        await self._control.wait_unpaused()
        self._window.rest()
        request = request_of(self.spec, self.model.wishes, self._cursor)
        try:
            async with self._parts.sources.subscribe(request) as self._subscription:
                with self.report.following(self._subscription):
                    async with aclosing(self._subscription.frames()) as frames:
                        async for frame in frames:
                            await self._take(frame)
                            if self._frames_left() <= 0:
                                return Outcome.LIMIT_REACHED
                    await self._ask_about(self._window.rest())
        except FreeroamError as error:
            self.failure = error
            return Outcome.VIDEO_FAILED
        return Outcome.VIDEO_ENDED

    async def _take(self, frame: Frame) -> None:
        if self.report.note_frame(frame):
            self._tasks.create_task(self.report.store_beginning())
        if self._sampler.wants(frame):
            clip = self._window.add(frame)
            if clip is None and self._frames_left() <= len(self._window):
                clip = self._window.rest()
            await self._ask_about(clip)

    async def _ask_about(self, clip: Clip | None) -> None:
        """Put a question; returns when there is a place for it (``block``), or at once (``latest``).

        While the model is exchanged, questions of a ``latest`` job wait in line too, as far as there is room.
        """
        if clip is None:
            return
        self._clips += 1
        self._follow_model()
        facts = self._subscription.facts if self._subscription else None
        is_named = self._can_go_back or (facts is not None and not facts.is_live)
        question = question_of(clip, self.spec, f"{self._stored.epoch}.{self._clips}", is_named=is_named)
        limit = self._config.in_flight(self.model.wishes.max_batch, waits=self.waits)
        room_bytes = self._patience.room_bytes(self.spec.model)
        await self._line.put(question, limit=limit, waits=self.waits, room_bytes=room_bytes)
        self._cursor = question.cursor

    async def _store_answers(self) -> None:
        async with aclosing(self._line.answers()) as answers:
            async for answer in answers:
                if answer.body is None:
                    self.report.drop(answer.dropped or "unanswered", len(answer.question.clip.frames))
                elif await self._parts.writer.write(self.report.row(answer)):
                    self.report.note_answer(answer)

    def amend(self, spec: JobSpec) -> None:
        """Take a changed wish; it takes hold at the next question."""
        before, self.spec = self.spec, spec
        self.model = self._parts.engine.describe(spec.model)
        self._window.size = window_of(spec.window, self.model.wishes.window, self._config.max_batch_size)
        if spec.fps != before.fps:
            self._sampler.change_fps(spec.fps)
            if self._subscription is not None:
                self._subscription.change_wish(request_of(spec, self.model.wishes, self._cursor).wish)
        self._control.set_paused(spec.paused)

    def _follow_model(self) -> None:
        """Take the wishes of another version that answers now; frames change their size when the video opens anew."""
        with suppress(NotFound):
            if self._parts.engine.wishes_of(self.spec.model) != self.model.wishes:
                self.amend(self.spec)

    def drain(self) -> None:
        """Stop to read; ``run`` returns when what is in flight is stored."""
        self._control.end(Outcome.DRAINED)

    async def _limit_time(self) -> None:
        if self.spec.max_seconds is not None:
            await self._parts.clock.sleep(self.spec.max_seconds - await self.report.age_s())
            self._control.end(Outcome.LIMIT_REACHED)

    def _frames_left(self) -> float:
        asked = self._stored.job.frames_processed + self._line.frames_asked
        return float("inf") if self.spec.max_frames is None else self.spec.max_frames - asked
