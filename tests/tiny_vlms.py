"""Makers of tiny vision-language models with random weights, in the true architectures and the layout of their folders.

A text token is a byte, so whatever a model says is full of broken characters: what a stream of text must survive.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LAYERS = 2
HIDDEN = 48
PATCH_PX = 14
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE"
    "{% elif part['type'] == 'video' %}VIDEO{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}:"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}"
    "{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
_QWEN = [
    *("<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|vision_start|>", "<|vision_end|>"),
    *("<|image_pad|>", "<|video_pad|>"),
]
KINDS = ("llava", "idefics3", "smolvlm", "qwen2_5_vl")
SLIDING = "llava_sliding"
"""LLaVA round a language model whose every second layer looks back 16 tokens only."""
OTHERS = ("llava_onevision", "qwen3_vl", "gemma3")
"""Architectures that are only tried for answering the same alone, together and by ``generate``."""


def make_vlm(kind: str, folder: Path, *, with_chat_template: bool = True, seed: int = 0) -> Path:
    """Make a tiny model of one of ``KINDS``, ``SLIDING`` or ``OTHERS`` in a new folder, and return the folder."""
    import torch

    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    maker = {
        "llava": _llava,
        SLIDING: _llava,
        "idefics3": _idefics3,
        "smolvlm": _idefics3,
        "qwen2_5_vl": _qwen2_5_vl,
        "llava_onevision": _llava_onevision,
        "qwen3_vl": _qwen3_vl,
        "gemma3": _gemma3,
    }[kind]
    model, template = maker(folder, kind)
    _let_it_speak(model)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    if with_chat_template:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def _let_it_speak(model: Any) -> None:
    """Make weights large, so that what it says depends on all that it was shown, and only text tokens come out."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0)
        head = model.get_output_embeddings().weight
        head[256:] = -head[:256].abs().max()
        head[256:, 1:] = 0.0


def _tokenizer(folder: Path, special: list[str], **more: Any) -> dict[str, int]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=special[0], eos_token=special[1], **more)
    fast.save_pretrained(folder)
    return {text: fast.convert_tokens_to_ids(text) for text in special}


def _write(folder: Path, name: str, **content: Any) -> None:
    (folder / name).write_text(json.dumps(content))


def _text(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        **more,
    }


def _llava(folder: Path, kind: str) -> tuple[Any, str]:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, Qwen2Config

    ids = _tokenizer(folder, ["<pad>", "</s>", "<image>"])
    vision = CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=4 * PATCH_PX,
        patch_size=PATCH_PX,
        projection_dim=32,
    )
    given = _text(vocab_size=259, bos_token_id=None, eos_token_id=ids["</s>"], pad_token_id=ids["<pad>"])
    layers = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 16, "use_sliding_window": True}
    text = Qwen2Config(**given, **layers) if kind == SLIDING else LlamaConfig(**given)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=ids["<image>"], image_seq_length=16)
    side = {"height": 4 * PATCH_PX, "width": 4 * PATCH_PX}
    _write(
        folder,
        "preprocessor_config.json",
        image_processor_type="CLIPImageProcessor",
        size={"shortest_edge": 4 * PATCH_PX},
        crop_size=side,
        do_center_crop=True,
    )
    _write(
        folder,
        "processor_config.json",
        processor_class="LlavaProcessor",
        patch_size=PATCH_PX,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        image_token="<image>",
    )
    template = _CHATML.replace("IMAGE", "<image>\n").replace("<|im_start|>", "").replace("<|im_end|>", "</s>")
    return LlavaForConditionalGeneration(config), template


def _idefics3(folder: Path, kind: str) -> tuple[Any, str]:
    import transformers

    rows = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    special = ["<pad>", "<end_of_utterance>", "<image>", "<fake_token_around_image>", "<global-img>", "<|im_start|>"]
    ids = _tokenizer(folder, [*special, *rows])
    side_px = 4 * PATCH_PX
    vision = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": side_px,
        "patch_size": PATCH_PX,
    }
    text = _text(vocab_size=256 + len(special) + len(rows), bos_token_id=None, eos_token_id=1, pad_token_id=256)
    name = {"idefics3": "Idefics3", "smolvlm": "SmolVLM"}[kind]
    config = getattr(transformers, f"{name}Config")(
        vision_config=vision,
        text_config={"model_type": "llama", **text},
        image_token_id=ids["<image>"],
        scale_factor=2,
        pad_token_id=ids["<pad>"],
    )
    _write(
        folder,
        "preprocessor_config.json",
        image_processor_type=f"{name}ImageProcessor",
        size={"longest_edge": 2 * side_px},
        max_image_size={"longest_edge": side_px},
        do_image_splitting=True,
    )
    _write(folder, "processor_config.json", processor_class=f"{name}Processor", image_seq_len=4)
    return getattr(transformers, f"{name}ForConditionalGeneration")(config), _SMOLVLM_TEMPLATE


def _qwen2_5_vl(folder: Path, kind: str) -> tuple[Any, str]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    ids = _tokenizer(folder, _QWEN)
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": PATCH_PX,
        "out_hidden_size": HIDDEN,
        "fullatt_block_indexes": [1],
        "window_size": 4 * PATCH_PX,
        "tokens_per_second": 2,
    }
    text = _text(
        vocab_size=263,
        bos_token_id=None,
        eos_token_id=ids["<|im_end|>"],
        pad_token_id=ids["<|endoftext|>"],
        rope_parameters={"rope_type": "default", "mrope_section": [2, 2, 2], "rope_theta": 10000.0},
    )
    config = Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    _write(
        folder,
        "preprocessor_config.json",
        image_processor_type="Qwen2VLImageProcessor",
        processor_class="Qwen2_5_VLProcessor",
        min_pixels=4 * 28 * 28,
        max_pixels=24 * 28 * 28,
        patch_size=PATCH_PX,
        temporal_patch_size=2,
        merge_size=2,
    )
    template = _CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    template = template.replace("VIDEO", "<|vision_start|><|video_pad|><|vision_end|>")
    return Qwen2_5_VLForConditionalGeneration(config), template


def _llava_onevision(folder: Path, kind: str) -> tuple[Any, str]:
    import transformers

    ids = _tokenizer(folder, ["<pad>", "</s>", "<image>", "<video>"])
    side_px = 4 * PATCH_PX
    grids = [[side_px * rows, side_px * columns] for rows in (1, 2) for columns in (1, 2)]
    config = transformers.LlavaOnevisionConfig(
        vision_config=_siglip(side_px),
        text_config=transformers.Qwen2Config(**_text(vocab_size=260, eos_token_id=257, pad_token_id=256)),
        image_token_index=ids["<image>"],
        video_token_index=ids["<video>"],
        image_grid_pinpoints=grids,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    _write(
        folder,
        "preprocessor_config.json",
        image_processor_type="LlavaOnevisionImageProcessor",
        size={"height": side_px, "width": side_px},
        image_grid_pinpoints=grids,
    )
    _write(
        folder,
        "processor_config.json",
        processor_class="LlavaOnevisionProcessor",
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        image_token="<image>",
        video_token="<video>",
    )
    template = _CHATML.replace("IMAGE", "<image>\n").replace("<|im_start|>", "").replace("<|im_end|>", "</s>")
    return transformers.LlavaOnevisionForConditionalGeneration(config), template


def _qwen3_vl(folder: Path, kind: str) -> tuple[Any, str]:
    import transformers

    forerunner, template = _qwen2_5_vl(folder, kind)
    ids = {text: 256 + number for number, text in enumerate(_QWEN)}
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "patch_size": PATCH_PX,
        "out_hidden_size": HIDDEN,
        "deepstack_visual_indexes": [0],
        "num_position_embeddings": 64,
    }
    rope = forerunner.config.text_config.rope_parameters
    config = transformers.Qwen3VLConfig(
        vision_config=vision,
        text_config=_text(vocab_size=263, head_dim=12, eos_token_id=257, pad_token_id=256, rope_parameters=rope),
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    _write(folder, "processor_config.json", processor_class="Qwen3VLProcessor")
    return transformers.Qwen3VLForConditionalGeneration(config), template


def _gemma3(folder: Path, kind: str) -> tuple[Any, str]:
    import transformers

    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    special = ["<pad>", "<eos>", *named.values(), "<bos>"]
    ids = _tokenizer(folder, special, extra_special_tokens=named)
    side_px = 4 * PATCH_PX
    layers = {"sliding_window": 16, "layer_types": ["sliding_attention", "full_attention"]}
    text = _text(vocab_size=262, head_dim=12, bos_token_id=None, eos_token_id=257, pad_token_id=256, **layers)
    config = transformers.Gemma3Config(
        vision_config=_siglip(side_px),
        text_config=transformers.Gemma3TextConfig(**text),
        image_token_index=ids[named["image_token"]],
        boi_token_index=ids[named["boi_token"]],
        eoi_token_index=ids[named["eoi_token"]],
        mm_tokens_per_image=4,
    )
    size = {"height": side_px, "width": side_px}
    _write(folder, "preprocessor_config.json", image_processor_type="Gemma3ImageProcessor", size=size)
    _write(folder, "processor_config.json", processor_class="Gemma3Processor", image_seq_length=4)
    template = _CHATML.replace("IMAGE", "<start_of_image>").replace("<|im_start|>", "").replace("<|im_end|>", "<eos>")
    return transformers.Gemma3ForConditionalGeneration(config), template


def _siglip(side_px: int) -> Any:
    from transformers import SiglipVisionConfig

    return SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=side_px,
        patch_size=PATCH_PX,
    )
