"""``transformers_vlm``: any vision-language model of transformers, spoken by its own step loop.

What ``AutoModelForImageTextToText`` and ``AutoProcessor`` load is understood: SmolVLM and Idefics3, Qwen2-VL and its
successors, LLaVA and its kin. Pictures are made ready in the model's own process, by PIL where torchvision is absent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from freeroam.models.base import Question, Speaker
from freeroam.models.batch_first import SpeakerFirst
from freeroam.models.torch_loading import check_whole, find_ends, find_penalty
from freeroam.vocabulary.errors import ModelError
from freeroam.vocabulary.inference import InferenceParams
from freeroam.vocabulary.model import ModelWishes

if TYPE_CHECKING:
    from freeroam.models.vlm_batch import Network
    from freeroam.models.vlm_pictures import Eye
    from freeroam.models.vlm_prompts import Prompts

MAX_TOKENS = 256
MAX_BATCH = 8
_WARM_PX = 448
_MOST_BATCH = 64
_NO_BOUND = 2**31


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What ``initialize`` made."""

    info: dict[str, Any]
    network: Network
    prompts: Prompts
    tokenizer: Any
    eye: Eye
    ends: frozenset[int]
    context: int


class TransformersVLM(SpeakerFirst):
    """A vision-language model.

    Args:
        dtype: ``auto`` is float32 on a processor and bfloat16 on CUDA; or ``float32``, ``bfloat16``, ``float16``.
        quantization: ``none``; ``8bit`` or ``4bit`` on CUDA; ``dynamic8`` on a processor.
        compile: Whether ``torch.compile`` translates the language part; the first answers then take minutes.
        max_batch: Answers spoken at once, 1 to 64.
        max_tokens: Longest answer of a question that does not say it, tokens.
        window: Frames a question; None takes what the model was trained for: 4 for those that saw video, else 1.
        picture_px: Longest side of a picture inside the model, for models that take any size; None leaves it to the
            model, but no more than 1280 tokens a picture.
        context: Most tokens of prompt and answer together; None takes what the model was trained for.
        threads: Threads of torch on the processor; 0 lets it decide.
    """

    def __init__(  # noqa: PLR0913 - one argument an option
        self,
        *,
        dtype: str = "auto",
        quantization: str = "none",
        compile: bool = False,  # noqa: A002 - the name that operators know
        max_batch: int = MAX_BATCH,
        max_tokens: int = MAX_TOKENS,
        window: int | None = None,
        picture_px: int | None = None,
        context: int | None = None,
        threads: int = 0,
    ) -> None:
        check_whole("max_batch", max_batch, 1, _MOST_BATCH)
        check_whole("max_tokens", max_tokens, 1)
        if window is not None:
            check_whole("window", window, 1, 64)
        if picture_px is not None:
            check_whole("picture_px", picture_px, 28, 8192)
        if context is not None:
            check_whole("context", context, 16)
        self._dtype = dtype
        self._quantization = quantization
        self._compile = compile
        self._max_batch = max_batch
        self._max_tokens = max_tokens
        self._window = window
        self._picture_px = picture_px
        self._context = context
        self._threads = threads
        self._loaded: _Loaded | None = None

    async def initialize(self, model_path: str, device: str = "auto") -> None:
        """Load the weights and the processor.

        Args:
            model_path: A folder as ``save_pretrained`` writes it, or a hub id.
            device: ``auto`` takes CUDA if there is one, else the processor.

        Raises:
            ConfigurationError: No such model, one that this class cannot speak with, or no such device.
            ModelError: Its weights could not be loaded, or do not fit into memory.
            MissingExtra: torch, transformers or pillow is not installed.
        """
        from freeroam.models import torch_loading, vlm_loading

        torch_loading.need_transformers()
        torch_loading.set_threads(self._threads)
        chosen = torch_loading.choose_device(device)
        config = vlm_loading.load_config(model_path)
        processor = vlm_loading.load_processor(model_path, config)
        dtype = torch_loading.choose_dtype(chosen, self._dtype)
        from freeroam.models.vlm_batch import Network
        from freeroam.models.vlm_pictures import eye_of
        from freeroam.models.vlm_prompts import Prompts

        eye = eye_of(config, processor.image_processor, self._window, self._picture_px)
        model = vlm_loading.load_network(model_path, chosen, dtype, self._quantization)
        info = torch_loading.describe(model, chosen, self._quantization)
        model = torch_loading.make_ready(model, quantization=self._quantization)
        if self._compile:
            vlm_loading.compile_decoder(model)
        trained = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None) or _NO_BOUND
        context = min(trained, self._context or trained)
        self._loaded = _Loaded(
            info={"model_type": str(config.model_type), **info},
            network=Network(model, is_compiled=self._compile),
            prompts=Prompts(config, processor, eye),
            tokenizer=processor.tokenizer,
            eye=eye,
            ends=find_ends(model, processor.tokenizer),
            context=context,
        )

    async def warm_up(self) -> None:
        """Answer questions about real pictures, alone and two at once, so that the first one pays for no set-up."""
        eye = self._ready.eye
        side_px = min(eye.side_px or _WARM_PX, _WARM_PX)
        slope = np.linspace(0, 255, side_px, dtype=np.uint8)
        picture = np.broadcast_to(slope[None, :, None], (max(28, side_px * 9 // 16), side_px, 3)).copy()
        question = Question((picture,) * eye.window, "What is this?", InferenceParams(max_tokens=3))
        for count in {1, min(2, self._max_batch)}:
            for answer in await self.predict_batch([question] * count):
                if isinstance(answer, Exception):
                    raise answer

    def get_wishes(self) -> ModelWishes:
        """Ask for frames no larger than the model sees them, and for as many as it was trained to look at together."""
        eye = self._ready.eye
        return ModelWishes(
            width_px=eye.side_px,
            height_px=eye.side_px,
            window=eye.window,
            max_batch=self._max_batch,
            streams_text=True,
        )

    def get_model_info(self) -> dict[str, Any]:
        """Say what it is, where it runs and how it looks at pictures."""
        loaded = self._ready
        eye = loaded.eye
        return {
            **loaded.info,
            "compiled": self._compile,
            "context_tokens": loaded.context,
            "max_tokens": self._max_tokens,
            "picture": {"kind": eye.kind, "side_px": eye.side_px, "window": eye.window},
            "chat_template": loaded.prompts.has_template,
            "decodes_together": loaded.network.can_merge,
        }

    def open_speaker(self) -> Speaker:
        """Return what speaks several answers at once."""
        from freeroam.models.vlm_speaker import VlmSpeaker

        loaded = self._ready
        return VlmSpeaker(
            loaded.network,
            loaded.prompts.prepare,
            loaded.tokenizer,
            ends=loaded.ends,
            max_tokens=self._max_tokens,
            context=loaded.context,
            repetition_penalty=find_penalty(loaded.network.model),
        )

    async def check_health(self) -> None:
        """Put a few tokens through the model; what is being spoken meanwhile is not touched.

        Raises:
            ModelError: What comes out is no number, as from broken memory or broken weights.
        """
        import torch

        network = self._ready.network
        with torch.inference_mode():
            begun = network.begin({"input_ids": torch.tensor([[0, 1, 2]], device=network.device)})
            if not bool(torch.isfinite(begun.logits).all()):
                raise ModelError("the model's scores are no numbers any more; load it again")

    async def close(self) -> None:
        """Free the weights, and give the card's memory back."""
        if self._loaded is None:
            return
        from freeroam.models.torch_loading import free_memory

        self._loaded = None
        free_memory()

    @property
    def _ready(self) -> _Loaded:
        assert self._loaded is not None, "initialize() comes first"
        return self._loaded
