"""What a client of the Open Inference Protocol asks, read from its tensors and parameters, whichever wire they came by.

| input | type | |
|---|---|---|
| ``prompt`` (or ``text_input``) | BYTES [1] | the question |
| ``image`` | BYTES [n] | JPEG, PNG or WebP files, oldest first |
| ``image`` | UINT8 [h, w, 3] or [n, h, w, 3] | pixels, RGB |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import ValidationError

from freeroam.api.inference_calls import Wish, read_priority
from freeroam.api.oip.answers import OUTPUT_NAMES
from freeroam.api.oip.tensors import Tensor
from freeroam.api.parts import ApiConfig
from freeroam.api.pictures import Image, Pixels, check_count
from freeroam.api.problems import explain_validation
from freeroam.vocabulary.errors import InvalidInput, TooLarge
from freeroam.vocabulary.inference import InferenceParams, Priority

PROMPTS = ("prompt", "text_input")
IMAGES = ("image", "images")
TUNABLE = ("max_tokens", "temperature", "top_p", "stop", "seed", "threshold", "choices")
_LISTS = frozenset({"stop", "choices"})
_REFUSED = {
    "shared_memory_region": "shared memory is not offered here; send tensors inside the request",
    "sequence_id": "sequences are not offered here; every request stands alone",
    "classification": "classification of outputs is not offered here; ask for labels and confidence",
}


@dataclass(frozen=True, slots=True)
class TensorQuestion:
    """One question as tensors tell it.

    Attributes:
        wish: What is asked.
        images: Pictures, oldest first.
        timeout_s: The client's own time limit; None if it has none.
        outputs: Names of the outputs that are wanted, in order.
    """

    wish: Wish
    images: tuple[Image, ...]
    timeout_s: float | None
    outputs: tuple[str, ...]


def read_question(
    model: str, tensors: Sequence[Tensor], parameters: Mapping[str, Any], outputs: Sequence[str], config: ApiConfig
) -> TensorQuestion:
    """Return what is asked.

    Args:
        model: ``name`` or ``name@version``.
        tensors: The inputs.
        parameters: Of the request; those that are not known are passed over, as the protocol allows.
        outputs: Names of the outputs that are wanted; none means all.
        config: The limits.

    Raises:
        InvalidInput: An input is unknown, missing, given twice or of a wrong shape; a parameter cannot be; an output
            is unknown.
        TooLarge: A picture has too many pixels.
    """
    found: dict[str, Tensor] = {}
    for tensor in tensors:
        name = "prompt" if tensor.name in PROMPTS else "image" if tensor.name in IMAGES else None
        if name is None:
            known = ", ".join((*PROMPTS, *IMAGES))
            raise InvalidInput(f"there is no input {tensor.name[:100]!r}; known are {known}")
        if name in found:
            raise InvalidInput(f"input {tensor.name!r} came twice")
        found[name] = tensor
    if "prompt" not in found:
        raise InvalidInput("input 'prompt' is required: BYTES [1]")
    return TensorQuestion(
        wish=read_wish(model, _text_of(found["prompt"]), parameters),
        images=_images_of(found["image"], config) if "image" in found else (),
        timeout_s=read_timeout_s(parameters),
        outputs=_wanted(outputs),
    )


def read_wish(model: str, prompt: str, parameters: Mapping[str, Any]) -> Wish:
    """Return the wish of a prompt and its parameters.

    Raises:
        InvalidInput: A parameter cannot be.
    """
    refuse_what_is_not_offered(parameters)
    client_id = parameters.get("client_id", "")
    if not isinstance(client_id, str):
        raise InvalidInput("parameter client_id must be a text")
    return Wish(model, prompt, read_params(parameters), read_triton_priority(parameters.get("priority")), client_id)


def refuse_what_is_not_offered(parameters: Mapping[str, Any]) -> None:
    """Refuse parameters whose being passed over would change what the answer means.

    Raises:
        InvalidInput: One of them is there.
    """
    for name, message in _REFUSED.items():
        if parameters.get(name):
            raise InvalidInput(message)


def read_params(parameters: Mapping[str, Any]) -> InferenceParams:
    """Return the tuning; numbers may come as texts, because some clients send no fractions, and lists as JSON.

    Raises:
        InvalidInput: A value cannot be.
    """
    given = {name: parameters[name] for name in TUNABLE if parameters.get(name) is not None}
    for name in _LISTS & given.keys():
        given[name] = _as_list(given[name])
    if not given:
        return InferenceParams()
    try:
        return InferenceParams.model_validate(given)
    except ValidationError as error:
        told = explain_validation([dict(item) for item in error.errors(include_input=False)])
        raise InvalidInput(f"parameter {told.message}", detail=told.detail) from None


def read_triton_priority(value: Any) -> Priority | None:
    """Return a priority given as Triton does, where 1 is the highest: 0 default, 1 HIGH, 2 NORMAL, more LOW; or a name.

    Raises:
        InvalidInput: It is neither.
    """
    if value is None or value == 0:
        return None
    if isinstance(value, str) and not value.strip().isdigit():
        return read_priority(value)
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput("parameter priority must be a whole number or one of HIGH, NORMAL, LOW") from None
    if number < 0:
        raise InvalidInput("parameter priority must not be negative")
    return {0: None, 1: Priority.HIGH, 2: Priority.NORMAL}.get(number, Priority.LOW)


def read_timeout_s(parameters: Mapping[str, Any]) -> float | None:
    """Return the parameter ``timeout``, microseconds on the wire, in seconds; None if there is none.

    Raises:
        InvalidInput: It is no whole number above zero.
    """
    value = parameters.get("timeout")
    if value is None or value == 0:
        return None
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdigit() or len(text) > 18:
        raise InvalidInput("parameter timeout must be a whole number of microseconds")
    return int(text) / 1e6 or None


def _as_list(value: Any) -> Any:
    """Return a list that came as a list, as JSON text, or as its only element."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return orjson.loads(value)
        except orjson.JSONDecodeError:
            pass  # a text that only begins like a list
    return [value]


def _text_of(tensor: Tensor) -> str:
    if tensor.datatype != "BYTES" or len(tensor.data) != 1:
        raise InvalidInput(f"input {tensor.name!r} must be BYTES with one element, the question; its shape is [1]")
    text = tensor.data[0]
    assert isinstance(text, bytes)
    try:
        return text.decode()
    except UnicodeDecodeError:
        raise InvalidInput(f"input {tensor.name!r} is no UTF-8 text") from None


def _images_of(tensor: Tensor, config: ApiConfig) -> tuple[Image, ...]:
    if tensor.datatype == "BYTES":
        return tuple(file for file in tensor.data if isinstance(file, bytes))
    shape = tensor.shape if len(tensor.shape) == 4 else (1, *tensor.shape)
    if len(shape) != 4 or shape[-1] != 3 or 0 in shape:
        raise InvalidInput(
            f"input {tensor.name!r} has the shape {list(tensor.shape)}; UINT8 pictures are [h, w, 3] or [n, h, w, 3]"
        )
    count, height_px, width_px, _ = shape
    if width_px * height_px > config.max_pixels:
        raise TooLarge(f"a picture is {width_px}x{height_px}; it may have {config.max_pixels} pixels (MAX_PIXELS)")
    # Before any of them is made: a body holds millions of pictures of one pixel.
    check_count(count, config)
    assert not isinstance(tensor.data, list)
    pixels, size = memoryview(tensor.data), width_px * height_px * 3
    return tuple(Pixels(pixels[at * size : (at + 1) * size], width_px, height_px) for at in range(count))


def _wanted(outputs: Sequence[str]) -> tuple[str, ...]:
    for name in outputs:
        if name not in OUTPUT_NAMES:
            raise InvalidInput(f"there is no output {name[:100]!r}; known are {', '.join(OUTPUT_NAMES)}")
    if len(set(outputs)) != len(outputs):
        raise InvalidInput("an output is asked for twice")
    return tuple(outputs) or OUTPUT_NAMES
