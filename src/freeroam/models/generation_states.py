"""What a language model remembers of each answer that it speaks, and how the model is called.

``SharedRows`` (generation_rows.py) puts all answers through one forward call; ``SeparateStates`` here makes one call an
answer, for models whose memory is more than keys and values. Both are used by the step loop in generation.py.
"""

from __future__ import annotations

import copy
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache

_CACHE_NAMES = ("past_key_values", "cache_params")


class Decoder:
    """A causal model of transformers, and how it is called.

    Args:
        model: With a language head, ready to answer.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = model.config.get_text_config(decoder=True)
        accepted = inspect.signature(type(model).forward).parameters
        self.takes_positions = "position_ids" in accepted
        self._cache_name = next((name for name in _CACHE_NAMES if name in accepted), _CACHE_NAMES[0])
        self._keeps_logits = "logits_to_keep" in accepted

    @property
    def device(self) -> torch.device:
        """Where tokens go in."""
        device: torch.device = self.model.device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of what flows between the layers."""
        dtype: torch.dtype = self.model.dtype
        return dtype

    def run(
        self,
        tokens: torch.Tensor,
        cache: Any,
        *,
        positions: torch.Tensor | None = None,
        mask: Any = None,
        keep: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the scores ``[n, kept, vocabulary]`` after tokens ``[n, t]``.

        Args:
            tokens: What comes next.
            cache: What came before; grows by the tokens.
            positions: ``[n, t]``; None lets the model count on from the cache.
            mask: Who sees whom; None is what the model does by itself.
            keep: Places in ``t`` that scores are wanted of; None is the last.
        """
        more: dict[str, Any] = {self._cache_name: cache}
        if positions is not None:
            more["position_ids"] = positions
        if mask is not None:
            more["attention_mask"] = mask
        if self._keeps_logits:
            more["logits_to_keep"] = 1 if keep is None else keep
        outputs = self.model(input_ids=tokens, use_cache=True, return_dict=True, **more)
        logits: torch.Tensor = outputs.logits
        if self._keeps_logits:
            return logits
        return logits[:, -1:] if keep is None else logits[:, keep]

    def tensor(self, tokens: Sequence[int]) -> torch.Tensor:
        """Return tokens as ``[1, t]`` on the model's device."""
        return torch.tensor([list(tokens)], device=self.device)


class AnswerStates(ABC):
    """What the model remembers of each answer, called by a number of the caller's.

    Attributes:
        is_shared: Whether one forward call moves all answers on.
        reads_in_parts: Whether a prompt may be read part by part, else only whole.
    """

    is_shared = False
    reads_in_parts = True

    @property
    @abstractmethod
    def memory_bytes(self) -> int:
        """Bytes of keys, values and the like that are held now."""

    @abstractmethod
    def read(self, parts: Mapping[int, Sequence[int]]) -> dict[int, torch.Tensor]:
        """Put the next tokens of prompts through the model; return the scores ``[vocabulary]`` after each part."""

    @abstractmethod
    def begin(self, key: int) -> None:
        """Count an answer whose prompt was read among those that go on."""

    @abstractmethod
    def go_on(self, tokens: Mapping[int, int]) -> tuple[list[int], torch.Tensor]:
        """Give every answer that has begun its next token.

        Returns:
            The answers in some order, and the scores ``[answers, vocabulary]`` of what follows.
        """

    @abstractmethod
    def score(self, key: int, ways: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Return the scores ``[len(way) - 1, vocabulary]`` after every token but the last of each way to go on.

        For an answer whose prompt was read and that has not begun; it is as it was before.
        """

    @abstractmethod
    def drop(self, key: int) -> None:
        """Free what an answer holds; one that is not there is passed over."""

    @property
    @abstractmethod
    def longest(self) -> int | None:
        """The answer that holds most among those that go on; None if there is none."""


class SeparateStates(AnswerStates):
    """One cache, and one forward call, an answer; whatever kind of memory the model has.

    Args:
        decoder: The model.
        reads_in_parts: Whether the model takes several tokens at once after others; some with a recurrent state take
            one at a time then.
    """

    def __init__(self, decoder: Decoder, *, reads_in_parts: bool = True) -> None:
        self.reads_in_parts = reads_in_parts
        self._decoder = decoder
        self._caches: dict[int, Any] = {}
        self._lengths: dict[int, int] = {}
        self._begun: list[int] = []

    @property
    def memory_bytes(self) -> int:
        """Bytes of all caches."""
        return sum(_bytes_of(cache) for cache in self._caches.values())

    def read(self, parts: Mapping[int, Sequence[int]]) -> dict[int, torch.Tensor]:
        """Read one part after the other."""
        return {key: self._run(key, tokens)[0, -1] for key, tokens in parts.items()}

    def begin(self, key: int) -> None:
        """Let it go on with the others."""
        self._begun.append(key)

    def go_on(self, tokens: Mapping[int, int]) -> tuple[list[int], torch.Tensor]:
        """Take one answer after the other."""
        keys = list(self._begun)
        return keys, torch.cat([self._run(key, [tokens[key]])[:, -1] for key in keys])

    def score(self, key: int, ways: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Go each way on a copy of the cache."""
        scores = []
        for way in ways:
            known = way[:-1]
            kept, length = copy.deepcopy(self._caches[key]), self._lengths[key]
            parts = [known] if self.reads_in_parts else [[token] for token in known]
            after = [self._run(key, part, keep=self._all(part))[0] for part in parts if part]
            scores.append(torch.cat(after) if after else torch.empty((0, 1), device=self._decoder.device))
            self._caches[key], self._lengths[key] = kept, length
        return scores

    def _all(self, tokens: Sequence[int]) -> torch.Tensor:
        return torch.arange(len(tokens), device=self._decoder.device)

    def drop(self, key: int) -> None:
        """Let its cache go."""
        self._caches.pop(key, None)
        self._lengths.pop(key, None)
        if key in self._begun:
            self._begun.remove(key)

    @property
    def longest(self) -> int | None:
        """The answer that is furthest on."""
        return max(self._begun, key=self._lengths.__getitem__, default=None)

    def _run(self, key: int, tokens: Sequence[int], keep: torch.Tensor | None = None) -> torch.Tensor:
        if key not in self._caches:
            self._caches[key] = DynamicCache(config=self._decoder.model.config)
            self._lengths[key] = 0
        start = self._lengths[key]
        positions = None
        if self._decoder.takes_positions:
            positions = torch.arange(start, start + len(tokens), device=self._decoder.device)[None]
        scores = self._decoder.run(self._decoder.tensor(tokens), self._caches[key], positions=positions, keep=keep)
        self._lengths[key] = start + len(tokens)
        return scores


def _bytes_of(cache: Any) -> int:
    held = [value for layer in cache.layers for value in vars(layer).values()]
    held += [inner for value in held if isinstance(value, list | tuple) for inner in value]
    held += [inner for value in held if isinstance(value, dict) for inner in value.values()]
    return sum(value.nbytes for value in held if isinstance(value, torch.Tensor))
