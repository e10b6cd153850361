"""``transformers_text``: any causal language model of transformers, spoken by our own step loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from freeroam.models.base import Question, Speaker
from freeroam.models.batch_first import SpeakerFirst
from freeroam.models.torch_loading import check_whole, find_ends, find_penalty
from freeroam.vocabulary.errors import ModelError
from freeroam.vocabulary.inference import InferenceParams
from freeroam.vocabulary.model import ModelWishes

if TYPE_CHECKING:
    from freeroam.models.generation import Manner
    from freeroam.models.generation_states import AnswerStates, Decoder
    from freeroam.models.text_prompts import TextPrompts

MODEL_TYPE = "transformers_text"
MAX_BATCH = 16
MAX_TOKENS = 512
_MOST_BATCH = 64
_WARM_TOKENS = 4


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What ``initialize`` made."""

    info: dict[str, Any]
    decoder: Decoder
    prompts: TextPrompts
    tokenizer: Any
    manner: Manner
    states: Callable[[], AnswerStates]


class TransformersText(SpeakerFirst):
    """A causal language model: a folder, a hub id or a GGUF file.

    Args:
        dtype: ``auto`` is float32 on a processor and bfloat16 on CUDA; or ``float32``, ``bfloat16``, ``float16``.
        quantization: ``none``; ``8bit`` or ``4bit`` on CUDA; ``dynamic8`` on a processor.
        compile: Whether ``torch.compile`` translates the model; the first answers then take minutes.
        max_batch: Answers spoken at once, 1 to 64.
        max_tokens: Longest answer of a question that does not say it, tokens.
        context: Most tokens of prompt and answer together; None takes what the model was trained for.
        chat: Whether a prompt is put into the model's chat template; None does so if the model has one.
        chat_template: A template (Jinja) to use instead of the model's own.
        template_options: What the template is told besides, as ``{"enable_thinking": false}``.
        system_prompt: Said first in every conversation that does not begin with one of its own.
        gguf_file: The GGUF file to take, where ``MODEL_PATH`` is a folder or a hub id that holds several.
        read_tokens: Prompt tokens read in one step while others speak: more, and a long prompt is read sooner but holds
            the others up longer; 0 takes 64 on a processor and 2048 on CUDA.
        threads: Threads of torch on the processor; 0 leaves it as the process was started.
    """

    def __init__(  # noqa: PLR0913 - one argument an option
        self,
        *,
        dtype: str = "auto",
        quantization: str = "none",
        compile: bool = False,  # noqa: A002 - the name that operators know
        max_batch: int = MAX_BATCH,
        max_tokens: int = MAX_TOKENS,
        context: int | None = None,
        chat: bool | None = None,
        chat_template: str = "",
        template_options: dict[str, Any] | None = None,
        system_prompt: str = "",
        gguf_file: str = "",
        read_tokens: int = 0,
        threads: int = 0,
    ) -> None:
        check_whole("max_batch", max_batch, 1, _MOST_BATCH)
        check_whole("max_tokens", max_tokens, 1)
        check_whole("read_tokens", read_tokens, 0)
        if context is not None:
            check_whole("context", context, 16)
        self._dtype = dtype
        self._quantization = quantization
        self._compile = compile
        self._max_batch = max_batch
        self._max_tokens = max_tokens
        self._context = context
        self._chat = chat
        self._chat_template = chat_template
        self._template_options = template_options or {}
        self._system_prompt = system_prompt
        self._gguf_file = gguf_file
        self._read_tokens = read_tokens
        self._threads = threads
        self._loaded: _Loaded | None = None

    async def initialize(self, model_path: str, device: str = "auto") -> None:
        """Load the weights and the tokenizer.

        Args:
            model_path: A folder as ``save_pretrained`` writes it, a GGUF file, or a hub id.
            device: ``auto`` takes CUDA if there is one, else the processor.

        Raises:
            ConfigurationError: No such model, one that is no causal language model, or no such device.
            ModelError: Its weights could not be loaded (``load_failed``) or do not fit (``out_of_memory``).
            MissingExtra: torch, transformers or gguf is not installed.
        """
        from freeroam.models import torch_loading

        torch_loading.need_transformers()
        torch_loading.set_threads(self._threads)
        chosen = torch_loading.choose_device(device)
        dtype = torch_loading.choose_dtype(chosen, self._dtype)
        import torch

        from freeroam.models.generation import Manner
        from freeroam.models.generation_states import Decoder
        from freeroam.models.generation_trial import make_states
        from freeroam.models.text_loading import Weights, find_context
        from freeroam.models.text_prompts import TextPrompts

        weights = Weights.at(model_path, self._gguf_file)
        config, tokenizer, model = weights.load(chosen, dtype, self._quantization)
        info = torch_loading.describe(model, chosen, self._quantization)
        context = find_context(config, self._context)
        prompts = TextPrompts(
            tokenizer,
            chat=self._chat,
            template=self._chat_template,
            template_options=self._template_options,
            system_prompt=self._system_prompt,
        )
        decoder = Decoder(model)
        with torch_loading.told_honestly(f"MODEL_PATH={model_path}: trying the model out"), torch.inference_mode():
            # Before activations are rounded to int8, which blurs what the trial looks at.
            is_exact = dtype == torch.float32 and self._quantization in {"none", "dynamic8"}
            states = make_states(decoder, context, is_exact=is_exact)
            torch_loading.make_ready(model, quantization=self._quantization, compile=self._compile)
        is_cpu = chosen.type == "cpu"
        self._loaded = _Loaded(
            info=info,
            decoder=decoder,
            prompts=prompts,
            tokenizer=tokenizer,
            manner=Manner(
                ends=find_ends(model, tokenizer),
                max_tokens=self._max_tokens,
                context=context,
                read_tokens=self._read_tokens or (64 if is_cpu else 2048),
                read_tokens_alone=max(self._read_tokens, 1024 if is_cpu else 8192),
                repetition_penalty=find_penalty(model),
            ),
            states=states,
        )

    async def warm_up(self) -> None:
        """Speak a few tokens, alone and two at once, so that the first question pays for no set-up.

        Raises:
            ModelError: What comes out is no number, or memory ran out.
        """
        await self.check_health()
        question = Question((), "Say hello.", InferenceParams(max_tokens=_WARM_TOKENS))
        for count in {1, min(2, self._max_batch)}:
            for answer in await self.predict_batch([question] * count):
                if isinstance(answer, Exception):
                    raise answer

    def get_wishes(self) -> ModelWishes:
        """Ask for no pictures, and for as many questions as are answered at once."""
        return ModelWishes(window=1, max_batch=self._max_batch, streams_text=True)

    def get_model_info(self) -> dict[str, Any]:
        """Say what it is, where it runs and how it reads and speaks."""
        loaded = self._ready
        return {
            "model_type": MODEL_TYPE,
            **loaded.info,
            "compiled": self._compile,
            "context_tokens": loaded.manner.context,
            "max_tokens": self._max_tokens,
            "chat_template": loaded.prompts.has_template,
            "decodes_together": loaded.states().is_shared,
        }

    def open_speaker(self) -> Speaker:
        """Return what speaks several answers at once."""
        from freeroam.models.generation import StepLoop

        loaded = self._ready
        return StepLoop(loaded.states(), loaded.prompts.prepare, loaded.tokenizer, loaded.manner)

    async def check_health(self) -> None:
        """Put a few tokens through the model; what is being spoken meanwhile is not touched.

        Raises:
            ModelError: What comes out is no number, as from broken memory or broken weights.
        """
        import torch

        from freeroam.models.torch_loading import told_honestly

        model = self._ready.decoder.model
        with told_honestly("a check of the model's health"), torch.inference_mode():
            scores = model(input_ids=torch.tensor([[0, 1, 2]], device=model.device), use_cache=False).logits
            is_sound = bool(torch.isfinite(scores).all())
        if not is_sound:
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
