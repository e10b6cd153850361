"""A question to a stream, asked of a server, its answers followed as they come.

python follow_a_job.py http://127.0.0.1:8000 demo:

The connection may break and the server may be started again meanwhile: no result is doubled, none is lost.
"""

from __future__ import annotations

import sys

from freeroam import Client


def main(url: str, stream_ref: str) -> None:
    """Start a job, print ten answers, and see to it that the job does not stay."""
    with Client(url) as client:
        job = client.start_job(stream_ref, "Detect all people and vehicles", fps=5, max_frames=10)
        try:
            for result in client.stream_results(job.job_id):
                print(f"{result.metadata.stream_time:7.2f} s  {result.text}")
        finally:
            client.erase_job(job.job_id)


if __name__ == "__main__":
    main(
        sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000",
        sys.argv[2] if len(sys.argv) > 2 else "demo:",
    )
