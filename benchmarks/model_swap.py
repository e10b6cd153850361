"""Does anybody notice a swap? Twenty of them under 64 busy askers, half of whom hear streams, and 8 video lanes.

Every answer is looked at: its text must be whole, the pieces of a stream must follow each other without a gap or a
double, and nothing that was asked may stay without an answer. Memory (PSS of this process and all its children) is
taken before and after, at rest, and every process of an old version must be gone. The model is the fake one, which
speaks a word every few milliseconds: what is tried is the engine, not a model.

    python benchmarks/model_swap.py [--swaps 20] [--unload-first]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import statistics
import time
from collections import Counter
from pathlib import Path

import psutil

from freeroam.clock import SystemClock
from freeroam.engines.embedded import EmbeddedEngine, EngineConfig, ModelSpec
from freeroam.observability.metrics import Metrics
from freeroam.processes.memory import give_memory_back
from freeroam.vocabulary.frame import Frame
from freeroam.vocabulary.inference import InferenceRequest, Output, Piece, Priority
from freeroam.vocabulary.model import ModelState

OUT = Path(__file__).parent / "out"
PATIENCE_S = 30.0


def spec_of(version: int, chosen: argparse.Namespace) -> ModelSpec:
    """Return a version of the model; every version says the same, so that a text tells whether it is whole."""
    options = {"tokens": chosen.tokens, "token_latency_ms": chosen.token_ms, "load_ms": 200.0}
    return ModelSpec("model", str(version), "fake", max_batch=64, options=options)


class Load:
    """Askers and lanes that go on until they are told to end.

    Attributes:
        answered: Answers by the version that gave them.
        faults: What was wrong, by kind.
        waits_ms: From the question to its whole answer.
    """

    def __init__(self, engine: EmbeddedEngine, chosen: argparse.Namespace) -> None:
        self.answered: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.waits_ms: list[float] = []
        self._engine = engine
        self._chosen = chosen
        self._text = "".join(f"word{number} " for number in range(chosen.tokens))
        self._is_over = False
        self._in_flight = 0
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin to ask."""
        askers = [self._ask_on(number) for number in range(self._chosen.askers)]
        lanes = [self._watch(number) for number in range(self._chosen.lanes)]
        self._tasks = [asyncio.create_task(one) for one in [*askers, *lanes]]

    async def end(self) -> None:
        """Ask nothing more, and wait for what was asked."""
        self._is_over = True
        await asyncio.gather(*self._tasks)
        self.faults["unanswered"] += self._in_flight

    async def _ask_on(self, number: int) -> None:
        while not self._is_over:
            await self._put(self._request(f"asker{number}", Priority(number % 3)), is_stream=number % 2 == 1)

    async def _watch(self, number: int) -> None:
        """Ask about a frame at a steady rate, as a job does: two questions in flight at most, else the frame waits."""
        frame = Frame(bytes(320 * 180 * 3), 320, 180, "0", 0.0, 0.0, 0.0, 0.0, 320, 180)
        async with asyncio.TaskGroup() as tasks:
            flying: set[asyncio.Task[None]] = set()
            while not self._is_over:
                if len(flying) < 2:
                    request = self._request(f"job{number}", Priority.NORMAL, (frame,))
                    flying.add(task := tasks.create_task(self._put(request, is_stream=False)))
                    task.add_done_callback(flying.discard)
                await asyncio.sleep(1.0 / self._chosen.fps)

    def _request(self, lane: str, priority: Priority, frames: tuple[Frame, ...] = ()) -> InferenceRequest:
        deadline_s = time.monotonic() + PATIENCE_S
        return InferenceRequest(
            lane, "model", "go on", frames, priority=priority, deadline_monotonic_s=deadline_s, lane=lane
        )

    async def _put(self, request: InferenceRequest, *, is_stream: bool) -> None:
        begun_s = time.monotonic()
        self._in_flight += 1
        try:
            output = await (self._listen(request) if is_stream else self._engine.ask(request))
            self._engine.describe(request.model)
        except Exception as error:  # every failure is what this is looking for
            self.faults[f"{type(error).__name__}: {error}"] += 1
            return
        finally:
            self._in_flight -= 1
        if output.text != self._text:
            self.faults["text not whole"] += 1
        self.answered[output.version] += 1
        self.waits_ms.append((time.monotonic() - begun_s) * 1000.0)

    async def _listen(self, request: InferenceRequest) -> Output:
        due, texts = 0, []
        async for item in self._engine.stream(request):
            if isinstance(item, Piece):
                self.faults["token lost"] += item.index > due
                self.faults["token doubled"] += item.index < due
                due = item.index + item.count
                texts.append(item.text)
                continue
            if due != self._chosen.tokens or "".join(texts) != item.text:
                self.faults["stream not whole"] += 1
            return item
        raise RuntimeError("a stream ended without its output")


def memory_bytes() -> int:
    """Return the proportional set size of this process and its children."""
    give_memory_back()
    me = psutil.Process()
    return sum(process.memory_full_info().pss for process in [me, *me.children(recursive=True)])


async def at_rest(engine: EmbeddedEngine) -> None:
    """Wait until one version is left and nothing is asked of it."""
    while True:
        infos = engine.list_models()
        if len(infos) == 1 and infos[0].state is ModelState.READY and not infos[0].queued and not infos[0].running:
            return
        await asyncio.sleep(0.02)


async def loaded_for(engine: EmbeddedEngine, chosen: argparse.Namespace, duration_s: float) -> Load:
    """Return a load that ran without any swap."""
    load = Load(engine, chosen)
    load.start()
    await asyncio.sleep(duration_s)
    await load.end()
    await at_rest(engine)
    return load


async def measure(chosen: argparse.Namespace) -> dict[str, object]:
    """Return everything that was seen."""
    engine = EmbeddedEngine([spec_of(1, chosen)], EngineConfig(), SystemClock(), Metrics())
    await engine.start()
    try:
        assert await engine.wait_ready(60.0), engine.describe().error
        calm = await loaded_for(engine, chosen, chosen.calm_s)
        before_bytes = memory_bytes()
        load, swaps_ms, pids = Load(engine, chosen), [], set(engine.replica_pids("*"))
        load.start()
        for number in range(chosen.swaps):
            await asyncio.sleep(chosen.between_s)
            begun_s = time.monotonic()
            await engine.load_model(spec_of(number + 2, chosen), unload_first=chosen.unload_first)
            swaps_ms.append((time.monotonic() - begun_s) * 1000.0)
            pids |= set(engine.replica_pids("*"))
        await asyncio.sleep(chosen.between_s)
        await load.end()
        await at_rest(engine)
        after_bytes = memory_bytes()
        left = sorted(pid for pid in pids - set(engine.replica_pids("*")) if psutil.pid_exists(pid))
    finally:
        await engine.stop()
    return {
        "settings": vars(chosen),
        "swaps": len(swaps_ms),
        "swap_ms": {"median": statistics.median(swaps_ms), "longest": max(swaps_ms)},
        "answers": sum(load.answered.values()),
        "versions_that_answered": len(load.answered),
        "faults": {kind: count for kind, count in (calm.faults + load.faults).items() if count},
        "answer_ms": {"calm": spread(calm.waits_ms), "swapping": spread(load.waits_ms)},
        "memory_mib": {"before": before_bytes / 2**20, "after": after_bytes / 2**20},
        "memory_change": after_bytes / before_bytes - 1.0,
        "processes_left": left,
    }


def spread(waits_ms: list[float]) -> dict[str, float]:
    """Return median, 99th percentile and the longest."""
    cuts = statistics.quantiles(waits_ms, n=100)
    return {"p50": cuts[49], "p99": cuts[98], "longest": max(waits_ms)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--askers", type=int, default=64)
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--fps", type=float, default=5.0)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--token-ms", type=float, default=5.0)
    parser.add_argument("--between-s", type=float, default=0.5)
    parser.add_argument("--calm-s", type=float, default=5.0)
    parser.add_argument("--unload-first", action="store_true", help="end the old version before the new one is loaded")
    chosen = parser.parse_args()
    logging.disable(logging.CRITICAL)
    told = asyncio.run(measure(chosen))
    print(json.dumps(told, indent=2))
    OUT.mkdir(exist_ok=True)
    (OUT / "model_swap.json").write_text(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
