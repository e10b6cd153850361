"""The questions of one job in flight: bounded, answered in any order, handed on in the order of their clips."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from freeroam.vocabulary.frame import Clip
from freeroam.vocabulary.inference import Output
from freeroam.vocabulary.prompt import Prompt

SUPERSEDED = "superseded"


@dataclass(frozen=True, slots=True)
class Question:
    """A clip that is to be asked about.

    Attributes:
        clip: Its frames.
        entry_key: Names what it answers, so that one entry never gets two results.
        cursor: How far the source is read with it; stored with its result.
    """

    clip: Clip
    entry_key: str
    cursor: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a question.

    Attributes:
        question: The question.
        body: The result's JSON without its number; None if the question was dropped.
        dropped: Why it was dropped; None if it was answered, or failed for good.
        output: What the model said; None if it failed or was dropped.
        timings_ms: ``decode``, ``wait``, ``model``, ``total``.
        prompt: What it was asked with.
    """

    question: Question
    body: bytes | None
    dropped: str | None = None
    output: Output | None = None
    timings_ms: dict[str, float] | None = None
    prompt: Prompt | None = None


class QuestionLine:
    """Questions between their clip and their committed result.

    A question holds its place until its result is stored, so neither a slow model nor a slow database lets the line
    grow. What waits for a place waits here, so that no job fills the model's queue with it.

    Args:
        ask: Puts one question; called in a task of its own.
        tasks: Owns those tasks.
        drop: Counts frames that are not asked about, with the reason.
    """

    def __init__(
        self,
        ask: Callable[[Question], Coroutine[Any, Any, Answer]],
        tasks: asyncio.TaskGroup,
        drop: Callable[[str, int], None],
    ) -> None:
        self._ask = ask
        self._tasks = tasks
        self._drop = drop
        self._line: deque[asyncio.Task[Answer]] = deque()
        self._waiting: deque[Question] = deque()
        self._changed = asyncio.Event()
        self._is_closed = False
        self._frames_started = 0
        self.last: Question | None = None

    @property
    def frames_asked(self) -> int:
        """How many frames were asked about, those of questions that wait included."""
        return self._frames_started + sum(len(question.clip.frames) for question in self._waiting)

    async def put(self, question: Question, *, limit: int, waits: bool, room_bytes: int = 0) -> None:
        """Ask as soon as fewer than ``limit`` questions are in flight.

        Args:
            question: What is asked.
            limit: Questions in flight at most.
            waits: True waits for a place. False returns at once: the question waits in place of older ones, which are
                counted as ``superseded``.
            room_bytes: Older ones go on waiting as long as their pixels take no more than this.
        """
        while waits and (self._waiting or len(self._line) >= limit):
            self._changed.clear()
            await self._changed.wait()
        if not self._waiting and len(self._line) < limit:
            self._start(question)
            return
        older_bytes = sum(waiting.clip.size_bytes for waiting in self._waiting)
        while older_bytes > room_bytes:
            older_bytes -= self._waiting[0].clip.size_bytes
            self._supersede_oldest()
        self._waiting.append(question)

    def close(self, *, asks_waiting: bool) -> None:
        """Take no more questions; ``answers`` ends with the last one.

        Args:
            asks_waiting: Whether questions that wait are still asked, or counted as ``superseded``.
        """
        while self._waiting and not asks_waiting:
            self._supersede_oldest()
        self._is_closed = True
        self._changed.set()

    async def answers(self) -> AsyncGenerator[Answer, None]:
        """Give the answers in the order of the questions; a place is free again when the next one is asked for."""
        while True:
            if self._line:
                yield await self._line[0]
                self._line.popleft()
                if self._waiting:
                    self._start(self._waiting.popleft())
                self._changed.set()
            elif self._is_closed:
                return
            else:
                self._changed.clear()
                await self._changed.wait()

    def _supersede_oldest(self) -> None:
        self._drop(SUPERSEDED, len(self._waiting.popleft().clip.frames))

    def _start(self, question: Question) -> None:
        self._line.append(self._tasks.create_task(self._ask(question)))
        self._frames_started += len(question.clip.frames)
        self.last = question
        self._changed.set()
