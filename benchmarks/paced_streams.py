"""How late tokens come when many streams speak at the pace of a real model: 256 streams of 30 tokens a second each.

    python benchmarks/paced_streams.py

The stub says one word to all its streams each 1/30 s, namely the moment at which it was due; the reader, another
process of the same machine, compares that with its own clock. Four replicas of 64 answers each.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.doors import RAISED, freeroam, read_streams, say_settings
from benchmarks.service import write_json

BAR_MS = 50.0
REPLICAS = 4


def main() -> None:
    """Run, print, write JSON, fail above the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=15.0)
    arguments = parser.parse_args()
    say_settings({**RAISED, "NUM_REPLICAS": str(REPLICAS)})
    tokens = int(arguments.seconds * 30)
    with freeroam("Paced", "/infer_stream", NUM_REPLICAS=str(REPLICAS)) as server:
        before_s = server.cpu_s()
        seen = read_streams(server, connections=arguments.connections, seconds=0.1, tokens=tokens, timed=1)
        cpu_s = server.cpu_s() - before_s
    lost = seen["incomplete"] + seen["out_of_place"] + seen["broken"] + seen["refused"]
    print(
        f"{seen['streams']} streams, {seen['tokens']} tokens, {seen['rate']:.0f} tokens/s, "
        f"{seen['tokens'] / max(1, seen['events']):.2f} tokens/event, {lost} lost; late p50 {seen['late_p50_ms']} ms, "
        f"p99 {seen['late_p99_ms']} ms, most {seen['late_max_ms']} ms (bar p99 {BAR_MS}); server CPU {cpu_s:.1f} s, "
        f"client {seen['client_cpu']} cores"
    )
    write_json("paced_streams", {**seen, "server_cpu_s": cpu_s, "bar_ms": BAR_MS})
    if lost or seen["late_p99_ms"] > BAR_MS:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
