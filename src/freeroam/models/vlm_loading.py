"""A vision-language model's folder or hub id to a processor, also where there is no torchvision.

transformers 5 picks the PIL image processors by itself where torchvision is absent, but has none for videos: processors
with a video part (Qwen2.5-VL, SmolVLM2, LLaVA-OneVision) cannot be loaded by ``AutoProcessor`` then
(huggingface/transformers#48558). Here such a processor is put together without that part; frames are given to it as
pictures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from freeroam.models.torch_loading import (
    EXTRA,
    check_path,
    first_line,
    loading_arguments,
    make_ready,
    need_transformers,
    told_honestly,
)
from freeroam.vocabulary.errors import ConfigurationError, MissingExtra

if TYPE_CHECKING:
    import torch

MODEL_TYPE = "transformers_vlm"


def load_config(model_path: str) -> Any:
    """Return the configuration of a model of pictures and text.

    Raises:
        ConfigurationError: There is no such model, or it is one of another kind; the message names ``MODEL_PATH``.
        MissingExtra: torch, transformers or pillow is not installed.
    """
    check_path(model_path, MODEL_TYPE)
    transformers = need_transformers()
    try:
        import PIL  # noqa: F401 - what makes pictures ready; better missed now than at the first picture
    except ImportError as error:
        raise MissingExtra("pillow", EXTRA) from error
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    try:
        config = transformers.AutoConfig.from_pretrained(model_path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigurationError(
            f"MODEL_PATH={model_path}: no model that transformers can read ({first_line(error)})"
        ) from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise ConfigurationError(
            f"MODEL_PATH={model_path}: a {config.model_type} model takes no pictures; for text alone use "
            "MODEL_TYPE=transformers_text"
        )
    if config.is_encoder_decoder:
        raise ConfigurationError(
            f"MODEL_PATH={model_path}: {config.model_type} is an encoder-decoder; {MODEL_TYPE} speaks with "
            "decoder-only models (SmolVLM, Qwen-VL, LLaVA and their like)"
        )
    return config


def load_processor(model_path: str, config: Any) -> Any:
    """Return the processor of a model, with the PIL image processor where torchvision is absent.

    Raises:
        ConfigurationError: The folder holds no processor that can be used.
    """
    from transformers import AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
    from transformers.utils import is_num2words_available, is_torchvision_available

    chosen: Any = AutoProcessor
    if type(config) in PROCESSOR_MAPPING:
        own = PROCESSOR_MAPPING[type(config)]
        has_video = "video_processor" in own.get_attributes()
        if has_video and not (is_torchvision_available() and (own.__name__ != _SMOLVLM or is_num2words_available())):
            chosen = _pictures_only(own)
    try:
        processor = chosen.from_pretrained(model_path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ConfigurationError(
            f"MODEL_PATH={model_path}: its processor could not be loaded ({first_line(error)})"
        ) from error
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        raise ConfigurationError(
            f"MODEL_PATH={model_path}: there is no image processor or no tokenizer beside the weights; "
            "preprocessor_config.json and tokenizer.json of the original model belong into the folder"
        )
    return processor


_SMOLVLM = "SmolVLMProcessor"


def _pictures_only(own: Any) -> Any:
    """Return a processor class like ``own`` that has no video part."""
    from transformers import AutoImageProcessor, AutoTokenizer, Idefics3Processor

    if own.__name__ == _SMOLVLM:
        # It writes pictures into a prompt exactly as its forerunner does, and that one needs no num2words.
        return Idefics3Processor
    loaders = {"image_processor": AutoImageProcessor, "tokenizer": AutoTokenizer}

    class PicturesOnly(own):  # type: ignore[misc]
        @classmethod
        def _get_arguments_from_pretrained(cls, path: Any, processor_dict: Any = None, **more: Any) -> list[Any]:  # noqa: ARG003 - the base's parameters
            names = cls.get_attributes()
            return [loaders[name].from_pretrained(path, **more) if name in loaders else None for name in names]

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)

    return PicturesOnly


def load_network(model_path: str, device: torch.device, dtype: torch.dtype, quantization: str = "none") -> Any:
    """Return a model of transformers with its weights, on its device.

    Raises:
        ConfigurationError: This quantization cannot be used on this device.
        ModelError: ``out_of_memory`` or ``load_failed``.
    """
    arguments = loading_arguments(device, dtype, quantization)
    with told_honestly(f"MODEL_PATH={model_path}: loading"):
        return need_transformers().AutoModelForImageTextToText.from_pretrained(model_path, **arguments)


def compile_decoder(model: Any) -> None:
    """Translate the language part with ``torch.compile``, for lengths that change.

    The part that sees stays as it is: every new size of picture would translate it again.
    """
    make_ready(model.get_decoder(), compile=True)
