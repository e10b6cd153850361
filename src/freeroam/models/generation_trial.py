"""Tries, once after loading, whether a model gives answers in shared rows the scores that it gives them alone."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from functools import partial
from typing import NoReturn

import torch

from freeroam.models.generation_rows import SharedRows, can_share
from freeroam.models.generation_states import AnswerStates, Decoder, SeparateStates
from freeroam.models.torch_loading import is_out_of_memory
from freeroam.vocabulary.errors import ConfigurationError, ModelError

_LENGTHS = (5, 11, 9)
_STEPS = 2
_LARGEST_ERROR = 0.15
_LARGEST_ERROR_EXACT = 0.005
"""Of the scores' own spread; the second in float32. Rounding gives a millionth there and a few hundredths in bfloat16
or with int8; a wrong mask or position gives about 1."""


def make_states(decoder: Decoder, context: int, *, is_exact: bool) -> Callable[[], AnswerStates]:
    """Return what makes the memory for answers of this model: rows that share a forward call, if that is true to it.

    Three made-up prompts of different lengths are read, packed and in parts, and go on for two tokens, one of them
    leaving between; the scores are held against those of a plain call of the whole text. Architectures are many, and
    a model that takes masks or positions in its own way is found out here, not by its users.

    Args:
        decoder: The model.
        context: Most tokens of prompt and answer together.
        is_exact: Whether it computes in float32 throughout.

    Raises:
        ConfigurationError: The model cannot be spoken with token by token at all.
        ModelError: Its scores are no numbers.
        Exception: Memory ran out.
    """
    makers: list[Callable[[], AnswerStates]] = [
        partial(SeparateStates, decoder),
        partial(SeparateStates, decoder, reads_in_parts=False),
    ]
    if can_share(decoder):
        makers.insert(0, partial(SharedRows, decoder, context))
    largest = _LARGEST_ERROR_EXACT if is_exact else _LARGEST_ERROR
    return next((make for make in makers if _error_of(decoder, make(), context) < largest), None) or _refuse(decoder)


def _refuse(decoder: Decoder) -> NoReturn:
    raise ConfigurationError(
        f"{type(decoder.model).__name__} gives other scores token by token than for a whole text: transformers_text "
        "cannot speak with a model of this kind"
    )


def _error_of(decoder: Decoder, states: AnswerStates, context: int) -> float:
    size = int(decoder.config.vocab_size)
    lengths = [max(1, min(length, context - _STEPS)) for length in _LENGTHS]
    generator = torch.Generator().manual_seed(0)
    texts = [torch.randint(0, size, (length + _STEPS,), generator=generator).tolist() for length in lengths]
    try:
        states.read({key: texts[key][:length] for key, length in enumerate(lengths[:2])})
        middle = lengths[2] // 2 if states.reads_in_parts else 0
        for part in (texts[2][:middle], texts[2][middle : lengths[2]]):
            if part:
                states.read({2: part})
        for key in range(len(lengths)):
            states.begin(key)
        states.go_on({key: texts[key][length] for key, length in enumerate(lengths)})
        states.drop(0)
        keys, scores = states.go_on({key: texts[key][length + 1] for key, length in enumerate(lengths)})
        alone = [_alone(decoder, texts[key]) for key in keys]
    except ModelError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        traceback.print_exc()
        return math.inf
    errors = [_error(shared, plain) for shared, plain in zip(scores, alone, strict=True)]
    return math.inf if any(map(math.isnan, errors)) else max(errors)


def _alone(decoder: Decoder, tokens: list[int]) -> torch.Tensor:
    """Return the scores after a whole text, without any memory."""
    scores: torch.Tensor = decoder.model(input_ids=decoder.tensor(tokens), use_cache=False).logits[0, -1]
    if not bool(torch.isfinite(scores).all()):
        raise ModelError("the model's scores are no numbers; its weights are broken", code="load_failed")
    return scores


def _error(shared: torch.Tensor, plain: torch.Tensor) -> float:
    spread = float(plain.float().std()) or 1.0
    return float((shared.float() - plain.float()).pow(2).mean().sqrt()) / spread
