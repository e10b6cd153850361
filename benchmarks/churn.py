"""Two hundred jobs started, cancelled and failed in a row: do processes, descriptors, tasks and memory return?

    python benchmarks/churn.py --jobs 200

A third of the jobs run on a live stream and are cancelled after their first frames, a third are cancelled while their
source still connects (a server that accepts and says nothing), a third fail (a stream that is not there). Measured
after a first round of warming up, so that what is loaded once (compiled statements, the places
that a heap keeps) does not count as growth.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
import urllib.error
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.live_hls_origin import LiveOrigin
from benchmarks.service import Cost, Service, write_json


def round_of_jobs(service: Service, origin: LiveOrigin, silent_port: int, jobs: int) -> None:
    """Start ``jobs`` jobs of the three kinds and end each of them."""
    for number in range(jobs):
        kind = number % 3
        reference = (
            origin.url(number % 4),
            f"http://127.0.0.1:{silent_port}/live.m3u8",
            origin.url(0).replace(".m3u8", "-that-is-not-there.m3u8"),
        )[kind]
        job = service.begin(reference, fps=2)
        wait_for(service, job, ("frames", "connecting", "failed")[kind])
        if kind != 2:
            service.call("DELETE", f"/api/v1/inference/cancel/{job}")
        service.call("DELETE", f"/api/v1/inference/jobs/{job}")


def wait_for(service: Service, job: str, what: str, limit_s: float = 30.0) -> None:
    """Wait until the job has frames, is connecting, or has failed."""
    end_s = time.monotonic() + limit_s
    while time.monotonic() < end_s:
        status = service.status(job)
        if what == "frames" and status["frames_processed"] > 0:
            return
        if what == "connecting" and status["status"] == "pending":
            return
        if status["status"] == what:
            return
        time.sleep(0.05)
    raise RuntimeError(f"job {job} did not reach {what!r}: {service.status(job)}")


def at_rest(service: Service) -> Cost:
    """Measure once the tree has settled."""
    time.sleep(30)  # connections to servers are kept for 20 s
    return service.cost()


def main() -> None:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--warm-up", type=int, default=100)
    arguments = parser.parse_args()
    with (
        socket.create_server(("127.0.0.1", 0), backlog=64) as silent,
        LiveOrigin(streams=4, ladder=False, height=360) as origin,
        Service(MODEL_TYPE="fake", MAX_CONCURRENT_STREAMS="50") as service,
    ):
        port = silent.getsockname()[1]
        round_of_jobs(service, origin, port, arguments.warm_up)
        before = at_rest(service)
        try:
            round_of_jobs(service, origin, port, arguments.jobs)
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from error
        after = at_rest(service)
    figures = {
        "jobs": arguments.jobs,
        "processes": [before.processes, after.processes],
        "descriptors": [before.descriptors, after.descriptors],
        "memory_mb": [round(cost.pss_bytes / 2**20, 1) for cost in (before, after)],
        "own_memory_mb": [round(cost.own_bytes / 2**20, 1) for cost in (before, after)],
        "memory_growth": after.pss_bytes / before.pss_bytes - 1,
        "own_memory_growth": after.own_bytes / before.own_bytes - 1,
    }
    for name, value in figures.items():
        print(f"{name:16} {value}")
    write_json("churn", figures)


if __name__ == "__main__":
    main()
