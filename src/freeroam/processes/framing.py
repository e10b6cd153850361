"""How a message lies on the wire: packing, and cutting what arrives into messages.

::

    uint32 packed_bytes, uint32 blobs_bytes (little endian) | msgpack [message, [length of each blob]] | blobs
"""

from __future__ import annotations

import array
import socket
import struct
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import msgpack

from freeroam.vocabulary.errors import TooLarge

Message = dict[str, Any]
Buffer = bytes | bytearray | memoryview

BLOBS = "blobs"
MAX_MESSAGE_BYTES = 256 * 1024 * 1024
_PREFIX = struct.Struct("<II")
_SCRATCH_BYTES = 64 * 1024
_BUFFERS_PER_SEND = 64  # well under IOV_MAX, which is 1024 on Linux and macOS


def pack(message: Message) -> list[Buffer]:
    """Return the buffers that carry ``message``, prefix first; blobs are referred to, not copied.

    Raises:
        TooLarge: The message is over ``MAX_MESSAGE_BYTES``.
    """
    blobs: list[Buffer] = [_flat(blob) for blob in message.get(BLOBS) or ()]
    body = {key: value for key, value in message.items() if key != BLOBS} if BLOBS in message else message
    lengths = [len(blob) for blob in blobs]
    packed: bytes = msgpack.packb([body, lengths], use_bin_type=True)
    total = len(packed) + sum(lengths)
    if total > MAX_MESSAGE_BYTES:
        raise TooLarge(f"a message of {total} bytes is over the limit of {MAX_MESSAGE_BYTES} bytes between processes")
    return [_PREFIX.pack(len(packed), total - len(packed)) + packed, *blobs]


def _flat(blob: Buffer) -> Buffer:
    if isinstance(blob, memoryview) and (blob.ndim != 1 or blob.itemsize != 1):
        return blob.cast("B")
    return blob


class Deframer:
    """Cuts what arrives on a socket into messages; large ones are received in place.

    Use: read into ``space()``, then give the count to ``advance``.
    """

    def __init__(self) -> None:
        self._scratch = bytearray(_SCRATCH_BYTES)
        self._start = 0
        self._end = 0
        self._body: bytearray | None = None
        self._body_filled = 0
        self._packed_bytes = 0

    def space(self) -> memoryview:
        """Return where the next bytes belong; never empty."""
        if self._body is not None:
            return memoryview(self._body)[self._body_filled :]
        return memoryview(self._scratch)[self._end :]

    def advance(self, count: int) -> list[tuple[Message, int]]:
        """Take ``count`` bytes that were read into ``space()``; return the messages they complete and their sizes.

        Raises:
            ValueError: What arrived is no message; nothing further can be read from this socket.
        """
        if self._body is not None:
            self._body_filled += count
            if self._body_filled < len(self._body):
                return []
            body, self._body = self._body, None
            return [(_unpack(body, self._packed_bytes), len(body))]
        self._end += count
        return self._cut()

    def _cut(self) -> list[tuple[Message, int]]:
        messages: list[tuple[Message, int]] = []
        while self._end - self._start >= _PREFIX.size:
            packed_bytes, blobs_bytes = _PREFIX.unpack_from(self._scratch, self._start)
            total = packed_bytes + blobs_bytes
            if total > MAX_MESSAGE_BYTES:
                raise ValueError(f"a message announces {total} bytes")
            begin = self._start + _PREFIX.size
            here = self._end - begin
            if here < total:
                if _PREFIX.size + total > _SCRATCH_BYTES:
                    self._body = bytearray(total)
                    self._body[:here] = self._scratch[begin : self._end]
                    self._body_filled, self._packed_bytes = here, packed_bytes
                    self._start = self._end = 0
                    return messages
                break
            messages.append((_unpack(bytes(self._scratch[begin : begin + total]), packed_bytes), total))
            self._start = begin + total
        rest = self._end - self._start
        if self._start:
            self._scratch[:rest] = self._scratch[self._start : self._end]
            self._start, self._end = 0, rest
        return messages


def _unpack(body: bytes | bytearray, packed_bytes: int) -> Message:
    view = memoryview(body)
    unpacked = msgpack.unpackb(view[:packed_bytes], raw=False, strict_map_key=False)
    if not isinstance(unpacked, list) or len(unpacked) != 2 or not isinstance(unpacked[0], dict):
        raise ValueError("not a message of ours")
    message: Message = unpacked[0]
    lengths: list[int] = unpacked[1]
    if sum(lengths) != len(body) - packed_bytes:
        raise ValueError("the blobs of a message do not fill it")
    if lengths:
        at, blobs = packed_bytes, []
        for length in lengths:
            blobs.append(view[at : at + length])
            at += length
        message[BLOBS] = blobs
    return message


class Outbox:
    """Buffers that wait to be written, oldest first."""

    def __init__(self) -> None:
        self._buffers: deque[Buffer] = deque()
        self._descriptors: dict[int, Sequence[int]] = {}
        self.waiting_bytes = 0

    def __bool__(self) -> bool:
        return bool(self._buffers)

    def add(self, buffers: Iterable[Buffer], descriptors: Sequence[int] = ()) -> None:
        """Append buffers; empty ones are left out.

        Args:
            buffers: What to write.
            descriptors: Of files that travel with the first of them; they stay open until then.
        """
        for buffer in buffers:
            if descriptors:
                self._descriptors[id(buffer)] = descriptors
                descriptors = ()
            if len(buffer):
                self._buffers.append(buffer)
                self.waiting_bytes += len(buffer)

    def write_some(self, sock: socket.socket) -> None:
        """Give the kernel what it takes in one call; raises what ``sendmsg`` raises."""
        has_descriptors = id(self._buffers[0]) in self._descriptors
        sent = self._send_descriptors(sock) if has_descriptors else sock.sendmsg(self._head())
        self.waiting_bytes -= sent
        while sent:
            first = self._buffers[0]
            if sent < len(first):
                self._buffers[0] = memoryview(first)[sent:]
                return
            sent -= len(first)
            self._buffers.popleft()

    def _head(self) -> list[Buffer]:
        head: list[Buffer] = []
        for buffer in self._buffers:
            if len(head) == _BUFFERS_PER_SEND or id(buffer) in self._descriptors:
                break
            head.append(buffer)
        return head

    def _send_descriptors(self, sock: socket.socket) -> int:
        first = self._buffers[0]
        files = array.array("i", self._descriptors[id(first)])
        sent = sock.sendmsg([first], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
        del self._descriptors[id(first)]
        return sent

    def clear(self) -> None:
        """Forget what waits."""
        self._descriptors.clear()
        self._buffers.clear()
        self.waiting_bytes = 0
