"""Answers of any length in one forward call: each is a row of shared keys and values, written in place.

Rows begin flush left and end where they end; a mask hides what is behind. So joining copies the newcomer's row only,
leaving copies the last row into the gap, and a step copies nothing. Prompts are read into caches of their own, as
``generate`` reads them; several short ones are packed into one call, what all of them begin with only once.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from freeroam.models.generation_states import AnswerStates, Decoder

_FULL, _SLIDING = "full_attention", "sliding_attention"
_BLOCK = 64
_PACKED_TOKENS = 1024
_SCORED_TOKENS = 512
_MOVING_ROPES = {"dynamic", "longrope"}
"""Rotary embeddings whose frequencies follow the longest row: a long neighbour would change a short answer."""


def can_share(decoder: Decoder) -> bool:
    """Return whether a model's memory is keys and values alone, so that its answers can be rows."""
    config = decoder.config
    ropes = getattr(config, "rope_parameters", None) or {}
    ropes = [ropes, *(rope for rope in ropes.values() if isinstance(rope, dict))]
    if any(rope.get("rope_type") in _MOVING_ROPES for rope in ropes):
        return False
    if getattr(config, "cross_attention_layers", None) or not decoder.takes_positions:
        return False
    layers = DynamicCache(config=decoder.model.config).layers
    if "chunked_attention" in (getattr(config, "layer_types", None) or ()):
        return False
    return all(type(layer) in {DynamicLayer, DynamicSlidingWindowLayer} for layer in layers)


class _Masks:
    """Says who sees whom, to full layers and to those with a sliding window.

    Args:
        decoder: The model.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        layers = DynamicCache(config=decoder.model.config).layers
        windows = {layer.sliding_window for layer in layers if type(layer) is DynamicSlidingWindowLayer}
        self._window: int | None = min(windows) if windows else None
        self._has_full = any(type(layer) is DynamicLayer for layer in layers)

    def of(self, is_seen: torch.Tensor, distance: torch.Tensor) -> Any:
        """Return the mask to give to the model.

        Args:
            is_seen: ``[..., queries, keys]``, bool.
            distance: How many tokens a key is before a query, same shape.
        """
        masks = {}
        if self._has_full:
            masks[_FULL] = self._added(is_seen)
        if self._window is not None:
            masks[_SLIDING] = self._added(is_seen & (distance < self._window))
        return masks if len(masks) > 1 else next(iter(masks.values()))

    def is_needed_at(self, length: int) -> bool:
        """Return whether rows of one length need a mask; only sliding layers can, which plain rows do not cut."""
        return self._window is not None and length >= self._window

    def _added(self, is_seen: torch.Tensor) -> torch.Tensor:
        dtype = self._decoder.dtype
        mask = torch.zeros(is_seen.shape, dtype=dtype, device=is_seen.device)
        mask = mask.masked_fill_(~is_seen, torch.finfo(dtype).min)
        return mask[None, None] if mask.dim() == 2 else mask[:, None]


class _Lines:
    """Where the rows of all layers stand in the step that is being made.

    Attributes:
        lengths: Tokens held of each row.
        index: ``[rows]``, on the device: 0, 1, 2 ...
        ends: ``[rows]``, on the device: where each row's next token goes.
        longest: The greatest of them, kept because a compiled model cannot look for it.
        seen: Columns that are looked at.
    """

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.longest = 0
        self.index = torch.empty(0)
        self.ends = torch.empty(0)
        self.seen = 0


class _RowLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values ``[rows, heads, columns, size]`` of one layer, with room for more rows and columns."""

    is_sliding = False

    def __init__(self, lines: _Lines) -> None:
        super().__init__()
        self._lines = lines

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Begin without any room."""
        self.keys = key_states.new_empty((0, key_states.shape[1], 0, key_states.shape[3]))
        self.values = value_states.new_empty((0, value_states.shape[1], 0, value_states.shape[3]))
        self.dtype, self.device = key_states.dtype, key_states.device
        self.is_initialized = True

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Write one token a row; return all that may be seen."""
        lines = self._lines
        self.keys[lines.index, :, lines.ends] = key_states[:, :, 0]
        self.values[lines.index, :, lines.ends] = value_states[:, :, 0]
        rows = key_states.shape[0]
        return self.keys[:rows, :, : lines.seen], self.values[:rows, :, : lines.seen]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return the columns a query sees and the first of them; asked for only where all rows are of one length."""
        return self.get_seq_length() + query_length, 0

    def get_seq_length(self) -> int:
        """Return the tokens of the longest row."""
        return self._lines.longest

    def get_max_length(self) -> int:
        """Return -1: rows grow."""
        return -1

    def resize(self, rows: int, columns: int) -> None:
        """Move to a place of another size."""
        used, longest = len(self._lines.lengths), max(self._lines.lengths, default=0)
        for name in ("keys", "values"):
            old = getattr(self, name)
            # Zeros, because a hidden place is still multiplied by nought, and what is no number stays none.
            new = old.new_zeros((rows, old.shape[1], columns, old.shape[3]))
            new[:used, :, :longest] = old[:used, :, :longest]
            setattr(self, name, new)

    def put(self, row: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Fill a row with ``[heads, length, size]``, and nothing behind."""
        for place, states in ((self.keys[row], keys), (self.values[row], values)):
            place[:, : states.shape[1]] = states
            place[:, states.shape[1] :] = 0


class SharedRows(AnswerStates):
    """One forward call for all answers.

    Args:
        decoder: A model for which ``can_share``.
        context: Most tokens of a row.
    """

    is_shared = True

    def __init__(self, decoder: Decoder, context: int) -> None:
        self._decoder = decoder
        self._context = context
        self._masks = _Masks(decoder)
        self._reading: dict[int, Any] = {}
        self._keys: list[int] = []
        self._lines = _Lines()
        self._cache: Any = None

    @property
    def memory_bytes(self) -> int:
        """Bytes of the shared rows and of the prompts being read."""
        caches = [*self._reading.values(), *([self._cache] if self._cache is not None else [])]
        layers = [layer for cache in caches for layer in cache.layers if layer.is_initialized]
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)

    def read(self, parts: Mapping[int, Sequence[int]]) -> dict[int, torch.Tensor]:
        """Pack prompts that begin here into one call; read the others one by one."""
        scores: dict[int, torch.Tensor] = {}
        packed: dict[int, Sequence[int]] = {}
        for key, tokens in parts.items():
            if key in self._reading:
                scores[key] = self._read_on(key, tokens)
                continue
            if packed and sum(map(len, packed.values())) + len(tokens) > _PACKED_TOKENS:
                scores |= self._read_packed(packed)
                packed = {}
            packed[key] = tokens
        return scores | self._read_packed(packed)

    def begin(self, key: int) -> None:
        """Copy what was read into a row behind the others."""
        cache = self._reading.pop(key)
        length = cache.get_seq_length()
        if self._cache is None:
            self._lines = _Lines()
            self._cache = Cache(layers=[_RowLayer(self._lines) for _ in cache.layers])
        row = len(self._keys)
        layers = [(old, new) for old, new in zip(cache.layers, self._cache.layers, strict=True) if old.keys is not None]
        try:
            for old, new in layers:
                if not new.is_initialized:
                    new.lazy_initialization(old.keys, old.values)
            self._make_room(row + 1, length + 1)
        except Exception:
            self._reading[key] = cache
            raise
        for old, new in layers:
            new.put(row, old.keys[0], old.values[0])
        self._keys.append(key)
        self._lines.lengths.append(length)

    def go_on(self, tokens: Mapping[int, int]) -> tuple[list[int], torch.Tensor]:
        """Make one call for all rows; if it fails, nothing has changed."""
        lines, device = self._lines, self._decoder.device
        longest = lines.longest = max(lines.lengths)
        self._make_room(len(self._keys), longest + 1)
        lines.index = torch.arange(len(self._keys), device=device)
        lines.ends = torch.tensor(lines.lengths, device=device)
        lines.seen = longest + 1
        mask = None
        if min(lines.lengths) < longest or self._masks.is_needed_at(longest):
            # A mask whose rows begin at even addresses is what the quick kernels on CUDA take.
            lines.seen = min(-(-lines.seen // 8) * 8, self._columns)
            distance = lines.ends[:, None] - torch.arange(lines.seen, device=device)
            mask = self._masks.of((distance >= 0)[:, None], distance[:, None])
        scores = self._decoder.run(
            torch.tensor([[tokens[key]] for key in self._keys], device=device),
            self._cache,
            positions=lines.ends[:, None],
            mask=mask,
        )
        lines.lengths[:] = [length + 1 for length in lines.lengths]
        return list(self._keys), scores[:, -1]

    def score(self, key: int, ways: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        """Put all ways behind the prompt in one call, each seeing the prompt and itself; then forget them."""
        scores: list[torch.Tensor] = []
        group: list[Sequence[int]] = []
        for way in ways:
            known = way[:-1]
            if group and sum(map(len, group)) + len(known) > _SCORED_TOKENS:
                scores += self._score_packed(key, group)
                group = []
            group.append(known)
        return scores + self._score_packed(key, group)

    def drop(self, key: int) -> None:
        """Let the last row take the place of the one that goes, and give back room that is too much."""
        self._reading.pop(key, None)
        if key not in self._keys:
            return
        row, last = self._keys.index(key), len(self._keys) - 1
        length = self._lines.lengths[last]
        if row != last:
            for layer in self._layers:
                layer.put(row, layer.keys[last, :, :length], layer.values[last, :, :length])
        for values in (self._keys, self._lines.lengths):
            values[row] = values[last]
            values.pop()
        if not self._keys:
            self._cache = None
            return
        rows, columns = len(self._keys), max(self._lines.lengths)
        if 4 * rows * (columns + _BLOCK) <= self._rows * self._columns:
            with contextlib.suppress(RuntimeError, MemoryError):
                # Without memory for a copy of one layer, the room stays as it is.
                self._resize(rows, -(-(columns + 1) // _BLOCK) * _BLOCK)

    @property
    def longest(self) -> int | None:
        """The answer of the longest row."""
        lengths = self._lines.lengths
        return self._keys[lengths.index(max(lengths))] if self._keys else None

    @property
    def _layers(self) -> list[_RowLayer]:
        return [layer for layer in self._cache.layers if layer.is_initialized]

    @property
    def _rows(self) -> int:
        return min(int(layer.keys.shape[0]) for layer in self._layers)

    @property
    def _columns(self) -> int:
        return min(int(layer.keys.shape[2]) for layer in self._layers)

    def _make_room(self, rows: int, columns: int) -> None:
        has_rows, has_columns = self._rows, self._columns
        if rows > has_rows:
            has_rows = max(rows, min(2 * has_rows, rows + 8))
        if columns > has_columns:
            wanted = min(max(columns, has_columns * 3 // 2), max(columns, self._context))
            has_columns = -(-wanted // _BLOCK) * _BLOCK
        if (has_rows, has_columns) != (self._rows, self._columns):
            self._resize(has_rows, has_columns)

    def _resize(self, rows: int, columns: int) -> None:
        """Resize one layer after the other, so that no more than one is held twice."""
        for layer in self._layers:
            layer.resize(rows, columns)

    def _read_on(self, key: int, tokens: Sequence[int]) -> torch.Tensor:
        cache = self._reading[key]
        start = cache.get_seq_length()
        positions = torch.arange(start, start + len(tokens), device=self._decoder.device)[None]
        return self._decoder.run(self._decoder.tensor(tokens), cache, positions=positions)[0, -1]

    def _read_packed(self, parts: Mapping[int, Sequence[int]]) -> dict[int, torch.Tensor]:
        if len(parts) <= 1:
            for key in parts:
                self._reading[key] = DynamicCache()
            return {key: self._read_on(key, tokens) for key, tokens in parts.items()}
        device = self._decoder.device
        shared = _common(list(parts.values()))
        counts = [len(tokens) - shared for tokens in parts.values()]
        owner = torch.repeat_interleave(torch.arange(-1, len(counts)), torch.tensor([shared, *counts])).to(device)
        place = torch.cat([torch.arange(shared), *(torch.arange(shared, shared + count) for count in counts)])
        place = place.to(device)
        distance = place[:, None] - place
        mask = self._masks.of(((owner[:, None] == owner) | (owner < 0)) & (distance >= 0), distance)
        ends = (shared + torch.tensor(counts).cumsum(0)).tolist()
        cache = DynamicCache()
        begun = next(iter(parts.values()))[:shared]
        scores = self._decoder.run(
            self._decoder.tensor([*begun, *(token for tokens in parts.values() for token in tokens[shared:])]),
            cache,
            positions=place[None],
            mask=mask,
            keep=torch.tensor(ends, device=device) - 1,
        )[0]
        for key, count, end in zip(parts, counts, ends, strict=True):
            self._reading[key] = own = DynamicCache()
            for index, layer in enumerate(cache.layers):
                if layer.keys is not None:
                    # Copies, because a slice would keep the whole pack in memory.
                    own.update(*(_two(side, shared, end - count, end) for side in (layer.keys, layer.values)), index)
        return dict(zip(parts, scores, strict=True))

    def _score_packed(self, key: int, group: Sequence[Sequence[int]]) -> list[torch.Tensor]:
        device = self._decoder.device
        counts = [len(known) for known in group]
        total = sum(counts)
        if not total:
            return [torch.empty((0, 1), device=device) for _ in group]
        cache = self._reading[key]
        length = cache.get_seq_length()
        owner = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)).to(device)
        place = torch.cat([torch.arange(count) for count in counts]).to(device)
        own = (owner[:, None] == owner) & (place[:, None] >= place)
        is_seen = torch.cat([torch.ones((total, length), dtype=torch.bool, device=device), own], dim=1)
        columns = torch.cat([torch.arange(length, device=device), length + place])
        mask = self._masks.of(is_seen, (length + place)[:, None] - columns)
        try:
            scores = self._decoder.run(
                self._decoder.tensor([token for known in group for token in known]),
                cache,
                positions=length + place[None],
                mask=mask,
                keep=torch.arange(total, device=device),
            )[0]
        finally:
            cache.crop(length - cache.get_seq_length())
        return list(scores.split(counts))


def _common(texts: Sequence[Sequence[int]]) -> int:
    """Return how many tokens all texts begin with, at least one of each left over: what a system prompt is."""
    shortest = min(map(len, texts)) - 1
    same = (len(set(tokens)) == 1 for tokens in zip(*(text[:shortest] for text in texts), strict=True))
    return next((place for place, is_same in enumerate(same) if not is_same), shortest)


def _two(states: torch.Tensor, shared: int, start: int, end: int) -> torch.Tensor:
    return torch.cat([states[:, :, :shared], states[:, :, start:end]], dim=2)
