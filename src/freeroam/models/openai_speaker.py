"""Answers of a far server, several at once: each is a task, and a step is a moment of the loop they share."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from freeroam.models.base import Question, Said, Speaker

STEP_S = 0.02
LEAVE_S = 1.0

Ask = Callable[[Question, Callable[[str], None]], Coroutine[Any, Any, dict[str, Any]]]


@dataclass(slots=True)
class _Speech:
    """One answer on its way; ``texts`` holds what came since the last step."""

    task: asyncio.Task[None] | None = None
    texts: list[str] = field(default_factory=list)
    answer: dict[str, Any] | Exception | None = None


class RemoteSpeaker(Speaker):
    """Puts questions to a server, any number at a time.

    Args:
        ask: Asks one question and says its text as it comes.
        loop: Where the connections live; it runs only during ``step`` and ``leave``.
    """

    def __init__(self, ask: Ask, loop: asyncio.AbstractEventLoop) -> None:
        self._ask = ask
        self._loop = loop
        self._speeches: dict[int, _Speech] = {}
        self._changed = asyncio.Event()

    def join(self, key: int, question: Question) -> None:
        """Begin to ask."""
        speech = self._speeches[key] = _Speech()
        speech.task = self._loop.create_task(self._speak(speech, question), name=f"answer-{key}")

    def leave(self, key: int) -> None:
        """Stop asking; the connection of this question is closed when this returns, so that the server stops too."""
        speech = self._speeches.pop(key, None)
        if speech is not None and speech.task is not None and not speech.task.done():
            speech.task.cancel()
            self._loop.run_until_complete(asyncio.wait({speech.task}, timeout=LEAVE_S))

    def step(self) -> list[Said]:
        """Return what has come; wait for something for 20 ms at most."""
        self._loop.run_until_complete(self._wait())
        said = []
        for key, speech in list(self._speeches.items()):
            if speech.texts or speech.answer is not None:
                said.append(Said(key, tuple(speech.texts), speech.answer))
                speech.texts = []
            if speech.answer is not None:
                del self._speeches[key]
        return said

    async def _wait(self) -> None:
        if not any(speech.texts or speech.answer is not None for speech in self._speeches.values()):
            self._changed.clear()
            await asyncio.wait({waiting := asyncio.ensure_future(self._changed.wait())}, timeout=STEP_S)
            waiting.cancel()

    async def _speak(self, speech: _Speech, question: Question) -> None:
        def say(text: str) -> None:
            speech.texts.append(text)
            self._changed.set()

        try:
            speech.answer = await self._ask(question, say)
        except Exception as error:  # it costs this question only
            speech.answer = error
        self._changed.set()
