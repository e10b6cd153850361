"""A page of results of a job with a million stored beside one of a job with a thousand, from the store and over HTTP.

    python benchmarks/results_page.py --results 1000000

The rows are written straight into the tables (a million commits would take minutes); bodies are as the detector's.
Both jobs are asked in turn, so that whatever else the machine does meets both.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import orjson
from benchmarks.service import Service, write_json

from freeroam.clock import SystemClock
from freeroam.store.job_rows import NewJob
from freeroam.store.records import Ending, Lease
from freeroam.store.store import Store, StoreConfig
from freeroam.vocabulary.job import JobSpec, JobStatus, Policy

SMALL = 1000
BAR = 2.0


def body(number: int) -> bytes:
    """A result of three predictions, without its number."""
    predictions = [
        {"label": label, "confidence": 0.87654, "bbox": [12.5, 34.25, 156.75, 278.0]}
        for label in ("person", "person", "bus")
    ]
    metadata = {
        "num_frames": 1,
        "frame_shape": [288, 512, 3],
        "prompt": "Detect all people and vehicles",
        "prompt_version": 1,
        "timestamp": 1_700_000_000.0 + number,
        "frame_ids": [str(number * 500)],
        "stream_time": number / 2,
        "source_size": [1080, 1920],
        "timings_ms": {"decode": 1.234, "wait": 2.345, "model": 23.456, "total": 31.5},
        "model": "detector",
        "model_version": "1",
        "model_type": "detector",
        "device": "cpu",
    }
    return orjson.dumps(
        {
            "predictions": predictions,
            "confidence": [0.87654] * 3,
            "text": "2 people, 1 bus",
            "error": None,
            "metadata": metadata,
        }
    )


async def prepare(folder: Path, jobs: dict[str, int]) -> None:
    """Make a database with finished jobs of so many results."""
    store = Store(StoreConfig(f"sqlite:///{folder}/freeroam.db"), SystemClock())
    await store.open()
    for job_id in jobs:
        spec = JobSpec(job_id=job_id, stream_ref="demo:", prompt="Detect", fps=2.0, policy=Policy.LATEST)
        await store.add_job(NewJob(spec, time.time(), None, 10, Lease("bench", 10.0)))
        await store.end_job(job_id, None, Ending(JobStatus.COMPLETED, time.time()))
    await store.close()
    with sqlite3.connect(folder / "freeroam.db") as connection:
        for job_id, count in jobs.items():
            connection.executemany(
                "INSERT INTO results (job_id, id, entry_key, created_at, body) VALUES (?, ?, ?, ?, ?)",
                ((job_id, number, str(number), time.time(), body(number)) for number in range(1, count + 1)),
            )
            connection.execute("UPDATE jobs SET total = ?, next_id = ? WHERE id = ?", (count, count + 1, job_id))
    connection.close()


def compare(ask: Callable[[str, int | None], Any], jobs: dict[str, int], rounds: int, after: bool) -> dict[str, float]:
    """Return the median milliseconds of a page of each job, asked in turn, and their ratio."""
    took: dict[str, list[float]] = {job_id: [] for job_id in jobs}
    for turn in range(rounds + 10):
        for job_id, count in jobs.items():
            began = time.perf_counter()
            ask(job_id, count // 2 if after else None)
            if turn >= 10:
                took[job_id].append((time.perf_counter() - began) * 1000)
    medians = {job_id: round(statistics.median(values), 3) for job_id, values in took.items()}
    small, large = medians.values()
    return {**medians, "ratio": round(large / small, 2)}


def through_store(folder: Path, jobs: dict[str, int], rounds: int) -> dict[str, dict[str, float]]:
    """Ask the store itself."""
    loop = asyncio.new_event_loop()
    store = Store(StoreConfig(f"sqlite:///{folder}/freeroam.db"), SystemClock())
    loop.run_until_complete(store.open())

    def ask(job_id: str, after: int | None) -> None:
        reading = store.newest_results(job_id, 100) if after is None else store.results_after(job_id, after, 100)
        assert len(loop.run_until_complete(reading)) == 100

    found = {
        "store, newest 100": compare(ask, jobs, rounds, after=False),
        "store, 100 from the middle": compare(ask, jobs, rounds, after=True),
    }
    loop.run_until_complete(store.close())
    loop.close()
    return found


def over_http(folder: Path, jobs: dict[str, int], rounds: int) -> dict[str, dict[str, float]]:
    """Ask a running service."""
    with Service(MODEL_TYPE="fake", DATA_DIR=str(folder)) as service:

        def ask(job_id: str, after: int | None) -> None:
            more = "" if after is None else f"&after={after}"
            page = service.call("GET", f"/api/v1/inference/results/{job_id}?limit=100{more}")
            assert len(page["results"]) == 100
            assert page["total_results"] == jobs[job_id]

        return {
            "HTTP, limit=100": compare(ask, jobs, rounds, after=False),
            "HTTP, limit=100&after=middle": compare(ask, jobs, rounds, after=True),
        }


def main() -> None:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    jobs = {"small": SMALL, "large": arguments.results}
    with tempfile.TemporaryDirectory(prefix="freeroam-bench-") as name:
        folder = Path(name)
        asyncio.run(prepare(folder, jobs))
        figures = through_store(folder, jobs, arguments.rounds) | over_http(folder, jobs, arguments.rounds)
    print(f"{'':32} {SMALL:>10} {arguments.results:>10}  ratio (bar {BAR})")
    for what, row in figures.items():
        print(f"{what:32} {row['small']:>7} ms {row['large']:>7} ms  {row['ratio']}")
    write_json("results_page", {"results": arguments.results, "bar": BAR, "medians_ms": figures})
    if any(row["ratio"] > BAR for row in figures.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
