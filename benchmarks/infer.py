"""What the server costs a whole answer: /infer with a stub that does nothing, beside bare FastAPI and LitServe.

    python benchmarks/infer.py

The stub runs in a replica process; keys, limiter, metrics and the log are on. The peers are asked in turn within each
round, so that whatever else the machine does meets all of them; figures are medians, ratios medians of each round's.
wrk must be installed.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.doors import RAISED, freeroam, load_with_wrk, median_ratio, peer, say_settings
from benchmarks.service import write_json

BARE_BAR, LITSERVE_BAR, ADDED_BAR_MS = 0.75, 1.5, 1.0


def main() -> None:
    """Run, print a table, write JSON, fail below a bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=32)
    arguments = parser.parse_args()
    say_settings(RAISED)
    with (
        freeroam("Silent", "/infer") as ours,
        peer("fastapi", "/infer") as bare,
        peer("litserve", "/infer") as litserve,
    ):
        servers = (bare, ours, litserve)
        rows: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
        alone: dict[str, list[float]] = {server.name: [] for server in servers}
        for server in servers:
            load_with_wrk(server, arguments.connections, 1)
        for _ in range(arguments.rounds):
            for server in servers:
                rows[server.name].append(load_with_wrk(server, arguments.connections, arguments.seconds))
            for server in servers:
                alone[server.name].append(load_with_wrk(server, 1, 1)["p50_ms"])
    rates = {name: [row["rate"] for row in seen] for name, seen in rows.items()}
    print(f"{'':10} {'requests/s':>11} {'p50 ms':>8} {'p99 ms':>8} {'bad':>5} {'alone p50':>10} {'client CPU':>11}")
    for name, seen in rows.items():
        middle = {key: statistics.median(row[key] for row in seen) for key in seen[0]}
        print(
            f"{name:10} {middle['rate']:11.0f} {middle['p50_ms']:8.2f} {middle['p99_ms']:8.2f} {middle['bad']:5.0f} "
            f"{statistics.median(alone[name]):10.2f} {middle['client_cpu']:11.2f}"
        )
    figures = {
        "of bare FastAPI": median_ratio(rates["freeroam"], rates["fastapi"]),
        "of LitServe": median_ratio(rates["freeroam"], rates["litserve"]),
        "added p50 at 1 connection, ms": round(
            statistics.median(a - b for a, b in zip(alone["freeroam"], alone["fastapi"], strict=True)), 3
        ),
    }
    bars = dict(zip(figures, (BARE_BAR, LITSERVE_BAR, ADDED_BAR_MS), strict=True))
    for name, value in figures.items():
        print(f"{name:32} {value:8} (bar {bars[name]})")
    write_json("infer", {"rounds": rows, "alone_p50_ms": alone, "ratios": figures, "bars": bars})
    values = list(figures.values())
    if values[0] < BARE_BAR or values[1] < LITSERVE_BAR or values[2] > ADDED_BAR_MS:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
