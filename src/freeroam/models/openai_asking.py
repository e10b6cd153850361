"""Asks one question of a server of the OpenAI API: again after what passes, in other words after a refusal of them."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from freeroam.models.base import Question
from freeroam.models.openai_answer import Reply
from freeroam.models.openai_connection import Connection
from freeroam.models.openai_failures import UpstreamCode, UpstreamError
from freeroam.models.openai_question import LENGTH_FIELDS, Dialect, body_of, data_urls, is_length_refused
from freeroam.models.vlm_boxes import View, read_boxes

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 8.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an answer is waited for.

    Attributes:
        timeout_s: Longest wait for the next piece of an answer, the first included.
        answer_timeout_s: Longest time for a whole answer, pauses included.
        retries: How often a question is asked again.
        longest_retry_after_s: Longest pause that a server may ask for.
    """

    timeout_s: float = 60.0
    answer_timeout_s: float = 600.0
    retries: int = 3
    longest_retry_after_s: float = 30.0


class Asker:
    """Asks questions of one model at one server; any number at a time.

    Args:
        connection: To the server.
        model: The model's name there.
        dialect: What the server understands.
        patience: How long is waited.
        detail: Of pictures; empty says nothing.
        box_scale: What the numbers of a box mean in the model's text, see ``vlm_boxes.View``.
        extra: Further fields of every question; a greatest length among them holds for every answer.
    """

    def __init__(
        self,
        connection: Connection,
        model: str,
        dialect: Dialect,
        patience: Patience,
        *,
        detail: str = "",
        box_scale: str = "one",
        extra: dict[str, Any] | None = None,
    ) -> None:
        self._connection = connection
        self._model = model
        self._dialect = dialect
        self._patience = patience
        self._detail = detail
        self._box_scale = box_scale
        self._extra = {name: value for name, value in (extra or {}).items() if name not in LENGTH_FIELDS}
        self._max_tokens = min((extra[name] for name in LENGTH_FIELDS if extra and name in extra), default=None)
        self.heard_s = 0.0
        """When the server last said something, monotonic."""

    async def ask(self, question: Question, say: Callable[[str], None]) -> dict[str, Any]:
        """Return the answer, having given its text to ``say`` as it came.

        Raises:
            UpstreamError: The server did not answer.
            ModelError: The answer makes none of the choices.
            MissingExtra: There are pictures and no Pillow to pack them.
        """
        limit_s = self._patience.answer_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                # Packing takes some milliseconds a picture, which answers that are being spoken do not wait for.
                pictures = await asyncio.to_thread(data_urls, question.frames) if question.frames else []
                answer = await self._ask(question, pictures, say)
                answer["predictions"] = read_boxes(answer["text"], question.prompt, self._view(question))
                return answer
        except TimeoutError:
            raise UpstreamError(
                UpstreamCode.TIMEOUT,
                f"{self._connection.address} had not finished an answer after {limit_s:g} s; set max_tokens, or raise "
                "the option answer_timeout_s",
            ) from None

    async def _ask(self, question: Question, pictures: list[str], say: Callable[[str], None]) -> dict[str, Any]:
        tries = itertools.count(1)
        attempt = next(tries)
        most: int | None = min(question.most_tokens(), self._max_tokens or question.ceiling)
        while True:
            wording = self._dialect.wording
            body = body_of(self._model, question, pictures, wording, self._detail, most) | self._extra
            reply = Reply(question.params, self._connection.address)
            is_said = False

            def pass_on(text: str) -> None:
                nonlocal is_said
                is_said = True
                say(text)

            try:
                return await self._listen(reply, body, pass_on)
            except UpstreamError as failure:
                if is_said:
                    raise
                if self._dialect.learn(failure, wording, body):
                    continue
                if most == question.ceiling and question.params.max_tokens is None and is_length_refused(failure):
                    # Nobody asked for as much, and a server that has no room for it gives a shorter answer anyway.
                    most = None
                    continue
                pause_s = self._pause_s(failure, attempt)
                if pause_s is None:
                    raise
            attempt = next(tries)
            await asyncio.sleep(pause_s)

    async def _listen(self, reply: Reply, body: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any]:
        async with aclosing(self._connection.answer(body)) as chunks:
            while (chunk := await self._next(chunks)) is not None:
                self.heard_s = time.monotonic()
                if text := reply.take(chunk):
                    say(text)
                if reply.is_over:
                    break
        if not reply.has_ended:
            raise UpstreamError(
                UpstreamCode.FAILED,
                f"{self._connection.address} broke off before the end of its answer; look into that server's log",
                passes=True,
            )
        last, answer = reply.end()
        if last:
            say(last)
        return answer

    async def _next(self, chunks: AsyncIterator[dict[str, Any]]) -> dict[str, Any] | None:
        """Return the next chunk, None at the end; silence is counted in chunks, so dripping bytes are silence too."""
        limit_s = self._patience.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await anext(chunks, None)
        except TimeoutError:
            raise UpstreamError(
                UpstreamCode.TIMEOUT,
                f"{self._connection.address} said nothing for {limit_s:g} s; raise the option timeout_s if it may "
                "think that long",
            ) from None

    def _view(self, question: Question) -> View | None:
        """Return how the model sees the newest picture: whole, and in the size it was sent."""
        if not question.frames:
            return None
        high, wide = question.frames[-1].shape[:2]
        return View(wide, high, 0.0, 0.0, float(wide), float(high), (float(wide), float(high)), self._box_scale)

    def _pause_s(self, failure: UpstreamError, attempt: int) -> float | None:
        """Return how long to wait before the question is asked again, None if it is not."""
        if not failure.passes or attempt > self._patience.retries:
            return None
        if failure.retry_after_s is not None:
            if failure.retry_after_s > self._patience.longest_retry_after_s:
                return None
            return failure.retry_after_s + random.uniform(0.0, FIRST_PAUSE_S)  # noqa: S311 - no secret
        longest_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**attempt)
        return random.uniform(longest_s / 2.0, longest_s)  # noqa: S311 - no secret
