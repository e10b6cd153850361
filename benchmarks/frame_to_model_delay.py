"""How long from a frame's due time to its model call? Ten streams, the time the model was busy taken out.

The engine's part of the way: frames are due on a timer, asked about as a job does, and the model says when its call
began. ``benchmarks/service.py`` measures the same over the whole service.

    python benchmarks/frame_to_model_delay.py [--seconds 20] [--lanes 10] [--fps 2] [--uvloop]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from pathlib import Path

from freeroam.clock import SystemClock
from freeroam.engines.embedded import EmbeddedEngine, EngineConfig, ModelSpec
from freeroam.engines.statistics import percentiles
from freeroam.vocabulary.frame import Frame
from freeroam.vocabulary.inference import InferenceRequest, Output

OUT = Path(__file__).parent / "out"
WIDTH_PX, HEIGHT_PX = 512, 288


async def lane(engine: EmbeddedEngine, name: str, fps: float, end_s: float, told: list[tuple[float, Output]]) -> None:
    """Ask about a frame whenever one is due, and note when it was due and what came back."""
    pixels = bytes(WIDTH_PX * HEIGHT_PX * 3)
    due_s = time.monotonic() + random.random() / fps
    asking: set[asyncio.Task[None]] = set()

    async def ask(frame: Frame) -> None:
        output = await engine.ask(InferenceRequest(frame.frame_id, "model", "what", (frame,), lane=name))
        told.append((frame.due_monotonic_s, output))

    while due_s < end_s:
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        frame = Frame(pixels, WIDTH_PX, HEIGHT_PX, f"{name}-{due_s}", 0.0, 0.0, 0.0, due_s, WIDTH_PX, HEIGHT_PX)
        task = asyncio.create_task(ask(frame))
        asking.add(task)
        task.add_done_callback(asking.discard)
        due_s += 1.0 / fps
    await asyncio.gather(*asking)


def delays_ms(told: list[tuple[float, Output]]) -> list[float]:
    """Return the delay of each question without the part in which the model was busy with others."""
    busy = sorted({(output.started_monotonic_s, output.model_ms / 1000.0) for _, output in told})
    delays = []
    for due_s, output in told:
        started_s = output.started_monotonic_s
        overlap_s = sum(
            max(0.0, min(begun_s + took_s, started_s) - max(begun_s, due_s))
            for begun_s, took_s in busy
            if begun_s < started_s and begun_s + took_s > due_s
        )
        delays.append((started_s - due_s - overlap_s) * 1000.0)
    return delays


async def measure(seconds: float, lanes: int, fps: float, model_ms: float) -> dict[str, float | None]:
    """Run the lanes and return the percentiles of the delay, milliseconds."""
    spec = ModelSpec("model", model_type="fake", options={"latency_ms": model_ms})
    engine = EmbeddedEngine([spec], EngineConfig(), SystemClock())
    await engine.start()
    assert await engine.wait_ready(60.0)
    told: list[tuple[float, Output]] = []
    end_s = time.monotonic() + seconds
    await asyncio.gather(*(lane(engine, str(number), fps, end_s, told) for number in range(lanes)))
    await engine.stop()
    return {**percentiles(delays_ms(told)), "questions": len(told)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--lanes", type=int, default=10)
    parser.add_argument("--fps", type=float, default=2.0)
    parser.add_argument("--model-ms", type=float, default=2.0)
    parser.add_argument("--uvloop", action="store_true", help="run on the loop that the service uses")
    chosen = parser.parse_args()
    if chosen.uvloop:
        import uvloop

        found = uvloop.run(measure(chosen.seconds, chosen.lanes, chosen.fps, chosen.model_ms))
    else:
        found = asyncio.run(measure(chosen.seconds, chosen.lanes, chosen.fps, chosen.model_ms))
    print(f"due to model call, {chosen.lanes} streams at {chosen.fps:g} FPS: {found} (bars: p50 3 ms, p99 15 ms)")
    OUT.mkdir(exist_ok=True)
    (OUT / "frame_to_model_delay.json").write_text(json.dumps({**found, **vars(chosen)}, indent=2))


if __name__ == "__main__":
    main()
