"""What an event stream on which nothing happens costs: 2,000 of them on a paused job, held for a while.

python benchmarks/idle_streams.py
"""

from __future__ import annotations

import argparse
import resource
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.doors import KEY, RAISED, Server, freeroam, say_settings
from benchmarks.service import write_json

BAR_BYTES = 60_000


def post(server: Server, path: str, body: str, method: str = "POST") -> None:
    """Send JSON."""
    import urllib.request

    request = urllib.request.Request(
        f"{server.url}{path}",
        data=body.encode(),
        method=method,
        headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"},
    )
    urllib.request.urlopen(request, timeout=30).read()


def follow(server: Server, job: str) -> socket.socket:
    """Open one stream and read its head."""
    connection = socket.create_connection(("127.0.0.1", server.port))
    head = f"GET /api/v1/inference/stream/{job} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n"
    connection.sendall(head.encode())
    if not connection.recv(65536).startswith(b"HTTP/1.1 200"):
        raise RuntimeError("a stream was refused")
    return connection


def is_open(connection: socket.socket) -> bool:
    """Whether the server has not closed it."""
    connection.setblocking(False)
    try:
        while data := connection.recv(65536):
            del data
    except BlockingIOError:
        return True
    return False


def main() -> None:
    """Run, print, write JSON, fail above the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long they are held, through a ping at least")
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384) if hard > 0 else 16384, hard))
    say_settings(RAISED)
    with freeroam("Silent", "/infer") as server:
        post(server, "/api/v1/inference/start", '{"stream_ref": "demo:", "prompt": "q", "job_id": "idle"}')
        post(server, "/api/v1/inference/jobs/idle", '{"paused": true}', "PATCH")
        warm = [follow(server, "idle") for _ in range(50)]
        time.sleep(2)
        before = server.rss_bytes()
        streams = [follow(server, "idle") for _ in range(arguments.streams)]
        time.sleep(arguments.seconds)
        held = sum(is_open(stream) for stream in streams)
        used = server.rss_bytes() - before
        cpu_before_s = server.cpu_s()
        time.sleep(5)
        cpu = (server.cpu_s() - cpu_before_s) / 5
        answered = server.get("/status")["connections"]
        for stream in [*streams, *warm]:
            stream.close()
        time.sleep(2)
        left = server.get("/status")["connections"]
    each = used / arguments.streams
    print(
        f"{held} of {arguments.streams} held for {arguments.seconds:g} s, {each / 1000:.1f} KB each (bar "
        f"{BAR_BYTES / 1000:g}), {cpu:.2f} cores; the server counted {answered} connections, and {left} after the end"
    )
    write_json("idle_streams", {"held": held, "bytes_each": each, "bar_bytes": BAR_BYTES, "cores": cpu, "left": left})
    if held != arguments.streams or each > BAR_BYTES:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
