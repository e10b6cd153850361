"""What is left of clients that vanish: 1,000 of them close their sockets at random moments of a question.

    python benchmarks/vanishing_clients.py

Half ask for a whole answer, half for a stream, up to 100 at a time; some go before they have sent all of the question,
some while it waits, some while it is answered. Afterwards the queue, the batch, the streams and the connections must
be at zero, and the process must hold as many descriptors as before.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.doors import KEY, RAISED, Server, freeroam, read_streams, say_settings
from benchmarks.service import write_json

SEED = 20_261_121
AT_ONCE = 100
LONGEST_S = 0.6


async def vanish(server: Server, number: int, chance: random.Random) -> None:
    """Ask, and go without a word after a random time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    body = json.dumps({"prompt": f"question {number}", "max_tokens": 50})
    path = "/infer" if number % 2 else "/infer_stream"
    request = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    ).encode()
    writer.write(request[: chance.randrange(len(request))] if chance.random() < 0.1 else request)
    await asyncio.sleep(chance.uniform(0.0, LONGEST_S))
    if chance.random() < 0.5:
        writer.transport.abort()
    else:
        writer.close()
    del reader


async def send_all(server: Server, clients: int) -> None:
    """Let all clients come and go."""
    chance = random.Random(SEED)
    free = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> None:
        async with free:
            await vanish(server, number, chance)

    await asyncio.gather(*(one(number) for number in range(clients)))


def left_of(server: Server) -> dict[str, Any]:
    """Return what the server holds now."""
    status = server.get("/status")
    models = server.get("/models")["models"]
    return {
        "connections": status["connections"] - 1,
        "streams": status["streams"],
        "calls": status["calls"],
        "queued": sum(status["queues"].values()),
        "running": sum(info["running"] for model in models.values() for info in model["versions"].values()),
    }


def main() -> None:
    """Run, print, write JSON, fail if anything is left."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=1000)
    arguments = parser.parse_args()
    say_settings({**RAISED, "MAX_BATCH_SIZE": "16"})
    with freeroam("Slow", "/infer", MAX_BATCH_SIZE="16") as server:
        process = psutil.Process(server.process.pid)
        read_streams(server, connections=16, seconds=1.0, tokens=50)
        time.sleep(1)
        descriptors, memory = process.num_fds(), server.rss_bytes()
        asyncio.run(send_all(server, arguments.clients))
        gone_s = time.monotonic()
        while any((left := left_of(server)).values()) and time.monotonic() - gone_s < 30:
            time.sleep(0.02)
        took_s = time.monotonic() - gone_s
        time.sleep(1)
        more_descriptors, more_memory = process.num_fds() - descriptors, server.rss_bytes() - memory
        after = read_streams(server, connections=16, seconds=2.0, tokens=50)
        log = server.log()
    defects = log.count('"level":"error"')
    print(
        f"{arguments.clients} clients vanished; {took_s:.2f} s after the last: {left}; {more_descriptors} more "
        f"descriptors, {more_memory / 1024:.0f} KB more memory, {defects} errors in the log; others then: "
        f"{after['streams']} streams, {after['incomplete'] + after['out_of_place'] + after['refused']} bad"
    )
    write_json(
        "vanishing_clients", {"left": left, "seconds": took_s, "descriptors": more_descriptors, "errors": defects}
    )
    if any(left.values()) or more_descriptors > 0 or defects or after["incomplete"] or after["refused"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
