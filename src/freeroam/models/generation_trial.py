"""Tries, once after loading, whether a model gives answers in shared rows the scores that it gives them alone."""

from __future__ import annotations

import traceback

import torch
from transformers import DynamicCache

from freeroam.models.generation_rows import SharedRows, can_share
from freeroam.models.generation_states import Decoder
from freeroam.models.torch_loading import is_out_of_memory

_LENGTHS = (5, 11, 9)
_STEPS = 2
_LARGEST_ERROR = 0.1
"""Of the scores' own spread. Rounding in bfloat16 gives a hundredth or two; a wrong mask or position gives about 1."""


def shares_truly(decoder: Decoder, context: int) -> bool:
    """Return whether answers of this model may share one forward call.

    Three made-up prompts of different lengths are read, packed and in parts, and go on for two tokens, one of them
    leaving between; the scores are held against those of a plain call of the whole text. Architectures are many, and
    a model that takes masks or positions in its own way is found out here, not by its users.

    Raises:
        Exception: Memory ran out.
    """
    if not can_share(decoder) or context < max(_LENGTHS) + _STEPS:
        return False
    size = int(decoder.config.vocab_size)
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, size, (length + _STEPS,), generator=generator).tolist() for length in _LENGTHS]
    rows = SharedRows(decoder, context)
    try:
        rows.read({key: texts[key][:length] for key, length in enumerate(_LENGTHS[:2])})
        rows.read({2: texts[2][:4]})
        rows.read({2: texts[2][4 : _LENGTHS[2]]})
        for key in range(len(_LENGTHS)):
            rows.begin(key)
        rows.go_on({key: texts[key][length] for key, length in enumerate(_LENGTHS)})
        rows.drop(0)
        keys, scores = rows.go_on({key: texts[key][length + 1] for key, length in enumerate(_LENGTHS)})
        alone = [_alone(decoder, texts[key]) for key in keys]
    except Exception as error:
        if is_out_of_memory(error):
            raise
        traceback.print_exc()
        return False
    return all(_error(shared, plain) < _LARGEST_ERROR for shared, plain in zip(scores, alone, strict=True))


def _alone(decoder: Decoder, tokens: list[int]) -> torch.Tensor:
    return decoder.run(decoder.tensor(tokens), DynamicCache(config=decoder.model.config))[0, -1]


def _error(shared: torch.Tensor, plain: torch.Tensor) -> float:
    spread = float(plain.float().std()) or 1.0
    return float((shared.float() - plain.float()).pow(2).mean().sqrt()) / spread
