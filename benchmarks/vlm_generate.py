"""Does the step loop of ``transformers_vlm`` cost anything? It, against a bare ``generate`` at the same batch.

Both sides make the same pictures and prompts ready with the same processor, run the same weights (random ones, in the
true architecture and size) and choose greedily; the bare side is one call of ``model.generate`` for the whole batch,
the other joins every question to the speaker and steps until all are answered, text included. They take turns, so that
what else the machine does hits both alike; the ratio is the median of the rounds. Tokens a second are those of the
answers. On a processor the ratio of the processor's own time is given too, which other programs disturb less.

    python benchmarks/vlm_generate.py --size qwen2.5-vl-3b                 # on an accelerator, 7.5 GB of weights
    python benchmarks/vlm_generate.py --size smolvlm-2.2b --batch 16
    python benchmarks/vlm_generate.py --size tiny --device cpu             # under a minute anywhere
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.service import write_json

from freeroam.models.base import Question
from freeroam.models.torch_loading import choose_device, choose_dtype, make_ready
from freeroam.models.vlm_batch import Network
from freeroam.models.vlm_loading import compile_decoder, load_processor
from freeroam.models.vlm_pictures import eye_of
from freeroam.models.vlm_prompts import Prompts
from freeroam.models.vlm_speaker import VlmSpeaker
from freeroam.vocabulary.inference import InferenceParams

QUESTION = "Describe what happens in this picture, and say whether anybody is in danger."
SPECIAL = ["<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|vision_start|>", "<|vision_end|>"]
QWEN = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
TILES = ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", "<image>"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}PICTURE{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n"
)


def qwen_config(ids: dict[str, int], tiny: bool) -> Any:
    """Return Qwen2.5-VL-3B-Instruct's configuration, or the same in small."""
    text = {
        "hidden_size": 256 if tiny else 2048,
        "intermediate_size": 704 if tiny else 11008,
        "num_hidden_layers": 4 if tiny else 36,
        "num_attention_heads": 4 if tiny else 16,
        "num_key_value_heads": 2,
        "vocab_size": 2048 if tiny else 151_936,
        "max_position_embeddings": 128_000,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "mrope_section": [8, 12, 12] if tiny else [16, 24, 24],
            "rope_theta": 1e6,
        },
    }
    vision = {
        "depth": 2 if tiny else 32,
        "hidden_size": 160 if tiny else 1280,
        "intermediate_size": 428 if tiny else 3420,
        "num_heads": 4 if tiny else 16,
        "out_hidden_size": text["hidden_size"],
        "fullatt_block_indexes": [1] if tiny else [7, 15, 23, 31],
        "window_size": 112,
        "patch_size": 14,
        "tokens_per_second": 2,
    }
    tokens = {
        "image_token_id": ids[QWEN["image"]],
        "video_token_id": ids[QWEN["video"]],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }
    return transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **tokens)


def smolvlm_config(ids: dict[str, int], tiny: bool) -> Any:
    """Return SmolVLM-Instruct's (2.2B) configuration."""
    del tiny
    text = {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 24,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "head_dim": 64,
        "vocab_size": 49_155,
        "max_position_embeddings": 16_384,
        "pad_token_id": 0,
    }
    vision = {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "image_size": 384,
        "patch_size": 14,
    }
    return transformers.Idefics3Config(
        text_config=text, vision_config=vision, image_token_id=ids["<image>"], scale_factor=3, pad_token_id=0
    )


SIZES = {
    "tiny": (qwen_config, True, [*SPECIAL, *QWEN.values()]),
    "qwen2.5-vl-3b": (qwen_config, False, [*SPECIAL, *QWEN.values()]),
    "smolvlm-2.2b": (
        smolvlm_config,
        False,
        [*SPECIAL, *TILES, *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))],
    ),
}


def save_processor(folder: Path, size: str, special: list[str]) -> dict[str, int]:
    """Write a tokenizer of bytes and the image processor's configuration; return the numbers of the special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=special[0])
    fast.save_pretrained(folder)
    if size == "smolvlm-2.2b":
        pictures: dict[str, Any] = {
            "image_processor_type": "Idefics3ImageProcessor",
            "size": {"longest_edge": 1536},
            "max_image_size": {"longest_edge": 384},
        }
        processor: dict[str, Any] = {"processor_class": "Idefics3Processor", "image_seq_len": 81}
        picture = "<image>"
    else:
        pictures = {"image_processor_type": "Qwen2VLImageProcessor", "min_pixels": 3136, "max_pixels": 12_845_056}
        pictures |= {"patch_size": 14, "temporal_patch_size": 2, "merge_size": 2}
        processor = {"processor_class": "Qwen2_5_VLProcessor"}
        picture = f"<|vision_start|>{QWEN['image']}<|vision_end|>"
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures))
    (folder / "processor_config.json").write_text(json.dumps(processor))
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("PICTURE", picture))
    return {text: fast.convert_tokens_to_ids(text) for text in special}


@dataclass(frozen=True, slots=True)
class Bench:
    """What both sides share."""

    network: Network
    prompts: Prompts
    tokenizer: Any
    questions: list[Question]
    tokens: int
    context: int

    def bare(self) -> list[list[int]]:
        """Answer with one call of ``generate``; return the tokens."""
        prompts = [self.prompts.prepare(question).inputs for question in self.questions]
        device, dtype = self.network.device, self.network.model.dtype
        inputs = {name: torch.cat([prompt[name] for prompt in prompts]) for name in prompts[0]}
        moved = {
            name: value.to(device, dtype) if value.is_floating_point() else value.to(device)
            for name, value in inputs.items()
        }
        with torch.inference_mode():
            said = self.network.model.generate(
                **moved, max_new_tokens=self.tokens, min_new_tokens=self.tokens, do_sample=False, eos_token_id=None
            )
        return [row[inputs["input_ids"].shape[1] :] for row in said.tolist()]

    def ours(self) -> list[str]:
        """Answer with the step loop; return the texts."""
        speaker = VlmSpeaker(
            self.network,
            self.prompts.prepare,
            self.tokenizer,
            ends=[],
            max_tokens=self.tokens,
            context=self.context,
        )
        for key, question in enumerate(self.questions):
            speaker.join(key, question)
        texts: dict[int, str] = {}
        while len(texts) < len(self.questions):
            for said in speaker.step():
                if isinstance(said.answer, Exception):
                    raise said.answer
                if said.answer is not None:
                    texts[said.key] = said.answer["text"]
        return [texts[key] for key in range(len(self.questions))]


def make_bench(arguments: argparse.Namespace) -> Bench:
    """Make the model on its device, with random weights."""
    device = choose_device(arguments.device)
    dtype = choose_dtype(device, arguments.dtype)
    config_of, tiny, special = SIZES[arguments.size]
    folder = Path(tempfile.mkdtemp(prefix="vlm-bench-"))
    ids = save_processor(folder, arguments.size, special)
    config = config_of(ids, tiny)
    config.save_pretrained(folder)
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    with device:
        model = transformers.AutoModelForImageTextToText.from_config(config, dtype=dtype)
    torch.set_default_dtype(torch.float32)
    model.generation_config.pad_token_id = 0
    model = make_ready(model.to(device))
    if arguments.compile:
        compile_decoder(model)
    processor = load_processor(str(folder), config)
    context = config.get_text_config().max_position_embeddings
    prompts = Prompts(config, processor, eye_of(config, processor.image_processor, None, None))
    width_px, height_px = (int(side) for side in arguments.picture.split("x"))
    noise = np.random.default_rng(0)
    params = InferenceParams(max_tokens=arguments.tokens)
    questions = [
        Question((noise.integers(0, 255, (height_px, width_px, 3), np.uint8),), QUESTION, params)
        for _ in range(arguments.batch)
    ]
    return Bench(
        Network(model, is_compiled=arguments.compile),
        prompts,
        processor.tokenizer,
        questions,
        arguments.tokens,
        context,
    )


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of the clock and of this process's processor time that a call took."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started_s, worked_s = time.perf_counter(), time.process_time()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started_s, time.process_time() - worked_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="qwen2.5-vl-3b")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--picture", default="448x252", help="width and height, pixels")
    parser.add_argument("--threads", type=int, default=0, help="of torch on the processor; 0 lets it decide")
    parser.add_argument("--compile", action="store_true", help="translate the language part, for both sides")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    transformers.utils.logging.set_verbosity_error()
    bench = make_bench(arguments)
    bare_tokens, texts = bench.bare(), bench.ours()
    same = [
        bench.tokenizer.decode(row, skip_special_tokens=True) == text
        for row, text in zip(bare_tokens, texts, strict=True)
    ]
    rounds = [(timed(bench.bare), timed(bench.ours)) for _ in range(arguments.rounds)]
    spoken = arguments.batch * arguments.tokens
    bare_s, ours_s = (statistics.median(times[side][0] for times in rounds) for side in (0, 1))
    by_clock, by_work = ([bare[which] / ours[which] for bare, ours in rounds] for which in (0, 1))
    device = bench.network.device
    result = {
        "size": arguments.size,
        "architecture": type(bench.network.model).__name__,
        "parameters": bench.network.model.num_parameters(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu",
        "dtype": str(bench.network.model.dtype),
        "batch": arguments.batch,
        "tokens": arguments.tokens,
        "prompt_tokens": bench.prompts.prepare(bench.questions[0]).prompt_tokens,
        "compiled": arguments.compile,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "bare_tokens_per_s": round(spoken / bare_s, 1),
        "ours_tokens_per_s": round(spoken / ours_s, 1),
        "ratio": round(statistics.median(by_clock), 3),
        "ratio_of_processor_time": round(statistics.median(by_work), 3),
        "ratio_of_each_round": [round(ratio, 3) for ratio in by_clock],
        "same_answers": f"{sum(same)} of {len(same)}",
    }
    for name, value in result.items():
        print(f"{name:>24}: {value}")
    write_json("vlm_generate", result)


if __name__ == "__main__":
    main()
