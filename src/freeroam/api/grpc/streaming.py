"""``ModelStreamInfer``: many questions on one stream, answered side by side, each piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

from freeroam.api.grpc import inference_pb2 as wire
from freeroam.api.grpc.messages import decode, read_request, sayable, write_response
from freeroam.api.grpc.passage import Passage, ReaderIsStuckError, Visit
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


class InferStream:
    """One stream.

    Args:
        visit: The call.
        passage: Charges for each question.
        parts: The engine and what counts.
        config: The limits.
    """

    def __init__(self, visit: Visit, passage: Passage, parts: Parts, config: ApiConfig) -> None:
        self._visit = visit
        self._passage = passage
        self._parts = parts
        self._config = config
        self._writing = asyncio.Lock()
        self._unsent: asyncio.Future[Any] | None = None
        self._places = asyncio.Semaphore(MAX_SIDE_BY_SIDE)
        self._answers: set[asyncio.Task[None]] = set()
        self._stuck: asyncio.Future[ReaderIsStuckError] = asyncio.get_running_loop().create_future()

    async def run(self, requests: AsyncIterator[bytes]) -> None:
        """Answer until the client has asked all it wants to ask, goes away or is stuck, or the service stops.

        Raises:
            Draining: The service stops; what had been asked was answered.
            ReaderIsStuckError: The client drains nothing.
        """
        reading = asyncio.create_task(self._read(requests))
        stopping = asyncio.create_task(self._parts.lifecycle.drain_began.wait())
        try:
            events: set[asyncio.Future[Any]] = {reading, stopping, self._stuck}
            await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
            while self._answers and not self._stuck.done():
                events = {*self._answers, self._stuck}
                await asyncio.wait(events, return_when=asyncio.FIRST_COMPLETED)
            if self._stuck.done():
                raise self._stuck.result()
            if not reading.done():
                raise Draining("The service is stopping; open the stream where it goes on", retry_after_s=5.0)
            reading.result()
        finally:
            tasks = [reading, stopping, *self._answers]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self._unsent is not None and not self._stuck.done():
                self._unsent.cancel()
            self._stuck.cancel()

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        async for data in requests:
            await self._places.acquire()
            task = asyncio.create_task(self._answer(data))
            self._answers.add(task)
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._answers.discard(task)
        self._places.release()
        if not task.cancelled():
            task.exception()

    async def _answer(self, data: bytes) -> None:
        """Answer one question; its failure is told on the stream, which goes on."""
        request = wire.ModelInferRequest()
        try:
            request = decode(wire.ModelInferRequest, data)
            self._passage.charge(self._visit)
            await self._speak(request)
        except ReaderIsStuckError:
            return  # the whole stream ends
        except FreeroamError as error:
            await self._tell_failure(request, error)
        except Exception:
            log.exception("stream_failed", request_id=self._visit.request_id)
            message = f"Internal error; the log has it under the request id {self._visit.request_id}"
            await self._tell_failure(request, FreeroamError(message))

    async def _speak(self, request: wire.ModelInferRequest) -> None:
        tensors, parameters, outputs = read_request(request)
        reference = reference_of(request.model_name, request.model_version)
        question = read_question(reference, tensors, parameters, outputs, self._config)
        arrival = self._visit.arrival(question.timeout_s, is_streamed=True)
        call = open_call(question.wish, arrival, self._parts, self._config, is_streamed=True)
        calls, gauge = self._parts.calls, self._parts.metrics.streams_active
        try:
            async with asyncio.timeout(self._config.request_timeout_s) as until_first, call:
                calls.streams += 1
                gauge.inc()
                try:
                    await self._give(call, question, request, until_first)
                finally:
                    calls.streams -= 1
                    gauge.dec()
        except TimeoutError:
            raise DeadlineExceeded(f"No answer within {self._config.request_timeout_s:g} s (REQUEST_TIMEOUT)") from None

    async def _give(
        self,
        call: InferenceCall,
        question: TensorQuestion,
        request: wire.ModelInferRequest,
        until_first: asyncio.Timeout,
    ) -> None:
        await call.bring(question.images)
        async with aclosing(call.items()) as items:
            async for item in items:
                until_first.reschedule(None)
                if isinstance(item, Piece):
                    response = _of_piece(request, item)
                else:
                    response = _of_output(request, item, question.outputs, call.usage()["completion_tokens"])
                await self._write(wire.ModelStreamInferResponse(infer_response=response))

    async def _tell_failure(self, request: wire.ModelInferRequest, error: FreeroamError) -> None:
        response = write_response(request, (), {FINAL: True, "error_code": error.code}, request.model_name, "")
        message = sayable(redact_text(error.message))
        with suppress(ReaderIsStuckError):
            await self._write(wire.ModelStreamInferResponse(error_message=message, infer_response=response))

    async def _write(self, message: wire.ModelStreamInferResponse) -> None:
        """Write one message.

        Raises:
            ReaderIsStuckError: The client drained nothing for ``STREAM_IDLE_TIMEOUT``.
        """
        async with self._writing:
            await self._flush()
            self._unsent = asyncio.ensure_future(self._visit.context.write(message))
            await self._flush()

    async def _flush(self) -> None:
        """Wait until the message that was written last is taken; also one whose writer was cancelled meanwhile."""
        if self._stuck.done():
            raise self._stuck.result()
        if self._unsent is None:
            return
        await asyncio.wait({self._unsent}, timeout=self._config.stream_idle_timeout_s)
        if not self._unsent.done():
            self._parts.metrics.slow_clients.labels("dropped").inc()
            self._stuck.set_result(ReaderIsStuckError(self._unsent))
            raise self._stuck.result()
        sent, self._unsent = self._unsent, None
        sent.result()


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
