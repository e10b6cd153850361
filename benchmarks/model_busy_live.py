"""Is the model kept busy by real streams? Eight live HLS streams at 15 FPS through the service, against the bare loop.

    python scripts/make_bench_clips.py && python benchmarks/model_busy_live.py [--seconds 10] [--rounds 4]

The service runs in this process with its decoder processes and one replica of the detector on one thread; the streams
come from an origin process on loopback. The bare loop (``model_busy.py --bare``) prepares, infers and decodes with the
same functions and batch. It is measured twice a round: beside the same eight streams, which are fetched, decoded and
answered by the model `fake` (so both sides have the machine to share, and the ratio says whether the model ever waits),
and with nothing beside it (which adds what eight decoded streams take from the machine).
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
from freeroam.vocabulary.job import JobPatch, SourceOptions, StartRequest

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
    await pause(runtime, jobs, paused=False)
    await asyncio.sleep(WARM_UP_S)
    loop = asyncio.get_running_loop()
    before, begun_s = await answered(runtime, jobs), loop.time()
    await asyncio.sleep(seconds)
    fps = (await answered(runtime, jobs) - before) / (loop.time() - begun_s)
    await pause(runtime, jobs, paused=True)
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
        settings = OneThread(**base.model_dump())
        beside = base.model_copy(update={"data_dir": Path(folder) / "beside", "model_type": "fake"})
        beside.data_dir.mkdir()
        async with Runtime(settings) as runtime, Runtime(beside) as load:
            jobs = await begin(runtime, origin, chosen)
            others = await begin(load, origin, chosen)
            await pause(load, others, paused=True)
            for number in range(chosen.rounds):
                ours = await live_fps(runtime, jobs, chosen.seconds)
                await pause(load, others, paused=False)
                await asyncio.sleep(WARM_UP_S)
                shared = await asyncio.to_thread(bare.fps, chosen.seconds)
                await pause(load, others, paused=True)
                alone = await asyncio.to_thread(bare.fps, chosen.seconds / 2)
                rounds.append({"fps": ours, "bare_beside_fps": shared, "bare_alone_fps": alone, "ratio": ours / shared})
                print(
                    f"round {number + 1}: service {ours:5.1f} frames/s, bare loop beside the streams {shared:5.1f}, "
                    f"alone {alone:5.1f}",
                    flush=True,
                )
    bare.close()
    return rounds


async def begin(runtime: Runtime, origin: LiveOrigin, chosen: argparse.Namespace) -> list[str]:
    """Start a job on each stream, with the picture size that the detector wants, and return their ids."""
    jobs = []
    size = SourceOptions(width_px=512, height_px=512)
    for number in range(chosen.streams):
        wish = StartRequest(stream_ref=origin.url(number), prompt=PROMPT, fps=chosen.fps, source=size)
        jobs.append((await runtime.desk.start(wish)).spec.job_id)
    return jobs


async def pause(runtime: Runtime, jobs: list[str], *, paused: bool) -> None:
    """Pause the jobs or let them go on."""
    for job in jobs:
        await runtime.desk.patch(job, JobPatch(paused=paused))
    await asyncio.sleep(2.0)


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
    alone = statistics.median(one["fps"] / one["bare_alone_fps"] for one in rounds)
    print(
        f"model kept busy by live streams: {ratio:.3f} of the bare loop beside the same streams (median of "
        f"{len(rounds)} rounds; bar 0.95), {alone:.3f} of the bare loop alone"
    )
    write_json("model_busy_live", {"ratio": ratio, "ratio_alone": alone, "rounds": rounds})


if __name__ == "__main__":
    main()
