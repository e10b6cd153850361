"""What a model must be: ``BaseVLM``, and what a richer model may add to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from freeroam.vocabulary.inference import InferenceParams
from freeroam.vocabulary.model import ModelWishes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_TOKENS = 4096
"""Most tokens of an answer unless the operator says otherwise."""


class BaseVLM(ABC):
    """A vision-language model or detector, as a user writes one.

    Three methods make a working model. It lives in a process of its own, is called by one thread, and may block.
    A model that can do more overrides the methods below the three.
    """

    @abstractmethod
    async def initialize(self, model_path: str, device: str = "auto") -> None:
        """Load weights.

        Args:
            model_path: Folder, file or name from ``MODEL_PATH``; empty if none is set.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        """

    @abstractmethod
    async def predict(self, frames: list[NDArray[np.uint8]], prompt: str) -> dict[str, Any]:
        """Answer one question.

        Args:
            frames: uint8 arrays ``[h, w, 3]``, RGB, oldest first; may be empty when a client sends text only.
            prompt: The question.

        Returns:
            ``predictions`` (a list of ``{label, confidence, bbox}``), and optionally ``confidence``, ``text`` and
            ``metadata``.
        """

    @abstractmethod
    def get_model_info(self) -> dict[str, Any]:
        """Return at least ``model_type``; everything in it is shown in the API."""

    def get_wishes(self) -> ModelWishes:
        """Return what the model would like to be given; asked once, after ``initialize``."""
        return ModelWishes()

    async def warm_up(self) -> None:  # noqa: B027 - doing nothing is the right default
        """Run once before the model is called ready; a failure here is a failure to load."""

    async def predict_batch(self, questions: Sequence[Question]) -> list[dict[str, Any] | Exception]:
        """Answer several questions in one call, in order; an exception in the list fails its question alone.

        Never called with more than ``get_wishes().max_batch`` questions.
        """
        answers: list[dict[str, Any] | Exception] = []
        for question in questions:
            try:
                answers.append(await self.predict(list(question.frames), question.prompt))
            except Exception as error:  # a user's model may raise anything; it costs its own question only
                answers.append(error)
        return answers

    def speak(self, question: Question) -> Iterator[str]:  # noqa: ARG002 - named for those who override it
        """Yield the answer's text piece by piece; called only if ``get_wishes().streams_text``.

        The generator's return value may be a dictionary like that of ``predict``. One that goes on past
        ``question.most_tokens()`` pieces is closed, and its answer ends with ``length``.
        """
        raise TypeError(f"{type(self).__name__} says that it streams text but has no speak()")

    def open_speaker(self) -> Speaker:
        """Return what speaks several answers at once; called once, and only if ``get_wishes().streams_text``.

        The default takes turns among the generators of ``speak``; a model that can put many answers through one step
        (continuous batching) returns a speaker of its own.
        """
        from freeroam.models.speaking import TurnTaking

        return TurnTaking(self)

    async def check_health(self) -> None:  # noqa: B027 - doing nothing is the right default
        """Look whether the model still works, between two calls; raising marks its replica as degraded."""

    async def close(self) -> None:  # noqa: B027 - doing nothing is the right default
        """Free what was loaded."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question inside a batch.

    Attributes:
        frames: uint8 arrays ``[h, w, 3]``, RGB, oldest first, read-only; may be empty.
        prompt: The question's text.
        params: What the caller tuned.
        ceiling: Most tokens that any answer may have, whatever the caller or the model says (``MAX_TOKENS``).
    """

    frames: tuple[NDArray[np.uint8], ...]
    prompt: str
    params: InferenceParams
    ceiling: int = MAX_TOKENS

    def most_tokens(self, own: int | None = None) -> int:
        """Return how many tokens the answer may have; an answer that is cut there ends with ``length``.

        Args:
            own: The model's own bound of a question that says none; None if it has none.
        """
        return min(self.params.max_tokens or own or self.ceiling, self.ceiling)


@dataclass(frozen=True, slots=True)
class Said:
    """What one answer gained in one step.

    Attributes:
        key: The answer, as it was called when it joined.
        texts: One text a token, in order; an empty text is a token that shows nothing yet.
        answer: None while the answer goes on; at its end a dictionary like that of ``predict`` (``text`` and
            ``completion_tokens`` may be left out, they are what was said), or the exception that ended it.
    """

    key: int
    texts: tuple[str, ...] = ()
    answer: dict[str, Any] | Exception | None = None


class Speaker(ABC):
    """Speaks several answers at once; questions join and leave between two steps, and none waits for the longest.

    Called by one thread. The caller keeps to ``get_wishes().max_batch`` answers, and drops one that goes on past its
    question's ``most_tokens()``.
    """

    @abstractmethod
    def join(self, key: int, question: Question) -> None:
        """Begin an answer; its first token comes with one of the next steps. Raising fails this question alone."""

    @abstractmethod
    def leave(self, key: int) -> None:
        """Drop an answer that nobody waits for any more, and free what it holds before the next step."""

    @abstractmethod
    def step(self) -> Sequence[Said]:
        """Move on every answer that can be moved on; at most one entry a key.

        Called while there is an answer. A speaker that waits for something else than its own computing returns after
        20 ms at the latest, with an empty list if nothing came, so that joining and leaving are not held up. An
        exception fails every answer that is being spoken.
        """
