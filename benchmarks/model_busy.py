"""Is the model kept busy? Eight streams at 15 FPS through the engine, against a bare loop round the same model.

Both sides prepare, infer and decode with the same functions, the same batch and one onnxruntime thread; the bare loop
does nothing else. Runs alternate, so that what else the machine does hits both. The engine's side feeds frames as a job
does: each lane has a bounded number of questions in flight and asks about its newest frame, dropping older ones.

    python benchmarks/model_busy.py [--seconds 8] [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from skimage import data, transform

from freeroam.clock import SystemClock
from freeroam.engines.embedded import EmbeddedEngine, EngineConfig, ModelSpec
from freeroam.models.answers import normalised
from freeroam.models.base import Question
from freeroam.models.detector import Detector
from freeroam.processes.child import thread_environment
from freeroam.vocabulary.frame import Frame
from freeroam.vocabulary.inference import InferenceParams, InferenceRequest

PROMPT = "Detect all people and vehicles"
OUT = Path(__file__).parent / "out"
WARM_UP_S = 1.5


def pictures(count: int = 16) -> list[np.ndarray]:
    """Return natural pictures ``[288, 512, 3]``, each a little different."""
    sources = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    shown = []
    for number in range(count):
        source = sources[number % len(sources)]
        moved = np.roll(source, 7 * number, axis=1)
        shown.append(transform.resize(moved, (288, 512), preserve_range=True).astype(np.uint8))
    return shown


def bare(seconds: float, batch: int) -> float:
    """Return frames a second of the model alone, in this process."""
    shown = pictures()
    model = Detector(threads=1)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(model.initialize("", "cpu"))
    loop.run_until_complete(model.warm_up())
    count, at, begun_s = 0, 0, 0.0
    start_s = time.perf_counter()
    while True:
        now_s = time.perf_counter()
        if not begun_s and now_s - start_s > WARM_UP_S:
            begun_s, count = now_s, 0
        if begun_s and now_s - begun_s >= seconds:
            return count / (now_s - begun_s)
        questions = []
        for _ in range(batch):
            picture = np.frombuffer(shown[at % len(shown)], np.uint8).reshape(288, 512, 3)
            questions.append(Question((picture,), PROMPT, InferenceParams()))
            at += 1
        for answer in loop.run_until_complete(model.predict_batch(questions)):
            normalised(answer)
        count += batch


class Lane:
    """One stream: a frame is due every ``1 / fps``; the newest is asked about, at most ``in_flight`` at a time."""

    def __init__(self, engine: EmbeddedEngine, name: str, fps: float, in_flight: int, shown: list[bytes]) -> None:
        self.engine, self.name, self.fps, self.in_flight, self.shown = engine, name, fps, in_flight, shown
        self.answered = self.dropped = self.asking = 0
        self.newest: Frame | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Hand out frames at the stream's pace until cancelled."""
        number, due_s = 0, time.monotonic() + hash(self.name) % 1000 / 1000.0 / self.fps
        while True:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            if self.newest is not None:
                self.dropped += 1
            pixels = self.shown[number % len(self.shown)]
            self.newest = Frame(pixels, 512, 288, str(number), 0.0, 0.0, 0.0, due_s, 1920, 1080)
            self.ask()
            number += 1
            due_s += 1.0 / self.fps

    def ask(self) -> None:
        """Ask about the newest frame, if there is one and room for it."""
        if self.newest is None or self.asking >= self.in_flight:
            return
        frame, self.newest = self.newest, None
        self.asking += 1
        task = asyncio.create_task(self.answer(frame))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def answer(self, frame: Frame) -> None:
        """Wait for one answer, then ask on."""
        request = InferenceRequest(f"{self.name}-{frame.frame_id}", "detector", PROMPT, (frame,), lane=self.name)
        await self.engine.ask(request)
        self.answered += 1
        self.asking -= 1
        self.ask()


async def through_engine(seconds: float, lanes: int, fps: float, in_flight: int) -> dict[str, float]:
    """Return frames a second through the engine, and what its queue said."""
    shown = [picture.tobytes() for picture in pictures()]
    engine = EmbeddedEngine(
        [ModelSpec("detector", device="cpu", options={"threads": 1})], EngineConfig(), SystemClock()
    )
    await engine.start()
    assert await engine.wait_ready(60.0), engine.describe().error
    running = [Lane(engine, f"lane{number}", fps, in_flight, shown) for number in range(lanes)]
    tasks = [asyncio.create_task(lane.run()) for lane in running]
    await asyncio.sleep(WARM_UP_S)
    before, begun_s, cpu_s = sum(lane.answered for lane in running), time.perf_counter(), time.process_time()
    await asyncio.sleep(seconds)
    took_s = time.perf_counter() - begun_s
    answered = sum(lane.answered for lane in running) - before
    cpu_share = (time.process_time() - cpu_s) / took_s
    shares = [lane.answered for lane in running]
    for task in [*tasks, *(task for lane in running for task in lane.tasks)]:
        task.cancel()
    told = engine.describe().statistics
    await engine.stop()
    return {
        "fps": answered / took_s,
        "parent_cpu": cpu_share,
        "mean_batch": told["mean_batch_size"],
        "wait_p50_ms": told["wait_ms"]["p50"],
        "least_lane": min(shares),
        "greatest_lane": max(shares),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--fps", type=float, default=15.0)
    parser.add_argument("--in-flight", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--bare", action="store_true", help="run the bare loop only and print its rate")
    chosen = parser.parse_args()
    if chosen.bare:
        print(json.dumps(bare(chosen.seconds, chosen.batch)))
        return
    rounds = []
    for number in range(chosen.rounds):
        engine = asyncio.run(through_engine(chosen.seconds, chosen.lanes, chosen.fps, chosen.in_flight))
        command = [sys.executable, __file__, "--bare", "--seconds", str(chosen.seconds), "--batch", str(chosen.batch)]
        alone = json.loads(
            subprocess.run(
                command, check=True, capture_output=True, text=True, env={**os.environ, **thread_environment(1)}
            ).stdout
        )
        rounds.append({**engine, "bare_fps": alone, "ratio": engine["fps"] / alone})
        print(
            f"round {number + 1}: engine {engine['fps']:6.2f} frames/s, bare loop {alone:6.2f}, "
            f"ratio {engine['fps'] / alone:.3f} (batch {engine['mean_batch']}, parent {engine['parent_cpu']:.0%} of a "
            f"core, lanes {engine['least_lane']}..{engine['greatest_lane']})",
            flush=True,
        )
    ratio = statistics.median(one["ratio"] for one in rounds)
    print(f"model kept busy: {ratio:.3f} of the bare loop (median of {len(rounds)} rounds; bar 0.95)")
    OUT.mkdir(exist_ok=True)
    (OUT / "model_busy.json").write_text(json.dumps({"ratio": ratio, "rounds": rounds, **vars(chosen)}, indent=2))


if __name__ == "__main__":
    main()
