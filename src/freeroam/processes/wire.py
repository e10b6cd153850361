"""The wire between this process and its children: length-prefixed msgpack, with large bytes beside it, uncopied.

A message is a dictionary of what msgpack knows. The bytes under its key ``blobs`` (a list of bytes-like values,
pictures mostly) are not packed: they follow the packed part raw (``framing``), so the sender hands them to the kernel
where they lie and the receiver gets ``memoryview`` slices of the one buffer that the message arrived in. Nothing is
pickled, so a child that was taken over can send data, never code.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import os
import select
import socket
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from freeroam.processes.framing import BLOBS, MAX_MESSAGE_BYTES, Buffer, Deframer, Message, Outbox, pack

__all__ = [
    "BLOBS",
    "MAX_MESSAGE_BYTES",
    "BlockingWire",
    "Buffer",
    "Deframer",
    "Message",
    "Wire",
    "pack",
    "socket_pair",
]

MAX_UNREAD_BYTES = 64 * 1024 * 1024
SOCKET_BUFFER_BYTES = 4 * 1024 * 1024
_READS_PER_TURN = 16
_ANCILLARY_BYTES = socket.CMSG_SPACE(8 * array.array("i").itemsize)


def socket_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected unix stream sockets with buffers as large as the system allows."""
    pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    for end in pair:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
    return pair


class Wire:
    """The parent's end: never blocks the loop, coalesces what is sent in one turn of the loop.

    Built inside a running loop; owns ``sock``. One task may receive at a time.

    Args:
        sock: A connected unix stream socket.

    Attributes:
        failure: Why this end closed the wire by itself; None if it did not.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self.failure: str | None = None
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox()
        self._flush_handle: asyncio.Handle | None = None
        self._is_writer_added = False
        self._drained: asyncio.Future[None] | None = None
        self._deframer = Deframer()
        self._inbox: deque[tuple[Message, int]] = deque()
        self._unread_bytes = 0
        self._is_paused = False
        self._arrival: asyncio.Future[None] | None = None
        self._is_closed = False
        self._loop.add_reader(sock.fileno(), self._read)

    @property
    def is_closed(self) -> bool:
        """Whether the other end is gone or ``close`` was called; messages that came before can still be received."""
        return self._is_closed

    @property
    def waiting_bytes(self) -> int:
        """Bytes given to ``send`` that the kernel has not taken yet."""
        return self._outbox.waiting_bytes

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Queue a message; on a closed wire it is dropped, since the reader of ``receive`` learns of the end.

        Blobs must stay unchanged until they are written, and ``descriptors`` (of open files, which the other end gets
        copies of by ``BlockingWire.take_descriptor``) open.

        Raises:
            TooLarge: The message is over ``MAX_MESSAGE_BYTES``.
        """
        buffers = pack(message)
        if self._is_closed:
            return
        self._outbox.add(buffers, descriptors)
        if self._flush_handle is None and not self._is_writer_added:
            self._flush_handle = self._loop.call_soon(self._flush)

    async def drain(self) -> None:
        """Wait until the kernel has taken all that was sent, or the wire is closed."""
        while self._outbox and not self._is_closed:
            if self._drained is None or self._drained.done():
                self._drained = self._loop.create_future()
            await asyncio.shield(self._drained)

    async def receive(self) -> Message | None:
        """Return the next message; None when the other end is gone and all it sent was received."""
        while True:
            ready = self.receive_ready()
            if ready is not None:
                return ready
            if self._is_closed:
                return None
            if self._arrival is None or self._arrival.done():
                self._arrival = self._loop.create_future()
            await self._arrival

    def receive_ready(self) -> Message | None:
        """Return the next message if one is here already, else None."""
        if not self._inbox:
            return None
        message, size = self._inbox.popleft()
        self._unread_bytes -= size
        if self._is_paused and not self._is_closed and self._unread_bytes < MAX_UNREAD_BYTES // 2:
            self._is_paused = False
            self._loop.add_reader(self._sock.fileno(), self._read)
        return message

    def close(self) -> None:
        """Close the socket; what was not written is lost, what was received stays receivable."""
        if self._is_closed:
            return
        self._is_closed = True
        if self._flush_handle is not None:
            self._flush_handle.cancel()
        if not self._loop.is_closed():
            self._loop.remove_reader(self._sock.fileno())
            if self._is_writer_added:
                self._loop.remove_writer(self._sock.fileno())
        self._outbox.clear()
        self._sock.close()
        for waiter in (self._drained, self._arrival):
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

    def finish(self) -> None:
        """Take in what the other end wrote before it died, then close."""
        while not self._is_closed and self._read_once():
            pass
        self.close()

    def _flush(self) -> None:
        self._flush_handle = None
        try:
            while self._outbox:
                self._outbox.write_some(self._sock)
        except (BlockingIOError, InterruptedError):
            if not self._is_writer_added:
                self._is_writer_added = True
                self._loop.add_writer(self._sock.fileno(), self._flush)
            return
        except OSError:
            # What the other end said before it went is still in the socket.
            self.finish()
            return
        if self._is_writer_added:
            self._is_writer_added = False
            self._loop.remove_writer(self._sock.fileno())
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _read(self) -> None:
        for _ in range(_READS_PER_TURN):
            if not self._read_once():
                return
            if self._unread_bytes > MAX_UNREAD_BYTES:
                self._is_paused = True
                self._loop.remove_reader(self._sock.fileno())
                return

    def _read_once(self) -> bool:
        """Read what one call gives; return whether there may be more."""
        try:
            count = self._sock.recv_into(self._deframer.space())
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            count = 0
        if count == 0:
            self.close()
            return False
        try:
            messages = self._deframer.advance(count)
        except Exception as error:  # bytes that are no message: msgpack raises several classes
            self.failure = f"what came is no message: {error}"
            self.close()
            return False
        for message, size in messages:
            self._inbox.append((message, size))
            self._unread_bytes += size
        if messages and self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)
        return True


class BlockingWire:
    """A child's end: blocking, for synchronous loops; ``send`` may be called from several threads.

    Args:
        sock: A connected unix stream socket; owned.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        self._sock = sock
        self._deframer = Deframer()
        self._inbox: deque[Message] = deque()
        self._descriptors: deque[int] = deque()
        self._sending = threading.Lock()
        self._poll = select.poll()
        self._poll.register(sock.fileno(), select.POLLIN)
        self._is_closed = False

    @property
    def is_closed(self) -> bool:
        """Whether the parent closed the wire; messages that came before can still be received."""
        return self._is_closed

    def fileno(self) -> int:
        """Return the descriptor, for ``select`` beside other things; drain ``receive_ready`` before waiting on it."""
        return self._sock.fileno()

    def send(self, message: Message) -> None:
        """Write a message; waits while the parent is slow to read; does nothing once the parent is gone.

        Raises:
            TooLarge: The message is over ``MAX_MESSAGE_BYTES``.
        """
        outbox = Outbox()
        outbox.add(pack(message))
        with self._sending:
            try:
                while outbox:
                    outbox.write_some(self._sock)
            except OSError:
                self._is_closed = True

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """Return the next message; None after ``timeout_s`` seconds of silence or when the parent is gone.

        ``is_closed`` tells the two apart.
        """
        while not self._inbox and not self._is_closed:
            if not self._take(timeout_s):
                break
        return self._inbox.popleft() if self._inbox else None

    def receive_ready(self) -> list[Message]:
        """Return every message that is here already, without waiting."""
        while not self._is_closed and self._take(0.0):
            pass
        messages = list(self._inbox)
        self._inbox.clear()
        return messages

    def take_descriptor(self) -> int:
        """Return the oldest file descriptor that came with a message and was not taken yet; the caller owns it.

        Raises:
            OSError: None came, since this process may open no more files.
        """
        if not self._descriptors:
            raise OSError(errno.EMFILE, "a file descriptor did not arrive")
        return self._descriptors.popleft()

    def close(self) -> None:
        """Close the socket."""
        self._is_closed = True
        self._sock.close()

    def _take(self, timeout_s: float | None) -> bool:
        """Read once if something comes within the time; return whether it did."""
        if not self._poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000.0):
            return False
        try:
            count, ancillary, _, _ = self._sock.recvmsg_into([self._deframer.space()], _ANCILLARY_BYTES)
        except OSError:
            count, ancillary = 0, []
        if count == 0:
            self._is_closed = True
            return False
        if ancillary:
            self._descriptors.extend(_descriptors_in(ancillary))
        self._inbox.extend(message for message, _ in self._deframer.advance(count))
        return True


def _descriptors_in(ancillary: Iterable[tuple[int, int, bytes]]) -> Iterator[int]:
    """Yield the file descriptors that came beside some bytes, none of them inheritable."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            files = array.array("i")
            files.frombytes(data[: len(data) - len(data) % files.itemsize])
            for descriptor in files:
                os.set_inheritable(descriptor, False)
                yield descriptor
