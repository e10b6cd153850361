"""How long from a live frame's due time to its model call in the whole service? Ten HLS streams, busy time taken out.

    python scripts/make_bench_clips.py && python benchmarks/frame_to_model_delay_live.py [--seconds 40] [--streams 10]

The service runs in this process (on uvloop, as `freeroam serve` does) with its decoder processes and one replica of the
model `fake`; the streams come from an origin process on loopback. A frame is due at the pace of its stream's own time.
While the model answers somebody else a frame has to wait whatever the service does, so that time is taken out.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.frame_to_model_delay import delays_ms
from benchmarks.live_hls_origin import LiveOrigin
from benchmarks.service import write_json

from freeroam.engines.statistics import percentiles
from freeroam.runtime import Runtime
from freeroam.settings import load_settings
from freeroam.vocabulary.inference import InferenceRequest, Output
from freeroam.vocabulary.job import StartRequest

WARM_UP_S = 10.0


async def measure(streams: int, fps: float, seconds: float) -> list[float]:
    """Return the delay of every question, milliseconds."""
    told: list[tuple[float, Output]] = []
    with LiveOrigin(streams=streams, height=360) as origin, tempfile.TemporaryDirectory() as folder:
        settings = load_settings(
            data_dir=Path(folder),
            allow_private_sources="127.0.0.0/8",
            log_level="WARNING",
            model_type="fake",
            max_concurrent_streams=streams,
        )
        async with Runtime(settings) as runtime:
            ask = runtime.engine.ask

            async def noted(request: InferenceRequest) -> Output:
                output = await ask(request)
                told.append((request.frames[-1].due_monotonic_s, output))
                return output

            runtime.engine.ask = noted  # type: ignore[method-assign]
            for number in range(streams):
                await runtime.desk.start(StartRequest(stream_ref=origin.url(number), prompt="Look", fps=fps))
            await asyncio.sleep(WARM_UP_S)
            told.clear()
            await asyncio.sleep(seconds)
            return delays_ms(list(told))


def main() -> None:
    """Run, print, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40.0)
    parser.add_argument("--streams", type=int, default=10)
    parser.add_argument("--fps", type=float, default=2.0)
    chosen = parser.parse_args()
    delays = uvloop.run(measure(chosen.streams, chosen.fps, chosen.seconds))
    figures = {"questions": len(delays), **percentiles(delays), **vars(chosen)}
    print(f"due time to model call, milliseconds: {figures}")
    write_json("frame_to_model_delay_live", figures)


if __name__ == "__main__":
    main()
