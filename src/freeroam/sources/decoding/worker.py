"""The decoder process: bytes in, sampled frames out, a thread a feed; the one home of FFmpeg's libraries.

Started by ``slot.DecoderSlot`` as ``python -m freeroam.sources.decoding.worker``. It opens no file and no address.
"""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path
from typing import Any

import av.logging

from freeroam.processes.lifeline import connect
from freeroam.processes.memory import give_memory_back, keep_large_blocks_apart, leave_what_is_loaded
from freeroam.processes.ring import RingWriter
from freeroam.processes.wire import BlockingWire
from freeroam.sources.decoding.worker_feed import FeedThread
from freeroam.sources.decoding.worker_input import PushInput, SeekInput
from freeroam.sources.decoding.worker_opening import Limits
from freeroam.sources.decoding.worker_pictures import PictureThread

UNTIDY_BEATS = 2
"""The thread of a feed that was closed may still be on its way out at the first."""

_STATM = Path("/proc/self/statm")


class Worker:
    """Passes the parent's messages to the threads of its feeds.

    Args:
        wire: To the parent.
        limits: Bounds of this process.
        ring: Where frames are written; None sends them all as bytes.
    """

    def __init__(self, wire: BlockingWire, limits: Limits, ring: RingWriter | None) -> None:
        self._wire = wire
        self._ring = ring
        self._limits = limits
        self._feeds: dict[int, FeedThread] = {}
        self._pictures: dict[int, PictureThread] = {}
        self._untidy_beats = 0

    def serve(self) -> None:
        """Serve until the parent is gone."""
        while (message := self._wire.receive()) is not None:
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        operation = message["op"]
        if operation == "ping":
            if self._untidy_beats:
                # A demuxer and the file object it reads refer to each other, so only the collector frees them.
                self._untidy_beats -= 1
                give_memory_back()
            self._wire.send({"op": "pong", "busy_s": self._busy_s(), "rss_bytes": rss_bytes()})
        elif operation == "open":
            feed = FeedThread(message, self._limits, self._wire.send, self._ring)
            self._feeds[feed.number] = feed
            feed.start()
        elif operation == "pictures":
            pictures = PictureThread(message, self._limits, self._wire.send, self._ring)
            self._pictures[pictures.number] = pictures
            pictures.start()
        elif operation == "picture":
            if (asked := self._pictures.get(message["feed"])) is not None:
                asked.push(message)
        elif operation == "close":
            closed = self._feeds.pop(message["feed"], None) or self._pictures.pop(message["feed"], None)
            if closed is not None:
                closed.gate.close()
                self._untidy_beats = UNTIDY_BEATS
            # From here on nothing is written for this feed, see ``Gate.place``.
            self._wire.send({"op": "closed", "feed": message["feed"]})
        elif (open_feed := self._feeds.get(message["feed"])) is not None:
            _tell(open_feed, operation, message)

    def _busy_s(self) -> float:
        """Return how long the slowest feed has worked without a sign of life."""
        gates = [feed.gate for feed in self._feeds.values()] + [feed.gate for feed in self._pictures.values()]
        return max((gate.vitals.busy_s() for gate in gates), default=0.0)


def _tell(feed: FeedThread, operation: str, message: dict[str, Any]) -> None:
    """Pass on what the parent says about an open feed."""
    if operation == "credit":
        feed.add_credit(message["place"])
    elif operation == "wish":
        feed.change_fps(message["fps"])
    elif operation == "data" and isinstance(feed.input, PushInput):
        feed.input.push(message["blobs"][0])
    elif operation == "end" and isinstance(feed.input, PushInput):
        feed.input.end()
    elif operation == "chunk" and isinstance(feed.input, SeekInput):
        feed.input.answer(message["blobs"][0])


def rss_bytes() -> int:
    """Return this process's resident memory; where the system does not tell, the greatest it ever was."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Run the process."""
    keep_large_blocks_apart()
    wire = connect(sys.argv[1:])
    # Log lines made by codec threads deadlock with the interpreter's lock, and they could hold a stream's secrets.
    av.logging.set_level(av.logging.PANIC)
    # A feed that ends has the collector run, which need not go through all modules then.
    leave_what_is_loaded()
    ring_fd = int(sys.argv[2])
    Worker(wire, Limits(max_pixels=int(sys.argv[1])), RingWriter(ring_fd) if ring_fd >= 0 else None).serve()
    os._exit(0)


if __name__ == "__main__":
    main()
