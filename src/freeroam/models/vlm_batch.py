"""Answers decoded together, one step of a network each: caches of keys and values that grow, merge and shrink.

Rows stand flush right: a row that is shorter than the longest has empty places on its left, which the mask hides. So
every step adds one column for all, and a model's sliding windows, which count columns backwards, stay right. Positions
are kept a row and counted on from those that the model itself gave the prompt (``_prepare_position_ids_for_generation``
of transformers' ``GenerationMixin``), which is what ``generate`` does; so models with three axes of positions
(Qwen2.5-VL) need nothing of their own here, and what they store on the model object is never read.

``generation_rows.SharedRows`` copies less, and brings masks of its own for rows that stand flush left. That is not
asked of models with pictures: many make their masks themselves, of one with two dimensions.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from freeroam.models.generation_rows import can_share
from freeroam.models.generation_states import Decoder

_ROOM = 64
"""Columns allocated ahead: a cache is copied once in so many steps, not in every one."""


@dataclass(slots=True)
class Begun:
    """Prompts of equal length that went through the model together.

    Attributes:
        cache: Keys and values of all of them.
        logits: ``[n, vocabulary]``, float32: the scores of each one's first token.
        positions: ``[..., n, 1]``: the position of the token after the prompt; None if the model takes none.
        length: Tokens of each prompt.
        inputs: What the model was given besides the tokens.
        input_ids: ``[n, length]``.
    """

    cache: Any
    logits: torch.Tensor
    positions: torch.Tensor | None
    length: int
    inputs: dict[str, Any]
    input_ids: torch.Tensor


class Network:
    """A model of transformers, and how it is called.

    Args:
        model: With a language head, in ``eval`` mode.
        is_compiled: Whether its language part was; then caches are plain tensors, because ``torch.compile`` (2.13)
            fails on one that is a part of another which is written to.
    """

    def __init__(self, model: Any, *, is_compiled: bool = False) -> None:
        self.model = model
        self.is_compiled = is_compiled
        accepted = inspect.signature(type(model).forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._more: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        self.can_merge = can_share(Decoder(model))

    @property
    def device(self) -> torch.device:
        """Where the tokens go in."""
        device: torch.device = self.model.device
        return device

    def begin(self, inputs: Mapping[str, Any]) -> Begun:
        """Put prompts of equal length, without padding, through the model.

        Args:
            inputs: As a processor gives them, on the model's device.
        """
        more = {name: value for name, value in inputs.items() if name not in {"input_ids", "attention_mask"}}
        input_ids = inputs["input_ids"]
        positions = None
        if self._takes_positions:
            whole = {**more, "attention_mask": torch.ones_like(input_ids)}
            positions = self.model._prepare_position_ids_for_generation(input_ids, whole)
        # Plain layers keep all, so that rows of different lengths can be laid side by side under one sliding mask.
        cache = DynamicCache() if self.can_merge else DynamicCache(config=self.model.config)
        kwargs: dict[str, Any] = {**more, "past_key_values": cache, "use_cache": True, **self._more}
        if positions is not None:
            kwargs["position_ids"] = positions
        prepared = self.model.prepare_inputs_for_generation(input_ids, is_first_iteration=True, **kwargs)
        outputs = self.model(**prepared, return_dict=True)
        if not self.can_merge:
            kwargs = self.model._update_model_kwargs_for_generation(outputs, kwargs)
        after = None if positions is None else positions[..., -1:] + 1
        if after is not None and after.shape[-2] != input_ids.shape[0]:
            after = after.expand(*after.shape[:-2], input_ids.shape[0], 1)
        return Begun(cache, outputs.logits[:, -1].float(), after, input_ids.shape[1], kwargs, input_ids)

    def go_on(self, cache: Any, tokens: torch.Tensor, positions: Any, mask: torch.Tensor | None) -> torch.Tensor:
        """Put tokens ``[n, t]`` after what ``cache`` holds; return scores ``[n, vocabulary]`` of what follows."""
        return self._forward(cache, tokens, positions, mask, **self._more)[:, -1].float()

    def score(self, cache: Any, tokens: torch.Tensor, positions: Any) -> torch.Tensor:
        """Do as ``go_on``, and return the scores ``[n, t, vocabulary]`` after each of the tokens."""
        return self._forward(cache, tokens, positions, None).float()

    def _forward(self, cache: Any, tokens: torch.Tensor, positions: Any, mask: Any, **more: Any) -> torch.Tensor:
        if positions is not None:
            more["position_ids"] = positions
        if mask is not None:
            more["attention_mask"] = mask
        logits: torch.Tensor = self.model(
            input_ids=tokens, past_key_values=cache, use_cache=True, return_dict=True, **more
        ).logits
        return logits

    def go_on_alone(self, begun: Begun, token: torch.Tensor) -> torch.Tensor:
        """Put a token ``[1, 1]`` after one prompt as ``generate`` does it, whatever kind of cache the model has."""
        begun.input_ids = torch.cat([begun.input_ids, token], dim=-1)
        prepared = self.model.prepare_inputs_for_generation(begun.input_ids, next_sequence_length=1, **begun.inputs)
        outputs = self.model(**prepared, return_dict=True)
        begun.inputs = self.model._update_model_kwargs_for_generation(outputs, begun.inputs)
        logits: torch.Tensor = outputs.logits[:, -1].float()
        return logits


def _layer(parts: Sequence[tuple[torch.Tensor, torch.Tensor]], columns: int, *, has_room: bool) -> DynamicLayer:
    """Return a layer that holds all rows of ``parts``, each flush right in ``columns``."""
    if has_room:
        return _RoomyLayer(parts, columns)
    layer = DynamicLayer()
    layer.keys, layer.values = (_side_by_side([part[which] for part in parts], columns, 0) for which in (0, 1))
    layer.dtype, layer.device, layer.is_initialized = layer.keys.dtype, layer.keys.device, True
    return layer


class _RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """Keys and values ``[rows, heads, columns, size]`` with room on the right, so that a step copies nothing."""

    def __init__(self, parts: Sequence[tuple[torch.Tensor, torch.Tensor]], columns: int) -> None:
        super().__init__()
        self._room = [_side_by_side([part[which] for part in parts], columns, _ROOM) for which in (0, 1)]
        self._columns = columns
        self.dtype, self.device = self._room[0].dtype, self._room[0].device
        self.is_initialized = True
        self._look()

    def _look(self) -> None:
        self.keys, self.values = (room[:, :, : self._columns] for room in self._room)

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[Any, Any]:
        end = self._columns + key_states.shape[-2]
        if end > self._room[0].shape[-2]:
            self._room = [_with_room(view, end) for view in (self.keys, self.values)]
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, self._columns : end] = new
        self._columns = end
        self._look()
        return self.keys, self.values


def _with_room(view: torch.Tensor, columns: int) -> torch.Tensor:
    room = view.new_empty((*view.shape[:2], columns + max(_ROOM, columns // 8), view.shape[-1]))
    room[:, :, : view.shape[-2]] = view
    return room


def _side_by_side(parts: Sequence[torch.Tensor], columns: int, ahead: int) -> torch.Tensor:
    """Return all rows of ``parts``, flush right in ``columns``, with room ahead; empty places hold zeros."""
    first = parts[0]
    rows = sum(part.shape[0] for part in parts)
    room = first.new_empty((rows, first.shape[1], columns + ahead, first.shape[-1]))
    row = 0
    for part in parts:
        empty = columns - part.shape[-2]
        place = room[row : row + part.shape[0]]
        if empty:
            place[:, :, :empty] = 0
        place[:, :, empty:columns] = part
        row += part.shape[0]
    return room


class Together:
    """Rows that take every step together.

    Args:
        network: The model.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._cache: Any = None
        self._lengths: list[int] = []
        self._positions: torch.Tensor | None = None
        self._empty: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self._lengths)

    def change(self, kept: Sequence[int], joining: Sequence[tuple[Begun, Sequence[int]]]) -> None:
        """Keep some rows, in order, and add those chosen of prompts that have begun; all others are freed."""
        if not joining and list(kept) == list(range(len(self._lengths))):
            return
        joining = [(begun, rows) for begun, rows in joining if rows]
        lengths = [self._lengths[row] for row in kept]
        for begun, rows in joining:
            lengths += [begun.length] * len(rows)
        if not lengths:
            self._cache, self._lengths, self._positions, self._empty = None, [], None, None
            return
        old_columns = max((self._lengths[row] for row in kept), default=0)
        device = self._network.device
        positions = [] if self._positions is None or not kept else [self._positions[..., list(kept), :]]
        positions += [begun.positions[..., list(rows), :] for begun, rows in joining if begun.positions is not None]
        layers = []
        number = len(joining[0][0].cache.layers) if joining else len(self._cache.layers)
        for index in range(number):
            parts = []
            if kept:
                old = self._cache.layers[index]
                # Columns that only rows gone by now had used are left behind.
                parts.append(tuple(side[list(kept), :, -old_columns:] for side in (old.keys, old.values)))
                self._cache.layers[index] = None
            for begun, rows in joining:
                new = begun.cache.layers[index]
                parts.append((_chosen(new.keys, rows), _chosen(new.values, rows)))
            layers.append(_layer(parts, max(lengths), has_room=not self._network.is_compiled))
        self._cache = DynamicCache()
        self._cache.layers = layers
        self._lengths = lengths
        self._positions = torch.cat(positions, dim=-2) if positions else None
        empty = [max(lengths) - length for length in lengths]
        self._empty = torch.tensor(empty, device=device)[:, None] if any(empty) else None

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Give every row its next token, ``[rows, 1]``; return the scores ``[rows, vocabulary]`` of what follows."""
        mask = None
        if self._empty is not None:
            columns = torch.arange(max(self._lengths) + 1, device=self._empty.device)
            mask = (columns >= self._empty).long()
        logits = self._network.go_on(self._cache, tokens, self._positions, mask)
        if self._positions is not None:
            self._positions = self._positions + 1
        self._lengths = [length + 1 for length in self._lengths]
        return logits


def _chosen(states: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    return states if len(rows) == states.shape[0] else states[list(rows)]


class Apart:
    """Rows of a model whose caches cannot be laid side by side: each takes its own step, one after the other.

    Args:
        network: The model.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self._rows: list[Begun] = []

    def __len__(self) -> int:
        return len(self._rows)

    def change(self, kept: Sequence[int], joining: Sequence[tuple[Begun, Sequence[int]]]) -> None:
        """Do as ``Together.change``; prompts have begun one by one here."""
        self._rows = [self._rows[row] for row in kept] + [begun for begun, rows in joining if rows]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """Do as ``Together.step``."""
        logits = [self._network.go_on_alone(begun, tokens[row : row + 1]) for row, begun in enumerate(self._rows)]
        return torch.cat(logits)
