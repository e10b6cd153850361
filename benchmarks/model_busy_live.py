"""Is the model kept busy by real streams? Eight live HLS streams at 15 FPS through the service, against the bare loop.

    python scripts/make_bench_clips.py && python benchmarks/model_busy_live.py [--seconds 10] [--rounds 4]

The service runs in this process with its decoder processes and one replica of the detector on one thread; the streams
come from an origin process on loopback. The bare loop (``model_busy.py --bare``) prepares, infers and decodes with the
same functions and batch; while it has its turn the jobs are paused and nothing else runs. So what fetching and decoding
eight streams takes from a machine of two cores counts against the service.
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

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.live_hls_origin import LiveOrigin
from benchmarks.service import write_json

from freeroam.engines.embedded import ModelSpec
from freeroam.processes.child import thread_environment
from freeroam.runtime import Runtime
from freeroam.settings import Settings, load_settings
from freeroam.vocabulary.job import JobPatch, StartRequest

PROMPT = "Detect all people and vehicles"
WARM_UP_S = 10.0
BATCH = 4


class OneThread(Settings):
    """The settings, with the model on one thread."""

    def model_specs(self) -> tuple[ModelSpec, ...]:
        """Return the start model with one native thread."""
        return tuple(replace(spec, options={**spec.options, "threads": 1}) for spec in super().model_specs())


class BareLoop:
    """The bare loop as a process that answers how fast it is when asked."""

    def __init__(self) -> None:
        script = str(Path(__file__).with_name("model_busy.py"))
        self._process = subprocess.Popen(
            [sys.executable, script, "--bare", "--batch", str(BATCH)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **thread_environment(1)},
        )
        self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def fps(self, seconds: float) -> float:
        """Let it run for ``seconds`` and return its frames a second."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        return float(json.loads(self._line())["fps"])

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


async def live_fps(runtime: Runtime, jobs: list[str], seconds: float) -> float:
    """Let the jobs run for a while and return the frames answered a second."""
    for job in jobs:
        await runtime.desk.patch(job, JobPatch(paused=False))
    await asyncio.sleep(WARM_UP_S)
    loop = asyncio.get_running_loop()
    before, begun_s = await answered(runtime, jobs), loop.time()
    await asyncio.sleep(seconds)
    fps = (await answered(runtime, jobs) - before) / (loop.time() - begun_s)
    for job in jobs:
        await runtime.desk.patch(job, JobPatch(paused=True))
    await asyncio.sleep(2.0)
    return fps


async def answered(runtime: Runtime, jobs: list[str]) -> int:
    """Return how many frames were answered so far."""
    return sum([(await runtime.desk.status(job)).frames_processed for job in jobs])


async def measure(chosen: argparse.Namespace) -> list[dict[str, float]]:
    """Alternate the service and the bare loop."""
    bare = BareLoop()
    rounds = []
    with LiveOrigin(streams=chosen.streams, height=360) as origin, tempfile.TemporaryDirectory() as folder:
        base = load_settings(
            data_dir=Path(folder), allow_private_sources="127.0.0.0/8", log_level="WARNING", device="cpu"
        )
        async with Runtime(OneThread(**base.model_dump())) as runtime:
            jobs = []
            for number in range(chosen.streams):
                wish = StartRequest(stream_ref=origin.url(number), prompt=PROMPT, fps=chosen.fps)
                jobs.append((await runtime.desk.start(wish)).spec.job_id)
            for number in range(chosen.rounds):
                ours = await live_fps(runtime, jobs, chosen.seconds)
                theirs = await asyncio.to_thread(bare.fps, chosen.seconds / 2)
                rounds.append({"fps": ours, "bare_fps": theirs, "ratio": ours / theirs})
                print(f"round {number + 1}: service {ours:5.1f} frames/s, bare loop {theirs:5.1f}", flush=True)
    bare.close()
    return rounds


def main() -> None:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--fps", type=float, default=15.0)
    chosen = parser.parse_args()
    rounds = uvloop.run(measure(chosen))
    ratio = statistics.median(one["ratio"] for one in rounds)
    print(f"model kept busy by live streams: {ratio:.3f} of the bare loop (median of {len(rounds)} rounds; bar 0.95)")
    write_json("model_busy_live", {"ratio": ratio, "rounds": rounds})


if __name__ == "__main__":
    main()
