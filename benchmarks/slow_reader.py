"""What one reader who takes a byte a second does to the others, and to the server's memory.

    python benchmarks/slow_reader.py

32 streams of a stub that speaks 50 words, 5 ms each, are timed from the question to the last byte, in rounds that run
in turn with and without the slow reader. It asks for 4,096 tokens of its own and its socket takes 4 KB.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.doors import KEY, RAISED, Server, freeroam, read_streams, say_settings
from benchmarks.service import write_json

BAR = 1.10
MEMORY_BAR_BYTES = 4 * 2**20
OTHERS = 32


class SlowReader(threading.Thread):
    """Asks for a long answer and takes a byte of it a second."""

    def __init__(self, server: Server) -> None:
        super().__init__(daemon=True)
        self.taken = 0
        self.was_cut = False
        self._stopped = threading.Event()
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.connect(("127.0.0.1", server.port))
        body = json.dumps({"prompt": "a long story", "max_tokens": 4096})
        self._socket.sendall(
            (
                f"POST /infer_stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
            ).encode()
        )

    def run(self) -> None:
        """Take a byte a second."""
        while not self._stopped.wait(1.0):
            try:
                if not self._socket.recv(1):
                    self.was_cut = True
                    return
            except OSError:
                self.was_cut = True
                return
            self.taken += 1

    def stop(self) -> None:
        """Go."""
        self._stopped.set()
        self.join()
        self._socket.close()


def main() -> None:
    """Run, print, write JSON, fail above the bar."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    arguments = parser.parse_args()
    say_settings(RAISED)
    options = {"connections": OTHERS, "seconds": arguments.seconds, "tokens": 50}
    alone: list[float] = []
    beside: list[float] = []
    growth: list[int] = []
    with freeroam("Endless", "/infer") as server:
        read_streams(server, **options)
        for _ in range(arguments.rounds):
            alone.append(read_streams(server, **options)["whole_p99_ms"])
            before = server.rss_bytes()
            slow = SlowReader(server)
            slow.start()
            beside.append(read_streams(server, **options)["whole_p99_ms"])
            growth.append(server.rss_bytes() - before)
            slow.stop()
        left = server.get("/status")
    ratio = statistics.median(with_it / without for with_it, without in zip(beside, alone, strict=True))
    print(
        f"others' p99 {statistics.median(alone):.1f} ms alone, {statistics.median(beside):.1f} ms beside a slow one, "
        f"ratio {ratio:.3f} (bar {BAR}); memory grew by {statistics.median(growth) / 1024:.0f} KB a round; "
        f"afterwards {left['streams']} streams, queues {left['queues']}"
    )
    write_json("slow_reader", {"alone_p99_ms": alone, "beside_p99_ms": beside, "ratio": ratio, "growth_bytes": growth})
    if ratio > BAR or statistics.median(growth) > MEMORY_BAR_BYTES:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
