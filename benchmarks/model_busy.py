"""Is the model kept busy? Eight streams at 15 FPS through the engine, against a bare loop round the same model.

Both sides prepare, infer and decode with the same functions, the same batch and one onnxruntime thread; the bare loop
does nothing else. Both live all the time and take turns of a few seconds, so that what else the machine does hits both
alike. The engine's side feeds frames as a job does: each lane has a bounded number of questions in flight and asks
about its newest frame, dropping older ones.

    python benchmarks/model_busy.py [--seconds 3] [--rounds 10]
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
from typing import Any

import numpy as np
import psutil
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
WARM_UP_S = 0.7


def pictures(count: int = 16) -> list[np.ndarray]:
    """Return natural pictures ``[288, 512, 3]``, each a little different."""
    sources = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    shown = []
    for number in range(count):
        source = sources[number % len(sources)]
        moved = np.roll(source, 7 * number, axis=1)
        shown.append(transform.resize(moved, (288, 512), preserve_range=True).astype(np.uint8))
    return shown


def bare_loop(batch: int) -> None:
    """Answer each line of seconds on standard input with the frames a second of the model alone, as JSON."""
    shown = pictures()
    model = Detector(threads=1)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(model.initialize("", "cpu"))
    loop.run_until_complete(model.warm_up())
    print("ready", flush=True)
    for line in sys.stdin:
        count, begun_s, cpu_s = 0, time.perf_counter(), time.process_time()
        while (took_s := time.perf_counter() - begun_s) < float(line):
            questions = []
            for place in range(count, count + batch):
                picture = np.frombuffer(shown[place % len(shown)], np.uint8).reshape(288, 512, 3)
                questions.append(Question((picture,), PROMPT, InferenceParams()))
            for answer in loop.run_until_complete(model.predict_batch(questions)):
                normalised(answer)
            count += batch
        told = {"fps": count / took_s, "cpu_ms": (time.process_time() - cpu_s) * 1000.0 / count}
        print(json.dumps(told), flush=True)


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


async def engine_slice(lanes: list[Lane], replica: psutil.Process, seconds: float) -> dict[str, float]:
    """Let the lanes ask for a while; return frames a second and what a frame cost the replica and this process."""
    tasks = [asyncio.create_task(lane.run()) for lane in lanes]
    await asyncio.sleep(WARM_UP_S)
    before, begun_s, own_s = sum(lane.answered for lane in lanes), time.perf_counter(), time.process_time()
    cpu_s = sum(replica.cpu_times()[:2])
    await asyncio.sleep(seconds)
    took_s = time.perf_counter() - begun_s
    count = max(1, sum(lane.answered for lane in lanes) - before)
    cost = {
        "fps": count / took_s,
        "cpu_ms": (sum(replica.cpu_times()[:2]) - cpu_s) * 1000.0 / count,
        "parent_cpu_ms": (time.process_time() - own_s) * 1000.0 / count,
    }
    for task in tasks:
        task.cancel()
    while any(lane.asking for lane in lanes):
        await asyncio.sleep(0.01)
    return cost


async def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Alternate short slices of both sides, so that what else the machine does hits both alike."""
    shown = [picture.tobytes() for picture in pictures()]
    command = [sys.executable, __file__, "--bare", "--batch", str(chosen.batch)]
    alone = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **thread_environment(1)}
    )
    assert alone.stdin is not None
    assert alone.stdout is not None
    alone.stdout.readline()
    engine = EmbeddedEngine(
        [ModelSpec("detector", device="cpu", options={"threads": 1})], EngineConfig(), SystemClock()
    )
    await engine.start()
    assert await engine.wait_ready(60.0), engine.describe().error
    replica = psutil.Process(engine.replica_pids()[0])
    lanes = [Lane(engine, f"lane{n}", chosen.fps, chosen.in_flight, shown) for n in range(chosen.lanes)]
    rounds: list[dict[str, float]] = []
    for number in range(chosen.rounds):
        ours = await engine_slice(lanes, replica, chosen.seconds)
        alone.stdin.write(f"{chosen.seconds}\n")
        alone.stdin.flush()
        theirs = json.loads(alone.stdout.readline())
        rounds.append({**ours, "bare_fps": theirs["fps"], "bare_cpu_ms": theirs["cpu_ms"]})
        print(
            f"round {number + 1}: engine {ours['fps']:5.1f} frames/s, bare loop {theirs['fps']:5.1f}, "
            f"ratio {ours['fps'] / theirs['fps']:.3f}; model process {ours['cpu_ms']:.1f} ms of CPU a frame, "
            f"bare loop {theirs['cpu_ms']:.1f}, our process {ours['parent_cpu_ms']:.2f}",
            flush=True,
        )
    statistics_told = engine.describe().statistics
    await engine.stop()
    alone.stdin.close()
    alone.wait()
    return {"rounds": rounds, "answered": [lane.answered for lane in lanes], "statistics": statistics_told}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="length of a slice")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--lanes", type=int, default=8)
    parser.add_argument("--fps", type=float, default=15.0)
    parser.add_argument("--in-flight", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--bare", action="store_true", help="be the bare loop")
    chosen = parser.parse_args()
    if chosen.bare:
        bare_loop(chosen.batch)
        return
    told = asyncio.run(measure(chosen))
    rounds = told["rounds"]
    ratio = statistics.median(one["fps"] / one["bare_fps"] for one in rounds)
    cpu_ratio = statistics.median(one["bare_cpu_ms"] / one["cpu_ms"] for one in rounds)
    print(
        f"model kept busy: {ratio:.3f} of the bare loop (median of {len(rounds)} rounds; bar 0.95); by CPU a frame "
        f"{cpu_ratio:.3f}; mean batch {told['statistics']['mean_batch_size']}; lanes {min(told['answered'])} to "
        f"{max(told['answered'])} answers"
    )
    OUT.mkdir(exist_ok=True)
    (OUT / "model_busy.json").write_text(
        json.dumps({"ratio": ratio, "cpu_ratio": cpu_ratio, **told, "settings": vars(chosen)}, indent=2)
    )


if __name__ == "__main__":
    main()
