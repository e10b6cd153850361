"""Where a demuxer in a decoder process reads: bytes that are pushed to it, or bytes that it asks for anywhere."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from freeroam.processes.ring import RingWriter
from freeroam.sources.decoding.places import Offer
from freeroam.sources.decoding.worker_scaling import Pixels

ACKNOWLEDGE_BYTES = 256 * 1024
READ_BYTES = 64 * 1024
ASK_BYTES = 512 * 1024


class Closed(Exception):
    """The feed was closed; raised inside the demuxer, which ends its work at once."""


class Vitals:
    """When a feed's thread last got anywhere, for the parent to tell work from a hang."""

    def __init__(self) -> None:
        self.alive_s = time.monotonic()
        self.is_waiting = False

    def beat(self) -> None:
        """Say that something was done."""
        self.alive_s = time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Say that what is done meanwhile is waiting for somebody else."""
        self.is_waiting = True
        try:
            yield
        finally:
            self.is_waiting = False
            self.beat()

    def busy_s(self) -> float:
        """Return for how long it has worked without a sign of life; 0 while it waits for bytes or credit."""
        return 0.0 if self.is_waiting else time.monotonic() - self.alive_s


class Gate:
    """The lock, the wake-up call and the closing of one feed, shared by all that its thread may wait for."""

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.vitals = Vitals()
        self.is_closed = False

    def close(self) -> None:
        """Wake the thread wherever it waits; it raises ``Closed`` there."""
        with self.condition:
            self.is_closed = True
            self.condition.notify_all()

    def wait_for(self, ready: Callable[[], bool]) -> None:
        """Wait until ``ready``; called with the condition held.

        Raises:
            Closed: The feed was closed.
        """
        with self.vitals.waiting():
            while not self.is_closed and not ready():
                self.condition.wait()
        if self.is_closed:
            raise Closed

    def place(self, offer: Offer, pixels: Pixels, ring: RingWriter | None) -> tuple[int | None, list[Pixels]]:
        """Write a frame to the place that was offered; called with the condition held.

        So nothing is written once ``close`` has returned, and the place may be used for another feed.

        Returns:
            The place that was offered, and the frame itself if it was not written there.

        Raises:
            Closed: The feed was closed.
        """
        if self.is_closed:
            raise Closed
        if offer is None or ring is None:
            return None, [pixels]
        at, room_bytes = offer
        if len(pixels) > room_bytes:
            return at, [pixels]
        ring.write(at, pixels)
        return at, []


class PushInput:
    """A file object over pushed bytes, without seek; its end is final.

    Args:
        gate: Of the feed.
        acknowledge: Told how many bytes were read, from time to time.
    """

    def __init__(self, gate: Gate, acknowledge: Callable[[int], None]) -> None:
        self._gate = gate
        self._acknowledge = acknowledge
        self._chunks: deque[memoryview] = deque()
        self._is_ended = False
        self._read_bytes = 0

    def push(self, chunk: memoryview) -> None:
        """Add bytes; called by the process's main thread."""
        with self._gate.condition:
            self._chunks.append(chunk)
            self._gate.condition.notify_all()

    def end(self) -> None:
        """Let the reader meet the end after what was pushed."""
        with self._gate.condition:
            self._is_ended = True
            self._gate.condition.notify_all()

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes, waiting for at least one; nothing at the end, however often it is asked.

        Raises:
            Closed: The feed was closed.
        """
        with self._gate.condition:
            if not self._chunks and not self._is_ended and not self._gate.is_closed:
                self._report()
            self._gate.wait_for(lambda: bool(self._chunks) or self._is_ended)
            if not self._chunks:
                return b""
            head = self._chunks[0]
            data = bytes(head[:size])
            if len(head) > size:
                self._chunks[0] = head[size:]
            else:
                self._chunks.popleft()
            self._read_bytes += len(data)
            if self._read_bytes >= ACKNOWLEDGE_BYTES:
                self._report()
        return data

    def _report(self) -> None:
        if self._read_bytes:
            self._acknowledge(self._read_bytes)
            self._read_bytes = 0


class PacketInput(PushInput):
    """Pushed records, each a 16-bit length and as many bytes, that are taken one by one."""

    def __init__(self, gate: Gate, acknowledge: Callable[[int], None]) -> None:
        super().__init__(gate, acknowledge)
        self._unparsed = bytearray()
        self._at = 0

    def next_record(self) -> bytes | None:
        """Return the next record, waiting for it; None at the end.

        Raises:
            Closed: The feed was closed.
        """
        while True:
            begin = self._at + 2
            end = begin + int.from_bytes(self._unparsed[self._at : begin], "big")
            if len(self._unparsed) >= max(begin, end):
                self._at = end
                return bytes(self._unparsed[begin:end])
            del self._unparsed[: self._at]
            self._at = 0
            data = self.read(READ_BYTES)
            if not data:
                return None
            self._unparsed += data


class SeekInput:
    """A file object over bytes that the parent reads for it, with seek.

    Args:
        gate: Of the feed.
        size_bytes: How many bytes there are.
        ask: Asks the parent for so many bytes at an offset.
    """

    def __init__(self, gate: Gate, size_bytes: int, ask: Callable[[int, int], None]) -> None:
        self._gate = gate
        self._size_bytes = size_bytes
        self._ask = ask
        self._at = 0
        self._chunk_at = 0
        self._chunk = memoryview(b"")
        self._answer: memoryview | None = None

    def answer(self, chunk: memoryview) -> None:
        """Take what the parent read; called by the process's main thread."""
        with self._gate.condition:
            self._answer = chunk
            self._gate.condition.notify_all()

    def read(self, size: int) -> bytes:
        """Return up to ``size`` bytes at the present place; nothing at the end.

        Raises:
            Closed: The feed was closed.
        """
        inside = self._at - self._chunk_at
        if not 0 <= inside < len(self._chunk):
            if self._at >= self._size_bytes:
                return b""
            with self._gate.condition:
                self._answer = None
                self._ask(self._at, min(ASK_BYTES, self._size_bytes - self._at))
                self._gate.wait_for(lambda: self._answer is not None)
                assert self._answer is not None
                self._chunk, self._chunk_at, inside = self._answer, self._at, 0
        data = bytes(self._chunk[inside : inside + size])
        self._at += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to ``offset`` from the start (0), from here (1) or from the end (2); return the new place."""
        base = {0: 0, 1: self._at, 2: self._size_bytes}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """Return the present place."""
        return self._at
