"""Fifty live streams for ten minutes: is a question dropped, does memory grow, do descriptors or tasks stay behind?

    python benchmarks/soak.py --streams 50 --minutes 10

Live 360p HLS from an origin process on loopback, 2 FPS, the model `fake` with 2 ms. Memory is the proportional set size
of the whole process tree; the bar compares minute 3 with minute 10. The megabytes a further stream costs come from the
same run: the tree with all streams against the tree with one fifth of them.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.live_hls_origin import LiveOrigin
from benchmarks.service import Cost, Service, write_json

MB = 1024 * 1024


def settled(service: Service, seconds: float) -> list[Cost]:
    """Measure every 5 s for ``seconds``."""
    costs = []
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        time.sleep(5)
        costs.append(service.cost())
    return costs


def median_mb(costs: list[Cost]) -> float:
    """Return the median proportional set size in MiB."""
    return statistics.median(cost.pss_bytes for cost in costs) / MB


def median_own_mb(costs: list[Cost]) -> float:
    """Return the median of what is no file, in MiB."""
    return statistics.median(cost.own_bytes for cost in costs) / MB


def delivered(service: Service, jobs: list[str]) -> tuple[int, dict[str, int]]:
    """Return frames answered and drops by reason, over all jobs."""
    frames, drops = 0, dict[str, int]()
    for job in jobs:
        status = service.status(job)
        frames += status["frames_processed"]
        for reason, count in status["frames_dropped"].items():
            drops[reason] = drops.get(reason, 0) + count
    return frames, drops


def main() -> None:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=10)
    arguments = parser.parse_args()
    settings = {"MODEL_TYPE": "fake", "MAX_CONCURRENT_STREAMS": str(arguments.streams)}
    with LiveOrigin(streams=arguments.streams, ladder=False, height=360) as origin, Service(**settings) as service:
        idle = service.cost()
        few = max(1, arguments.streams // 5)
        jobs = [service.begin(origin.url(n), fps=2) for n in range(few)]
        with_few = median_mb(settled(service, 45))
        jobs += [service.begin(origin.url(n), fps=2) for n in range(few, arguments.streams)]
        begun_s = time.monotonic()
        by_minute: list[float] = []
        own_by_minute: list[float] = []
        frames_before, cpu_before = 0, service.cost().cpu_s
        while (minute := (time.monotonic() - begun_s) / 60) < arguments.minutes:
            costs = settled(service, min(60.0, (arguments.minutes - minute) * 60))
            by_minute.append(median_mb(costs))
            own_by_minute.append(median_own_mb(costs))
            frames, drops = delivered(service, jobs)
            memory = f"{by_minute[-1]:7.1f} MB, own {own_by_minute[-1]:7.1f}"
            counts = f"frames {frames:7d} (+{frames - frames_before})  drops {drops}"
            print(
                f"minute {len(by_minute):2d}: {memory}  {counts}  descriptors {service.cost().descriptors}", flush=True
            )
            frames_before = frames
        busy = service.cost()
        elapsed_s = time.monotonic() - begun_s
        reconnects = sum(service.status(job)["source"]["reconnects"] for job in jobs)
        for job in jobs:
            service.call("DELETE", f"/api/v1/inference/cancel/{job}")
        time.sleep(30)  # connections to servers are kept for 20 s
        after = service.cost()
    window = by_minute[2:] or by_minute
    own_window = own_by_minute[2:] or own_by_minute
    figures = {
        "streams": arguments.streams,
        "minutes": arguments.minutes,
        "memory_mb_by_minute": by_minute,
        "memory_spread_minutes_3_to_end": (max(window) - min(window)) / window[0],
        "own_memory_mb_by_minute": own_by_minute,
        "own_memory_spread_minutes_3_to_end": (max(own_window) - min(own_window)) / own_window[0],
        "mb_a_further_stream": (by_minute[-1] - with_few) / (arguments.streams - few),
        "frames": frames,
        "drops": drops,
        "reconnects": reconnects,
        "cpu_cores": (busy.cpu_s - cpu_before) / elapsed_s,
        "descriptors": {"idle": idle.descriptors, "busy": busy.descriptors, "after": after.descriptors},
        "processes": {"idle": idle.processes, "busy": busy.processes, "after": after.processes},
    }
    for name, value in figures.items():
        print(f"{name:34} {value}")
    write_json("soak", figures)


if __name__ == "__main__":
    main()
