"""From what a detector found in a picture to the answer of a question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from freeroam.models.base import Question
from freeroam.models.boxes import Picture
from freeroam.models.prompt_classes import Vocabulary
from freeroam.vocabulary.errors import InvalidInput, ModelError

Found = tuple[NDArray[np.float32], ...]
"""``(scores [n], classes [n], boxes [n, 4])`` of one picture, best first; boxes in its own pixels."""

NOTHING_WORDS = frozenset({"nothing", "none", "nothing found", "none of these", "none of them", "neither"})
"""A choice that is right when none of the others is seen."""
_SHOWN_NAMES = 12
_LEAST_THRESHOLD = 0.01


def answers_of(
    questions: Sequence[Question],
    detect: Callable[[list[Picture], float], Sequence[Found]],
    vocabulary: Vocabulary,
    threshold: float,
) -> list[dict[str, Any] | Exception]:
    """Return the answers of several questions, each about its newest frame.

    Args:
        questions: What was asked.
        detect: Finds things in pictures; is told the least score that any of the questions wants.
        vocabulary: The detector's classes.
        threshold: Smallest score reported of a question that says none.
    """
    asked = [question for question in questions if question.frames]
    thresholds = [question.params.threshold for question in asked if question.params.threshold is not None]
    floor = max(_LEAST_THRESHOLD, min([threshold, *thresholds]))
    found = iter(detect([question.frames[-1] for question in asked], floor))
    return [
        answer_of(question, next(found) if question.frames else None, vocabulary, threshold) for question in questions
    ]


def answer_of(
    question: Question, found: Found | None, vocabulary: Vocabulary, threshold: float
) -> dict[str, Any] | Exception:
    """Return the answer, or the error of this question.

    The prompt chooses the classes that are reported. Where there are choices they do instead, and ``text`` is the
    choice whose most confident thing was seen.

    Args:
        question: What was asked.
        found: What its newest frame shows; None if it has no frame.
        vocabulary: The detector's classes.
        threshold: Smallest score reported unless the question says its own.
    """
    if found is None:
        return {"predictions": [], "text": "No picture was given.", "metadata": {"looked_at": None}}
    try:
        if question.params.choices:
            choices = _Choices(question.params.choices, vocabulary)
            predictions = _predictions(question, found, vocabulary, choices.classes, threshold)
            text = choices.pick(predictions)
        else:
            wanted = vocabulary.read(question.prompt)
            predictions = _predictions(question, found, vocabulary, wanted.classes, threshold)
            text = vocabulary.sentence([str(prediction["label"]) for prediction in predictions], wanted)
    except (InvalidInput, ModelError) as error:
        return error
    return {"predictions": predictions, "text": text, "metadata": {"looked_at": len(question.frames) - 1}}


def _predictions(
    question: Question, found: Found, vocabulary: Vocabulary, classes: frozenset[int], threshold: float
) -> list[dict[str, Any]]:
    scores, kinds, boxes = found
    least = threshold if question.params.threshold is None else question.params.threshold
    return [
        {"label": vocabulary.names[int(kind)], "confidence": round(float(score), 4), "bbox": box}
        for score, kind, box in zip(scores, kinds, boxes.astype(np.float64).round(1).tolist(), strict=True)
        if score >= least and int(kind) in classes
    ]


class _Choices:
    """The choices of a question, as a detector understands them: each names a class, or says that there is none.

    Args:
        choices: What the answer may be.
        vocabulary: The detector's classes.

    Raises:
        InvalidInput: One of them is nothing that a detector can see.
    """

    def __init__(self, choices: list[str], vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._meant: list[tuple[str, frozenset[int]]] = []
        self._nothing: str | None = None
        for choice in choices:
            classes = vocabulary.classes_named(choice)
            if classes:
                self._meant.append((choice, classes))
            elif choice.strip().lower() in NOTHING_WORDS:
                self._nothing = choice
            else:
                shown = ", ".join(
                    [*vocabulary.names[:_SHOWN_NAMES], *(["..."] * (len(vocabulary.names) > _SHOWN_NAMES))]
                )
                raise InvalidInput(
                    f"a detector cannot answer {choice!r}: each of the choices must name something it knows ({shown}), "
                    "or be 'nothing'; for other choices ask a language model"
                )
        self.classes = frozenset().union(*(classes for _, classes in self._meant))

    def pick(self, predictions: list[dict[str, Any]]) -> str:
        """Return the choice that the most confident prediction makes.

        Raises:
            ModelError: There is no prediction, and no choice says so (``no_choice``).
        """
        for prediction in predictions:
            for choice, classes in self._meant:
                if any(self._vocabulary.names[number] == prediction["label"] for number in classes):
                    return choice
        if self._nothing is None:
            raise ModelError(
                "the detector saw none of the choices; add 'nothing' to them, or ask with a smaller threshold",
                code="no_choice",
            )
        return self._nothing
