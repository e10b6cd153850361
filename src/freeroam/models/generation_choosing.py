"""Which of several choices a language model finds likeliest, by its own scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from freeroam.vocabulary.errors import InvalidInput, ModelError


class Scoring(Protocol):
    """What can say how likely a model finds ways to go on from a prompt; ``AnswerStates`` is one."""

    def score(self, key: int, ways: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Return the scores ``[len(way) - 1, vocabulary]`` after every token but the last of each way to go on."""
        ...


@dataclass(frozen=True, slots=True)
class Way:
    """One way to spell a choice: with or without a space before it.

    Attributes:
        choice: What is answered.
        tokens: How the model would say it.
    """

    choice: str
    tokens: tuple[int, ...]


def ways_of(tokenizer: Any, choices: Sequence[str]) -> list[Way]:
    """Return all ways to spell the choices.

    Raises:
        InvalidInput: One is empty, or nothing to this model.
    """
    ways = []
    for choice in dict.fromkeys(choices):
        spellings = {
            tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (choice, f" {choice}") if choice
        } - {()}
        if not spellings:
            raise InvalidInput(f"choices: {choice!r} has no token that the model could say")
        ways += [Way(choice, spelling) for spelling in sorted(spellings)]
    return ways


def decide(
    states: Scoring, key: int, scores: torch.Tensor, ways: Sequence[Way], ends: Sequence[int]
) -> tuple[str, int, dict[str, float]]:
    """Return the choice, its tokens, and the share of each choice.

    A choice counts by the mean log probability of its tokens, so that a long one is not worse for being long; in a
    conversation the end of the answer is one of them, so that one that begins another is not better for being short.

    Args:
        states: Of the model.
        key: The answer, its prompt read.
        scores: ``[vocabulary]`` of the first token.
        ways: How the choices are spelled.
        ends: Tokens that end an answer; none leaves the end out.
    """
    # What stands in for the end is never looked at: only what comes before it is put through the model.
    following = states.score(key, [[*way.tokens, 0] if ends else way.tokens for way in ways])
    means: dict[str, float] = {}
    first = scores.double().log_softmax(dim=-1)
    for way, later in zip(ways, following, strict=True):
        said = [first[way.tokens[0]]]
        if len(later):
            after = later.double().log_softmax(dim=-1)
            said += [after[place, token] for place, token in enumerate(way.tokens[1:])]
            if ends:
                said.append(after[-1, list(ends)].logsumexp(dim=-1))
        mean = float(torch.stack(said).mean())
        means[way.choice] = max(mean, means.get(way.choice, -torch.inf))
    shares = torch.tensor(list(means.values()), dtype=torch.float64).softmax(dim=-1)
    if not bool(torch.isfinite(shares).all()):
        raise ModelError("the model's scores of the choices are no numbers; its weights may be broken")
    best = list(means)[int(shares.argmax())]
    tokens = min(len(way.tokens) for way in ways if way.choice == best)
    return best, tokens, dict(zip(means, shares.tolist(), strict=True))
