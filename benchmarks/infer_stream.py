"""What the server costs an answer that is spoken: /infer_stream beside a bare FastAPI StreamingResponse and LitServe.

    python benchmarks/infer_stream.py

50 tokens a stream, 256 connections that ask again and again; the stub speaks as fast as it can in a replica process;
keys, limiter, metrics and the log are on. Every index of every stream is accounted for. The peers are asked in turn
within each round; figures are medians, ratios medians of each round's.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.doors import RAISED, freeroam, median_ratio, middle, peer, read_streams, say_settings
from benchmarks.service import write_json
from benchmarks.stubs import TOKENS

BARE_BAR, LITSERVE_BAR, FIRST_BAR = 1.0, 8.0, 1.2


def main() -> None:
    """Run, print a table, write JSON, fail below a bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--connections", type=int, default=256)
    arguments = parser.parse_args()
    say_settings(RAISED)
    options = {"connections": arguments.connections, "seconds": arguments.seconds, "tokens": TOKENS}
    with (
        freeroam("Spoken", "/infer_stream") as ours,
        peer("fastapi", "/infer_stream", "--tokens", str(TOKENS)) as bare,
        peer("litserve", "/infer_stream", "--stream", "--tokens", str(TOKENS)) as litserve,
    ):
        servers = (bare, ours, litserve)
        rows: dict[str, list[dict[str, Any]]] = {server.name: [] for server in servers}
        for server in servers:
            read_streams(server, **{**options, "seconds": 1.0})
        for _ in range(arguments.rounds):
            for server in servers:
                rows[server.name].append(read_streams(server, **options))
    print(
        f"{'':10} {'tokens/s':>9} {'streams':>8} {'tokens/event':>13} {'first p50':>10} {'first p99 ms':>13} "
        f"{'lost':>5} {'refused':>8} {'client CPU':>11}"
    )
    for name, seen in rows.items():
        lost = sum(row["incomplete"] + row["out_of_place"] + row["broken"] for row in seen)
        merged = sum(row["tokens"] for row in seen) / max(1, sum(row["events"] for row in seen))
        print(
            f"{name:10} {middle(seen, 'rate'):9.0f} {sum(row['streams'] for row in seen):8} {merged:13.2f} "
            f"{middle(seen, 'first_p50_ms'):10.1f} {middle(seen, 'first_p99_ms'):13.1f} {lost:5} "
            f"{sum(row['refused'] for row in seen):8} {middle(seen, 'client_cpu'):11.2f}"
        )
    rates = {name: [row["rate"] for row in seen] for name, seen in rows.items()}
    firsts = {name: [row["first_p99_ms"] for row in seen] for name, seen in rows.items()}
    figures = {
        "of bare FastAPI": median_ratio(rates["freeroam"], rates["fastapi"]),
        "of LitServe": median_ratio(rates["freeroam"], rates["litserve"]),
        "p99 to the first token, of bare": median_ratio(firsts["freeroam"], firsts["fastapi"]),
    }
    bars = dict(zip(figures, (BARE_BAR, LITSERVE_BAR, FIRST_BAR), strict=True))
    for name, value in figures.items():
        print(f"{name:32} {value:8} (bar {bars[name]})")
    write_json("infer_stream", {"rounds": rows, "ratios": figures, "bars": bars})
    ours_lost = sum(row["incomplete"] + row["out_of_place"] + row["broken"] for row in rows["freeroam"])
    values = list(figures.values())
    if ours_lost or values[0] < BARE_BAR or values[1] < LITSERVE_BAR or values[2] > FIRST_BAR:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
