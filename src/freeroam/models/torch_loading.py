"""What every model of torch needs before its weights are there: device, number format, fewer bits, honest errors."""

from __future__ import annotations

import gc
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from freeroam.vocabulary.errors import ConfigurationError, FreeroamError, MissingExtra, ModelError

if TYPE_CHECKING:
    import torch

EXTRA = "transformers"
OUT_OF_MEMORY = "out_of_memory"
DTYPES = ("auto", "float32", "bfloat16", "float16")
QUANTIZATIONS = ("none", "8bit", "4bit", "dynamic8")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SAID_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def need_torch() -> Any:
    """Return the module ``torch``.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise MissingExtra(error.name or "torch", EXTRA) from error
    return torch


def need_transformers() -> Any:
    """Return the module ``transformers``, which from then on draws no bars.

    Raises:
        MissingExtra: It, or torch, is not installed.
    """
    need_torch()
    try:
        import transformers
    except ImportError as error:
        raise MissingExtra(error.name or "transformers", EXTRA) from error
    transformers.utils.logging.disable_progress_bar()
    return transformers


def choose_device(device: str) -> torch.device:
    """Return the device that a text names.

    Args:
        device: ``auto`` takes CUDA where there is one, else the processor; ``cpu``, ``cuda`` or ``cuda:N`` is taken at
            its word.

    Raises:
        ConfigurationError: It is another text, or this machine has no such device.
        MissingExtra: torch is not installed.
    """
    torch = need_torch()
    has_cuda = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda:0" if has_cuda else "cpu")
    if device == "cpu":
        return torch.device("cpu")
    name, _, number = device.partition(":")
    if name != "cuda" or (number and not number.isdecimal()) or device.endswith(":"):
        raise ConfigurationError(f"DEVICE={device}: expected auto, cpu, cuda or cuda:N")
    if not has_cuda:
        raise ConfigurationError(
            f"DEVICE={device}: this torch sees no CUDA device (is the driver there, and torch a CUDA build?)"
        )
    count = torch.cuda.device_count()
    if int(number or 0) >= count:
        raise ConfigurationError(f"DEVICE={device}: there are {count} CUDA devices, counted from 0")
    return torch.device(f"cuda:{int(number or 0)}")


def choose_dtype(device: torch.device, dtype: str = "auto") -> torch.dtype:
    """Return the number format of the weights.

    Args:
        device: Where they will be.
        dtype: ``auto`` is float32 on a processor, where answers are then the same in every batch, and bfloat16 on
            CUDA, or float16 where a card has no bfloat16; ``float32``, ``bfloat16`` and ``float16`` are taken at
            their word.

    Raises:
        ConfigurationError: It is another text.
    """
    torch = need_torch()
    if dtype not in DTYPES:
        raise ConfigurationError(f"dtype is {dtype!r}: expected one of {', '.join(DTYPES)}")
    if dtype != "auto":
        return getattr(torch, dtype)
    if device.type != "cuda":
        return torch.float32
    with torch.cuda.device(device):
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def set_threads(threads: int) -> None:
    """Hold torch to ``threads`` threads for one operation; 0 leaves it as the process was started."""
    if threads:
        need_torch().set_num_threads(threads)


def check_quantization(quantization: str, device: torch.device) -> None:
    """Refuse a way to use fewer bits that cannot be used on this device.

    Args:
        quantization: ``none``; ``8bit`` or ``4bit`` (weights, CUDA, by bitsandbytes); ``dynamic8`` (weights and
            activations of linear layers in int8, processor only, by torch itself).
        device: Where the model will be.

    Raises:
        ConfigurationError: It is another text, is for another device, or bitsandbytes is not installed.
    """
    if quantization not in QUANTIZATIONS:
        raise ConfigurationError(f"quantization is {quantization!r}: expected one of {', '.join(QUANTIZATIONS)}")
    if quantization == "dynamic8" and device.type != "cpu":
        raise ConfigurationError("quantization is dynamic8: that is for the processor; on CUDA use 8bit or 4bit")
    if quantization in {"8bit", "4bit"}:
        if device.type != "cuda":
            raise ConfigurationError(f"quantization is {quantization}: that needs CUDA; on a processor use dynamic8")
        try:
            import bitsandbytes  # type: ignore[import-not-found]  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(
                f"quantization is {quantization}: bitsandbytes is not installed; run: pip install bitsandbytes"
            ) from error


def loading_arguments(device: torch.device, dtype: torch.dtype, quantization: str = "none") -> dict[str, Any]:
    """Return what ``from_pretrained`` is to be told, so that weights go straight to their device in their format.

    Code that came with a model is never run: without a word it would ask on a terminal whether it may.

    Raises:
        ConfigurationError: See ``check_quantization``.
    """
    check_quantization(quantization, device)
    arguments: dict[str, Any] = {"dtype": dtype, "trust_remote_code": False}
    if device.type == "cuda":
        arguments["device_map"] = {"": device}
    if quantization in {"8bit", "4bit"}:
        config = need_transformers().BitsAndBytesConfig
        arguments["quantization_config"] = (
            config(load_in_8bit=True)
            if quantization == "8bit"
            else config(load_in_4bit=True, bnb_4bit_compute_dtype=dtype, bnb_4bit_quant_type="nf4")
        )
    return arguments


def make_ready(model: Any, *, quantization: str = "none", compile: bool = False) -> Any:  # noqa: A002 - torch's word
    """Return a loaded model ready to answer: without dropout or gradients, with fewer bits or compiled if so wished.

    Args:
        model: A ``torch.nn.Module``, loaded with ``loading_arguments`` of the same quantization.
        quantization: ``dynamic8`` is done here; the others were done while loading.
        compile: Whether ``forward`` is compiled (for shapes that change); the first calls then take minutes.
    """
    torch = need_torch()
    model.eval().requires_grad_(requires_grad=False)
    if quantization == "dynamic8":
        from torch.ao.quantization import quantize_dynamic

        with warnings.catch_warnings():
            # Its successor is a library of its own, which is no reason to print a page of advice at every start.
            warnings.simplefilter("ignore")
            model = quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)
    if compile:
        model.forward = torch.compile(model.forward, dynamic=True)
    return model


def check_path(model_path: str, model_type: str) -> Path | None:
    """Return the file or folder that ``MODEL_PATH`` names, or None if it is a hub id.

    Raises:
        ConfigurationError: It is empty, or neither exists nor looks like a hub id.
    """
    if not model_path:
        raise ConfigurationError(f"MODEL_PATH is empty: {model_type} needs a model's folder, its file or its hub id")
    path = Path(model_path).expanduser()
    if path.exists():
        return path
    if _HUB_ID.fullmatch(model_path) and not model_path.endswith((".gguf", ".safetensors", ".bin")):
        return None
    raise ConfigurationError(f"MODEL_PATH={model_path}: there is no such file or folder")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on a card or on the machine."""
    if isinstance(error, MemoryError):
        return True
    torch = need_torch()
    if isinstance(error, torch.OutOfMemoryError):
        return True
    # torch's allocator for the processor raises a plain RuntimeError.
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _SAID_OF_MEMORY)


@contextmanager
def told_honestly(what: str) -> Iterator[None]:
    """Turn an error of torch or transformers into one of ours.

    Args:
        what: What is being done, to begin the message with, as in ``MODEL_PATH=x: loading``.

    Raises:
        ModelError: ``out_of_memory`` if memory ran out, else ``load_failed``.
    """
    try:
        yield
    except FreeroamError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            free_memory()
            raise ModelError(f"{what} ran out of memory: {first_line(error)}", code=OUT_OF_MEMORY) from error
        raise ModelError(f"{what} failed: {type(error).__name__}: {first_line(error)}", code="load_failed") from error


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def free_memory() -> None:
    """Give back what nothing points to any more, on the card too."""
    gc.collect()
    torch = need_torch()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def describe(model: Any, device: torch.device, quantization: str = "none") -> dict[str, Any]:
    """Return what ``get_model_info`` says of any model of torch: device, architecture, parameters, dtype.

    Called before ``make_ready``, which may pack parameters so that they cannot be counted any more.
    """
    return {
        "device": str(device),
        "architecture": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "quantization": quantization,
    }


def find_ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the tokens that end an answer: those of the model's generation settings, and the tokenizer's own."""
    found = model.generation_config.eos_token_id
    ends = found if isinstance(found, list) else [found]
    return frozenset(int(token) for token in [*ends, tokenizer.eos_token_id] if token is not None)


def find_penalty(model: Any) -> float:
    """Return the repetition penalty that the model's author put beside the weights; 1 is none."""
    return float(model.generation_config.repetition_penalty or 1.0)


def check_whole(name: str, value: int, least: int, most: int | None = None) -> None:
    """Hold an option to two bounds.

    Raises:
        ConfigurationError: It lies beyond them, or is no whole number.
    """
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if not is_whole or value < least or (most is not None and value > most):
        bounds = f"of {least} or more" if most is None else f"from {least} to {most}"
        raise ConfigurationError(f"{name} is {value!r}: expected a whole number {bounds}")
