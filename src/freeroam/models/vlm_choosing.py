"""How likely a model finds ways to go on from a prompt with pictures that it has read."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch

from freeroam.models.vlm_batch import Begun, Network

_SCORED_TOKENS = 16_384
"""Most tokens of keys and values that are laid side by side to score ways to go on."""


class PromptScores:
    """Scores ways to go on from one prompt, several in one call where the model's caches allow it.

    Args:
        network: The model.
        begun: The prompt, alone; it is left as it was.
    """

    def __init__(self, network: Network, begun: Begun) -> None:
        self._network = network
        self._begun = begun

    def score(self, key: int, ways: Sequence[Sequence[int]]) -> list[torch.Tensor]:  # noqa: ARG002 - there is one prompt
        """Return the scores ``[len(way) - 1, vocabulary]`` after every token but the last of each way."""
        longest = max(map(len, ways))
        together = max(1, _SCORED_TOKENS // (self._begun.length + longest)) if self._network.can_merge else 1
        scores: list[torch.Tensor] = []
        for first in range(0, len(ways), together):
            scores += self._score_rows(ways[first : first + together])
        return scores

    def _score_rows(self, ways: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        begun, device = self._begun, self._begun.logits.device
        longest = max(len(way) - 1 for way in ways)
        if not longest:
            return [begun.logits.new_empty((0, begun.logits.shape[-1])) for _ in ways]
        # What stands behind a shorter one is not looked at, and what comes later cannot change what comes before.
        rows = [[*way[:-1], *[way[0]] * (longest - len(way) + 1)] for way in ways]
        cache = copy.deepcopy(begun.cache)
        if len(ways) > 1:
            cache.batch_repeat_interleave(len(ways))
        positions = None
        if begun.positions is not None:
            positions = begun.positions.expand(*begun.positions.shape[:-2], len(ways), 1)
            positions = positions + torch.arange(longest, device=device)
        after = self._network.score(cache, torch.tensor(rows, device=device), positions)
        return [after[row, : len(way) - 1] for row, way in enumerate(ways)]
