"""A child that answers what it is told, for the tests of the wire."""

from __future__ import annotations

import os
import subprocess
import sys

from freeroam.processes.lifeline import connect


def main() -> None:
    wire = connect(sys.argv[1:])
    wire.send({"kind": "hello", "args": sys.argv[1:-2], "threads": os.environ.get("OMP_NUM_THREADS")})
    while not wire.is_closed:
        message = wire.receive()
        if message is None:
            continue
        if message["kind"] == "echo":
            wire.send(message)
        elif message["kind"] == "print":
            print(message["text"])
            wire.send({"kind": "printed"})
        elif message["kind"] == "spawn":
            wire.send({"kind": "spawned", "pid": subprocess.Popen(["sleep", "600"]).pid})
        elif message["kind"] == "garble":
            wire._sock.send(b"\xff" * 64)
        elif message["kind"] == "toil":
            while True:
                pass
        elif message["kind"] == "last word":
            wire.send({"kind": "farewell"})
            os._exit(3)


if __name__ == "__main__":
    main()
