"""Is the model kept busy by real streams? Eight live HLS streams at 15 FPS through the service, against the bare loop.

    python scripts/make_bench_clips.py && python benchmarks/model_busy_live.py [--seconds 20] [--rounds 3]

The service runs in this process with its decoder processes and one replica of the detector on one thread; the streams
come from an origin process on loopback. The bare loop (``model_busy.py --bare``) prepares, infers and decodes with the
same functions and batch, with nothing else running. So what fetching and decoding eight streams takes from a machine
of two cores counts against the service.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.live_hls_origin import LiveOrigin
from benchmarks.service import write_json

from freeroam.engines.embedded import ModelSpec
from freeroam.processes.child import thread_environment
from freeroam.runtime import Runtime
from freeroam.settings import Settings, load_settings
from freeroam.vocabulary.job import StartRequest

PROMPT = "Detect all people and vehicles"
WARM_UP_S = 12.0


class OneThread(Settings):
    """The settings, with the model on one thread."""

    def model_specs(self) -> tuple[ModelSpec, ...]:
        """Return the start model with one native thread."""
        return tuple(replace(spec, options={**spec.options, "threads": 1}) for spec in super().model_specs())


async def answered(runtime: Runtime, jobs: list[str]) -> int:
    """Return how many frames were answered so far."""
    return sum([(await runtime.desk.status(job)).frames_processed for job in jobs])


async def through_service(streams: int, fps: float, seconds: float) -> dict[str, float]:
    """Return answered frames a second over ``streams`` live streams."""
    with LiveOrigin(streams=streams, height=360) as origin, tempfile.TemporaryDirectory() as folder:
        base = load_settings(
            data_dir=Path(folder), allow_private_sources="127.0.0.0/8", log_level="WARNING", device="cpu"
        )
        settings = OneThread(**base.model_dump())
        async with Runtime(settings) as runtime:
            jobs = [
                (
                    await runtime.desk.start(StartRequest(stream_ref=origin.url(number), prompt=PROMPT, fps=fps))
                ).spec.job_id
                for number in range(streams)
            ]
            await asyncio.sleep(WARM_UP_S)
            loop = asyncio.get_running_loop()
            before, begun_s = await answered(runtime, jobs), loop.time()
            await asyncio.sleep(seconds)
            rate = (await answered(runtime, jobs) - before) / (loop.time() - begun_s)
            told = runtime.engine.describe().statistics
            return {"fps": rate, "mean_batch": told["mean_batch_size"]}


def main() -> None:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--fps", type=float, default=15.0)
    chosen = parser.parse_args()
    rounds = []
    for number in range(chosen.rounds):
        ours = asyncio.run(through_service(chosen.streams, chosen.fps, chosen.seconds))
        command = [sys.executable, str(Path(__file__).with_name("model_busy.py")), "--bare"]
        command += ["--seconds", str(chosen.seconds / 2), "--batch", str(max(1, round(ours["mean_batch"])))]
        bare = json.loads(
            subprocess.run(
                command, check=True, capture_output=True, text=True, env={**os.environ, **thread_environment(1)}
            ).stdout
        )
        rounds.append({**ours, "bare_fps": bare, "ratio": ours["fps"] / bare})
        print(f"round {number + 1}: {rounds[-1]}", flush=True)
    ratio = statistics.median(one["ratio"] for one in rounds)
    print(f"model kept busy by live streams: {ratio:.3f} of the bare loop (median of {len(rounds)} rounds)")
    write_json("model_busy_live", {"ratio": ratio, "rounds": rounds})


if __name__ == "__main__":
    main()
