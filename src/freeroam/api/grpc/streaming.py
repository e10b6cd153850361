"""``ModelStreamInfer``: many questions on one stream, answered side by side, each piece by piece."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, aclosing, suppress
from dataclasses import replace
from typing import Any

from freeroam.api.call_ends import ReaderIsStuckError
from freeroam.api.grpc import inference_pb2 as wire
from freeroam.api.grpc.messages import decode, read_request, sayable, write_response
from freeroam.api.grpc.outlets import Outlet, next_message
from freeroam.api.grpc.passage import Passage, Visit
from freeroam.api.inference_calls import InferenceCall, open_call
from freeroam.api.oip.answers import FINAL, answer_tensors, parameters_of, piece_tensors
from freeroam.api.oip.descriptions import reference_of
from freeroam.api.oip.questions import TensorQuestion, read_question
from freeroam.api.parts import ApiConfig, Parts
from freeroam.observability.logs import get_logger
from freeroam.security.redaction import redact_text
from freeroam.vocabulary.errors import DeadlineExceeded, Draining, FreeroamError
from freeroam.vocabulary.inference import Output, Piece

MAX_SIDE_BY_SIDE = 32
"""Questions of one stream that are answered at once; the next is read when one is over."""

log = get_logger(__name__)


class Intake:
    """How much of the messages of one stream is in memory: those whose pictures are not taken out of them yet.

    Args:
        limit_bytes: One alone always fits, because its size has a bound of its own.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._has_changed = asyncio.Event()

    async def take(self, size_bytes: int) -> None:
        """Wait until there is room for a message, and take it."""
        while self._held_bytes and self._held_bytes + size_bytes > self._limit_bytes:
            self._has_changed.clear()
            await self._has_changed.wait()
        self._held_bytes += size_bytes

    def release(self, size_bytes: int) -> None:
        """Give room back."""
        self._held_bytes -= size_bytes
        self._has_changed.set()


class InferStream:
    """One stream.

    Args:
        visit: The call.
        outlet: Where answers go out.
        passage: Charges for each question.
        parts: The engine and what counts.
        config: The limits.
    """

    def __init__(self, visit: Visit, outlet: Outlet, passage: Passage, parts: Parts, config: ApiConfig) -> None:
        self._visit = visit
        self._outlet = outlet
        self._passage = passage
        self._parts = parts
        self._config = config
        self._intake = Intake(config.max_body_bytes)
        self._places = asyncio.Semaphore(MAX_SIDE_BY_SIDE)
        self._answers: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Answer until the client has asked all it wants to ask, goes away or is stuck, or the service stops.

        Raises:
            Draining: The service stops; what had been asked was answered.
            ReaderIsStuckError: The client drains nothing.
        """
        reading = asyncio.create_task(self._read())
        stopping = asyncio.create_task(self._parts.lifecycle.drain_began.wait())
        stuck = self._outlet.stuck
        try:
            events: set[asyncio.Future[Any]] = {reading, stopping, stuck}
            await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
            while self._answers and not stuck.done():
                events = {*self._answers, stuck}
                await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
            if stuck.done():
                raise ReaderIsStuckError
            if not reading.done():
                raise Draining("The service is stopping; open the stream where it goes on", retry_after_s=5.0)
            reading.result()
        finally:
            tasks = [reading, stopping, *self._answers]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        while (data := await next_message(self._visit.context)) is not None:
            await self._intake.take(len(data))
            await self._places.acquire()
            task = asyncio.create_task(self._answer(data))
            self._answers.add(task)
            task.add_done_callback(self._forget)
            del data  # else it would stay until the next one comes

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._answers.discard(task)
        self._places.release()
        if not task.cancelled():
            task.exception()

    async def _answer(self, data: bytes) -> None:
        """Answer one question; its failure is told on the stream, which goes on."""
        envelope = wire.ModelInferRequest()
        call: InferenceCall | None = None
        with ExitStack() as held:
            held.callback(self._intake.release, len(data))
            try:
                request = decode(wire.ModelInferRequest, data)
                del data
                # What is told of a request is small; the request itself is not kept.
                envelope = wire.ModelInferRequest(
                    id=request.id, model_name=request.model_name, model_version=request.model_version
                )
                self._passage.charge(self._visit)
                question = self._question_of(request)
                del request
                arrival = self._visit.arrival(question.timeout_s, is_streamed=True)
                call = open_call(question.wish, arrival, self._parts, self._config, is_streamed=True)
                await self._speak(envelope, call, question, held)
            except ReaderIsStuckError:
                return  # the whole stream ends
            except FreeroamError as error:
                if call is None or not call.tokens:
                    self._parts.metrics.count_refusal(error)
                await self._tell_failure(envelope, error)
            except Exception:
                log.exception("stream_failed", request_id=self._visit.request_id)
                message = f"Internal error; the log has it under the request id {self._visit.request_id}"
                await self._tell_failure(envelope, FreeroamError(message))

    def _question_of(self, request: wire.ModelInferRequest) -> TensorQuestion:
        tensors, parameters, outputs = read_request(request)
        reference = reference_of(request.model_name, request.model_version)
        return read_question(reference, tensors, parameters, outputs, self._config)

    async def _speak(
        self, envelope: wire.ModelInferRequest, call: InferenceCall, question: TensorQuestion, held: ExitStack
    ) -> None:
        calls, gauge = self._parts.calls, self._parts.metrics.streams_active
        try:
            async with asyncio.timeout(self._config.request_timeout_s) as until_first, call:
                calls.streams += 1
                gauge.inc()
                try:
                    await call.bring(question.images)
                    question = replace(question, images=())
                    held.close()
                    await self._give(call, question.outputs, envelope, until_first)
                finally:
                    calls.streams -= 1
                    gauge.dec()
        except TimeoutError:
            raise DeadlineExceeded(f"No answer within {self._config.request_timeout_s:g} s (REQUEST_TIMEOUT)") from None

    async def _give(
        self,
        call: InferenceCall,
        outputs: tuple[str, ...],
        envelope: wire.ModelInferRequest,
        until_first: asyncio.Timeout,
    ) -> None:
        async with aclosing(call.items()) as items:
            async for item in items:
                until_first.reschedule(None)
                if isinstance(item, Piece):
                    response = _of_piece(envelope, item)
                else:
                    response = _of_output(envelope, item, outputs, call.usage()["completion_tokens"])
                await self._outlet.write(wire.ModelStreamInferResponse(infer_response=response))

    async def _tell_failure(self, request: wire.ModelInferRequest, error: FreeroamError) -> None:
        response = write_response(request, (), {FINAL: True, "error_code": error.code}, request.model_name, "")
        message = sayable(redact_text(error.message))
        with suppress(ReaderIsStuckError):
            await self._outlet.write(wire.ModelStreamInferResponse(error_message=message, infer_response=response))


def _of_piece(request: wire.ModelInferRequest, piece: Piece) -> wire.ModelInferResponse:
    told: dict[str, Any] = {FINAL: False, "index": piece.index, "count": piece.count}
    return write_response(request, piece_tensors(piece), told, request.model_name, request.model_version)


def _of_output(
    request: wire.ModelInferRequest, output: Output, wanted: tuple[str, ...], completion_tokens: int
) -> wire.ModelInferResponse:
    """Return the last response: what was seen and how it ended; its text is empty, because all of it has been given."""
    told = {**parameters_of(output), "completion_tokens": completion_tokens, FINAL: True}
    answered = answer_tensors(output, wanted, is_text_given=True)
    return write_response(request, answered, told, output.model, output.version)
