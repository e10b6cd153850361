"""Which token comes next: the likeliest, or one drawn by a generator of the answer's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import torch

from freeroam.vocabulary.inference import InferenceParams


@dataclass(slots=True)
class Taste:
    """How the tokens of one answer are chosen.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: Only the likeliest tokens that together have this mass are drawn from.
        random: Of this answer alone, so that a seed gives the same text whoever speaks beside it.
        repetition_penalty: Divides the scores of what was said or asked already, as its author wishes; 1 is none.
        seen: Tokens that the penalty is for.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    random: Random = field(default_factory=Random)
    repetition_penalty: float = 1.0
    seen: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, params: InferenceParams, repetition_penalty: float = 1.0, asked: Sequence[int] = ()) -> Taste:
        """Return what a question asked for; no temperature is greedy.

        Args:
            params: Of the question.
            repetition_penalty: Of the model.
            asked: Tokens of the prompt.
        """
        return cls(
            temperature=params.temperature or 0.0,
            top_p=params.top_p or 1.0,
            random=Random(params.seed),  # noqa: S311 - it guards no secret
            repetition_penalty=repetition_penalty,
            seen=set(asked) if repetition_penalty != 1.0 else set(),
        )


def choose(logits: torch.Tensor, tastes: Sequence[Taste]) -> list[int]:
    """Return the next token of each row.

    A drawn token is the one in whose share of the mass a number of the row's own generator falls, the tokens standing
    in the order of the vocabulary: sorted by likelihood, two that are nearly equal would change places with the
    rounding errors of another batch.

    Args:
        logits: ``[rows, vocabulary]``, any float.
        tastes: One a row.
    """
    logits = _with_penalties(logits.float(), tastes)
    tokens: list[int] = logits.argmax(dim=-1).tolist()
    drawn = [row for row, taste in enumerate(tastes) if taste.temperature > 0.0]
    if drawn:
        for row, token in zip(drawn, _draw(logits[drawn], [tastes[row] for row in drawn]), strict=True):
            tokens[row] = token
    for token, taste in zip(tokens, tastes, strict=True):
        if taste.repetition_penalty != 1.0:
            taste.seen.add(token)
    return tokens


def _draw(logits: torch.Tensor, tastes: Sequence[Taste]) -> list[int]:
    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64, device=logits.device)[:, None]

    mass = (logits.double() / column([taste.temperature for taste in tastes])).softmax(dim=-1)
    top_p = column([taste.top_p for taste in tastes])
    if any(taste.top_p < 1.0 for taste in tastes):
        falling, order = mass.sort(dim=-1, descending=True, stable=True)
        is_out = (falling.cumsum(dim=-1) - falling) >= top_p
        mass = mass.masked_fill(is_out.scatter(-1, order, is_out) & (top_p < 1.0), 0.0)
    reached = mass.cumsum(dim=-1)
    number = column([taste.random.random() for taste in tastes]) * reached[:, -1:]
    place = torch.searchsorted(reached, number, right=True)
    # A number so close to the whole mass that it rounds to it falls into the share of the last token that has one.
    last = mass.shape[-1] - 1 - (mass > 0.0).flip(-1).int().argmax(dim=-1, keepdim=True)
    tokens: list[int] = torch.minimum(place, last)[:, 0].tolist()
    return tokens


def _with_penalties(logits: torch.Tensor, tastes: Sequence[Taste]) -> torch.Tensor:
    """Apply the repetition penalty of arXiv:1909.05858 as ``generate`` of transformers does, by sign of the score."""
    for row, taste in enumerate(tastes):
        if taste.repetition_penalty != 1.0 and taste.seen:
            places = torch.tensor(sorted(taste.seen), device=logits.device)
            scores = logits[row, places]
            penalty = taste.repetition_penalty
            logits[row, places] = torch.where(scores < 0, scores * penalty, scores / penalty)
    return logits
