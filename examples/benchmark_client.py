"""A load test: the same question from more and more callers at once, and what that does to latency.

python benchmark_client.py http://127.0.0.1:8000 gpt2

``freeroam bench`` is the same from the command line, with rates, mixes of priorities and a live table.
"""

from __future__ import annotations

import asyncio
import sys

from freeroam.load import Plan, Wording, lines_of, measure

CALLERS = (1, 8, 32)
SECONDS = 2.0


async def main(url: str, model: str | None) -> int:
    """Measure with a few numbers of callers and print a table."""
    print(f"{'callers':>7} {'requests/s':>11} {'tokens/s':>9} {'first token p50':>16} {'p99':>9} {'failed':>7}")
    failed = 0
    for callers in CALLERS:
        plan = Plan(
            url, [Wording("Once upon a time")], model=model, concurrency=callers, duration_s=SECONDS, max_tokens=50
        )
        report = await measure(plan)
        first, requests = report["first_token_ms"], report["requests"]
        print(
            f"{callers:7d} {requests['answered_per_s']:11.1f} {report['tokens']['per_s']:9.0f} "
            f"{first['p50'] or 0:13.1f} ms {first['p99'] or 0:6.1f} ms {requests['failed']:7d}"
        )
        failed += requests["failed"]
    print("\n".join(["", *lines_of(report)]))
    return 1 if failed else 0


if __name__ == "__main__":
    address = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000"
    sys.exit(asyncio.run(main(address, sys.argv[2] if len(sys.argv) > 2 else None)))
