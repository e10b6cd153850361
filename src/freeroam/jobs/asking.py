"""Puts one question of a job to a model and turns what comes back into a result's body."""

from __future__ import annotations

import itertools
from contextlib import aclosing
from typing import Protocol

from freeroam.clock import Clock
from freeroam.engines.engine import Engine
from freeroam.jobs.questions import Answer, Question
from freeroam.observability.logs import get_logger
from freeroam.prompts.library import PromptLibrary
from freeroam.results.document import Asked, answer_body, failure_body
from freeroam.results.hub import ResultHub
from freeroam.vocabulary.errors import Draining, FreeroamError, InvalidInput, ModelError, ModelNotReady, Unavailable
from freeroam.vocabulary.inference import InferenceRequest, Output, Piece, Priority
from freeroam.vocabulary.job import JobSpec
from freeroam.vocabulary.model import ModelInfo, ModelState
from freeroam.vocabulary.prompt import Prompt

SHORTEST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 1.0
MODEL_PAUSE_S = 0.1
"""Between two looks at a model that is loading."""

log = get_logger(__name__)


class Asking(Protocol):
    """What a question must know of its job at the moment when it is put."""

    @property
    def spec(self) -> JobSpec:
        """The job as it is wished now."""
        ...

    @property
    def model(self) -> ModelInfo:
        """The model that it asks."""
        ...

    @property
    def waits(self) -> bool:
        """Whether no question may be dropped."""
        ...


class Asker:
    """Asks for one job.

    Args:
        job: Read anew at each question, so that a change takes hold at the next one.
        engine: Answers.
        library: Gives the prompt.
        hub: Is told pieces of an answer that is still being spoken.
        clock: Tells the time.

    Attributes:
        trouble: What was wrong with the last question, if it failed or could not be put; None once one is answered.
    """

    def __init__(self, job: Asking, engine: Engine, library: PromptLibrary, hub: ResultHub, clock: Clock) -> None:
        self._job = job
        self._engine = engine
        self._library = library
        self._hub = hub
        self._clock = clock
        self._numbers = itertools.count(1)
        self.trouble: FreeroamError | None = None

    async def is_model_known(self) -> bool:
        """Return whether the model is loaded, so that its wishes are known; if it is not, after a short wait."""
        model = self._engine.describe(self._job.spec.model)
        if model.state in {ModelState.READY, ModelState.DEGRADED}:
            self.trouble = None
            return True
        if model.state is ModelState.FAILED:
            self.trouble = ModelNotReady(model.error or f"model {model.name} failed to load")
        await self._clock.sleep(MODEL_PAUSE_S)
        return False

    async def ask(self, question: Question) -> Answer:
        """Ask and return the answer: answered, failed for good, or dropped because the model takes no more.

        Raises:
            Draining: The service stops before the question was answered.
            InvalidInput: There is no prompt at all.
        """
        spec = self._job.spec
        prompt = self._library.resolve(spec.job_id)
        if prompt is None:
            raise InvalidInput(f"job {spec.job_id} has no prompt")
        request = self._request(spec, question, prompt)
        asked = Asked(question.clip, prompt, request.model)
        try:
            output = await self._put(request, question)
        except Draining:
            raise
        except Unavailable as error:
            self.trouble = error
            return Answer(question, None, dropped=error.code)
        except FreeroamError as error:
            return self._failed(asked, question, error)
        return self._answered(asked, question, output)

    def _request(self, spec: JobSpec, question: Question, prompt: Prompt) -> InferenceRequest:
        return InferenceRequest(
            request_id=f"{spec.job_id}/{next(self._numbers)}",
            model=spec.model or self._job.model.name,
            prompt=prompt.prompt,
            frames=question.clip.frames,
            params=spec.params,
            priority=Priority[spec.priority],
            lane=spec.job_id,
            waits_for_load=True,
        )

    async def _put(self, request: InferenceRequest, question: Question) -> Output:
        """Ask once, or again and again while the model takes no more and the job waits."""
        pause_s = SHORTEST_PAUSE_S
        while True:
            try:
                return await self._listen(request, question)
            except Draining:
                raise
            except Unavailable as error:
                if not self._job.waits:
                    raise
                self.trouble = error
            await self._clock.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _listen(self, request: InferenceRequest, question: Question) -> Output:
        """Return the output; while somebody listens to a model that speaks, pass its pieces on."""
        if not self._job.model.wishes.streams_text or not self._hub.is_heard(request.lane):
            return await self._engine.ask(request)
        async with aclosing(self._engine.stream(request)) as speech:  # type: ignore[type-var]
            async for item in speech:
                if not isinstance(item, Piece):
                    return item
                self._hub.publish_piece(request.lane, item, question.clip.frame_ids)
        raise ModelError(f"model {request.model} ended its answer without an output")

    def _answered(self, asked: Asked, question: Question, output: Output) -> Answer:
        timings_ms = self._timings_ms(question, output)
        try:
            body = answer_body(asked, output, timings_ms, self._clock.epoch_s())
        except (TypeError, ValueError) as error:
            return self._failed(asked, question, ModelError(f"the answer of {asked.model} cannot be stored: {error}"))
        self.trouble = None
        return Answer(question, body, output=output, timings_ms=timings_ms, prompt=asked.prompt)

    def _failed(self, asked: Asked, question: Question, error: FreeroamError) -> Answer:
        self.trouble = error
        log.warning("question_failed", job_id=self._job.spec.job_id, code=error.code, error=error.message)
        timings_ms = self._timings_ms(question, None)
        body = failure_body(asked, error, timings_ms, self._clock.epoch_s())
        return Answer(question, body, timings_ms=timings_ms, prompt=asked.prompt)

    def _timings_ms(self, question: Question, output: Output | None) -> dict[str, float]:
        """Return where the time went since the clip's last frame was due, in milliseconds."""
        frames = question.clip.frames
        due_s = frames[-1].due_monotonic_s
        wait_ms, model_ms = 0.0, 0.0
        if output is not None:
            began_s = output.started_monotonic_s
            wait_ms = (began_s - due_s) * 1000.0 if began_s else output.wait_ms
            model_ms = output.model_ms
        return {
            "decode": round(sum(frame.decode_ms for frame in frames), 3),
            "wait": round(max(0.0, wait_ms), 3),
            "model": round(model_ms, 3),
            "total": round(max(0.0, (self._clock.monotonic_s() - due_s) * 1000.0), 3),
        }
