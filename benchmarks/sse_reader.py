"""Reads many event streams at once, in a process of its own, and says what came: raw asyncio, no HTTP library.

    python benchmarks/sse_reader.py --port 8000 --connections 256 --seconds 5 --tokens 50

Each connection asks, reads to the end, checks that every index came once, and asks again. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import resource
import time
from typing import Any, cast

import uvloop

_INDEX = re.compile(rb'"index":\s?(\d+)(?:,\s?"count":\s?(\d+))?')
_DUE = re.compile(rb"(\d+\.\d{6}) ")


class Reader(asyncio.Protocol):
    """One connection that asks again and again."""

    def __init__(self, options: argparse.Namespace, seen: Seen) -> None:
        self._options = options
        self._seen = seen
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._asked_s = 0.0
        self._has_begun = False
        body = json.dumps({"prompt": options.prompt, "max_tokens": options.tokens}).encode()
        self._request = (
            f"POST {options.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {options.key}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode() + body

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask."""
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Take what came; the last chunk of an answer is empty."""
        self._buffer += data
        if self._options.timed:
            now_s = time.monotonic()
            self._seen.late_ms += [(now_s - float(due_s)) * 1000 for due_s in _DUE.findall(data)]
        if not self._has_begun and b"data: " in data:
            self._has_begun = True
            self._seen.first_ms.append((time.perf_counter() - self._asked_s) * 1000)
        if self._buffer.endswith(b"\r\n0\r\n\r\n"):
            self._check(bytes(self._buffer))
            if self._seen.is_over():
                assert self._transport is not None
                self._transport.close()
            else:
                self._ask()

    def connection_lost(self, _: Exception | None) -> None:
        """Count the end."""
        self._seen.left -= 1
        if not self._seen.is_over():
            self._seen.broken += 1
        if self._seen.left == 0 and not self._seen.all_gone.done():
            self._seen.all_gone.set_result(None)

    def _ask(self) -> None:
        assert self._transport is not None
        self._buffer.clear()
        self._has_begun = False
        self._asked_s = time.perf_counter()
        self._transport.write(self._request)

    def _check(self, answer: bytes) -> None:
        """Count tokens, and see that each index came once and in order."""
        seen, expected = self._seen, 0
        if not answer.startswith(b"HTTP/1.1 200"):
            seen.refused += 1
            seen.last_refusal = answer[:300].decode("latin-1")
            return
        events = 0
        for index, count in _INDEX.findall(answer):
            if int(index) != expected:
                seen.out_of_place += 1
            expected = int(index) + int(count or 1)
            events += 1
        if expected != self._options.tokens:
            seen.incomplete += 1
        seen.tokens += expected
        seen.events += events
        seen.streams += 1
        seen.whole_ms.append((time.perf_counter() - self._asked_s) * 1000)


class Seen:
    """What all connections saw."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.begun_s = time.perf_counter()
        self.end_s = self.begun_s + options.seconds
        self.left = options.connections
        self.all_gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.first_ms: list[float] = []
        self.whole_ms: list[float] = []
        self.late_ms: list[float] = []
        self.tokens = self.events = self.streams = 0
        self.refused = self.broken = self.incomplete = self.out_of_place = 0
        self.last_refusal = ""

    def is_over(self) -> bool:
        """Whether the time is up."""
        return time.perf_counter() >= self.end_s

    def report(self) -> dict[str, Any]:
        """Return what is printed."""
        took = time.perf_counter() - self.begun_s
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "rate": round(self.tokens / took, 1),
            "streams": self.streams,
            "tokens": self.tokens,
            "events": self.events,
            "first_p50_ms": _at(self.first_ms, 0.5),
            "first_p99_ms": _at(self.first_ms, 0.99),
            "whole_p50_ms": _at(self.whole_ms, 0.5),
            "whole_p99_ms": _at(self.whole_ms, 0.99),
            "late_p50_ms": _at(self.late_ms, 0.5),
            "late_p99_ms": _at(self.late_ms, 0.99),
            "late_max_ms": round(max(self.late_ms, default=0.0), 2),
            "refused": self.refused,
            "broken": self.broken,
            "incomplete": self.incomplete,
            "out_of_place": self.out_of_place,
            "last_refusal": self.last_refusal,
            "client_cpu": round((usage.ru_utime + usage.ru_stime) / took, 2),
        }


def _at(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else 0.0


async def read(options: argparse.Namespace) -> dict[str, Any]:
    """Hold the connections until the time is up and the last answers are whole."""
    seen = Seen(options)
    loop = asyncio.get_running_loop()
    for _ in range(options.connections):
        await loop.create_connection(lambda: Reader(options, seen), "127.0.0.1", options.port)
    await asyncio.wait_for(seen.all_gone, options.seconds + 60)
    return seen.report()


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/infer_stream")
    parser.add_argument("--key", default="")
    parser.add_argument("--prompt", default="what is there to see")
    parser.add_argument("--connections", type=int, default=256)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--timed", type=int, default=0, help="tokens are the moments at which they were due")
    print(json.dumps(uvloop.run(read(parser.parse_args()))))


if __name__ == "__main__":
    main()
