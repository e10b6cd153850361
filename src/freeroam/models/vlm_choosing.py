"""The next token of every answer, and the choice that a model finds likeliest."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import torch

from freeroam.models.vlm_batch import Begun, Network
from freeroam.vocabulary.errors import ModelError
from freeroam.vocabulary.inference import InferenceParams

_SCORED_TOKENS = 16_384
"""Most tokens of keys and values that are laid side by side to score choices."""


@dataclass(frozen=True, slots=True)
class Taste:
    """How one answer's tokens are chosen.

    Attributes:
        temperature: 0 takes the likeliest.
        top_p: Only the likeliest tokens that together have this mass are drawn from.
        random: Of this answer alone, so that a seed gives the same answer whoever speaks beside it.
    """

    temperature: float
    top_p: float
    random: Random

    @classmethod
    def of(cls, params: InferenceParams) -> Taste:
        """Return what a question asked for; nothing said is greedy."""
        return cls(params.temperature or 0.0, params.top_p or 1.0, Random(params.seed))  # noqa: S311 - no secret


def choose(logits: torch.Tensor, tastes: Sequence[Taste]) -> torch.Tensor:
    """Return the next token of each row, ``[rows]``.

    Drawn ones are found by one number a row from that row's own generator in the sorted, cut and summed distribution.

    Args:
        logits: ``[rows, vocabulary]``, float32.
        tastes: One a row.
    """
    tokens = logits.argmax(dim=-1)
    drawn = [row for row, taste in enumerate(tastes) if taste.temperature > 0.0]
    if not drawn:
        return tokens

    def column(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=logits.device)[:, None]

    temperature = column([tastes[row].temperature for row in drawn])
    most = column([tastes[row].top_p for row in drawn])
    number = column([tastes[row].random.random() for row in drawn])
    scores, order = (logits[drawn] / temperature).sort(dim=-1, descending=True)
    mass = scores.softmax(dim=-1)
    before = mass.cumsum(dim=-1) - mass
    mass = mass.masked_fill(before >= most, 0.0)
    reached = mass.cumsum(dim=-1)
    place = (reached <= number * reached[:, -1:]).sum(dim=-1, keepdim=True)
    last = (mass > 0.0).sum(dim=-1, keepdim=True) - 1
    tokens[drawn] = order.gather(-1, torch.minimum(place, last))[:, 0]
    return tokens


class Judge:
    """Scores choices by the model's own probabilities.

    A choice's score is the probability that the model says it and then ends, written with or without a space before it;
    so a choice that begins another one is no likelier for being short.

    Args:
        network: The model.
        tokenizer: Its tokenizer.
        ends: Tokens that end an answer.
    """

    def __init__(self, network: Network, tokenizer: Any, ends: Sequence[int]) -> None:
        self._network = network
        self._tokenizer = tokenizer
        self._ends = sorted(ends)

    def decide(self, begun: Begun, choices: Sequence[str]) -> dict[str, Any]:
        """Return the answer of a question with choices.

        Args:
            begun: The question's prompt, alone.
            choices: What may be answered.
        """
        spellings: list[tuple[int, list[int]]] = []
        for number, choice in enumerate(choices):
            ways = {tuple(self._tokens(text)) for text in (choice, f" {choice}")}
            spellings += [(number, list(way)) for way in sorted(ways) if way]
        scores = [-torch.inf] * len(choices)
        for (number, _), score in zip(spellings, self._scores(begun, [way for _, way in spellings]), strict=True):
            scores[number] = float(torch.logaddexp(torch.tensor(scores[number]), torch.tensor(score)))
        shares = torch.tensor(scores, dtype=torch.float64).softmax(dim=0)
        if not bool(torch.isfinite(shares).all()):
            raise ModelError("the model's scores of the choices are no numbers; its weights may be broken")
        best = int(shares.argmax())
        return {
            "text": choices[best],
            "confidence": float(shares[best]),
            "completion_tokens": max(1, len(self._tokens(choices[best]))),
            "metadata": {"choices": {choice: float(share) for choice, share in zip(choices, shares, strict=True)}},
        }

    def _tokens(self, text: str) -> list[int]:
        numbers: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return numbers

    def _scores(self, begun: Begun, ways: Sequence[Sequence[int]]) -> list[float]:
        """Return the log probability of each way to go on, its end included."""
        longest = max(map(len, ways), default=0)
        together = max(1, _SCORED_TOKENS // (begun.length + longest)) if self._network.can_merge else 1
        scores: list[float] = []
        for first in range(0, len(ways), together):
            scores += self._score_rows(begun, ways[first : first + together])
        return scores

    def _score_rows(self, begun: Begun, ways: Sequence[Sequence[int]]) -> list[float]:
        longest = max(map(len, ways))
        device = begun.logits.device
        # What follows the end of a shorter one is not looked at, and what comes later cannot change what comes before.
        tokens = torch.tensor([[*way, *[way[-1]] * (longest - len(way))] for way in ways], device=device)
        cache = copy.deepcopy(begun.cache)
        if len(ways) > 1:
            cache.batch_repeat_interleave(len(ways))
        positions = None
        if begun.positions is not None:
            positions = begun.positions.expand(*begun.positions.shape[:-2], len(ways), 1)
            positions = positions + torch.arange(longest, device=device)
        after = self._network.score(cache, tokens, positions).log_softmax(dim=-1)
        first = begun.logits.log_softmax(dim=-1)
        scores = []
        for row, way in enumerate(ways):
            said = first[0, way[0]] + sum(after[row, place, token] for place, token in enumerate(way[1:]))
            if self._ends:
                said = said + after[row, len(way) - 1, self._ends].logsumexp(dim=-1)
            scores.append(float(said))
        return scores
