"""The speaker of a model that only has a generator an answer: one token of each in every step."""

from __future__ import annotations

import traceback
from collections.abc import Generator
from typing import Any

from freeroam.models.base import BaseVLM, Question, Said, Speaker


class TurnTaking(Speaker):
    """Takes turns among the generators of ``speak``.

    Args:
        model: Whose.
    """

    def __init__(self, model: BaseVLM) -> None:
        self._model = model
        self._speeches: dict[int, Generator[str, None, Any]] = {}

    def join(self, key: int, question: Question) -> None:
        """Begin an answer."""
        self._speeches[key] = self._tokens(question)

    def leave(self, key: int) -> None:
        """Close the generator of an answer."""
        speech = self._speeches.pop(key, None)
        if speech is not None:
            speech.close()

    def step(self) -> list[Said]:
        """Take the next token of every answer."""
        return [self._move_on(key, speech) for key, speech in list(self._speeches.items())]

    def _tokens(self, question: Question) -> Generator[str, None, Any]:
        """Wrap the model's generator, so that the call which makes it fails this question alone too."""
        return (yield from self._model.speak(question))

    def _move_on(self, key: int, speech: Generator[str, None, Any]) -> Said:
        try:
            return Said(key, (str(next(speech)),))
        except StopIteration as end:
            answer: dict[str, Any] | Exception = dict(end.value) if isinstance(end.value, dict) else {}
        except Exception as error:  # a user's model may raise anything; it costs its own question only
            traceback.print_exc()
            answer = error
        del self._speeches[key]
        return Said(key, (), answer)
