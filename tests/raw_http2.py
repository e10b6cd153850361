"""A gRPC caller of bare HTTP/2 frames, which does what no library does: acknowledge everything and take nothing."""

from __future__ import annotations

import socket
import struct
from types import TracebackType

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
END_HEADERS, ACK = 4, 1
INITIAL_WINDOW_SIZE = 4
HEAD_BYTES = 9


class StuckCaller:
    """One connection whose server may send headers and pings, but not a byte of an answer.

    Args:
        address: ``host:port`` of a gRPC server.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._connection = socket.create_connection((host, int(port)), timeout=30)
        self._unread = b""
        self.pings = 0
        self._connection.sendall(PREFACE)
        self._send(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, 0))

    def __enter__(self) -> StuckCaller:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def call(self, path: str, message: bytes) -> None:
        """Begin a call with one message, and leave it open."""
        headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost"}
        more = {"content-type": "application/grpc", "te": "trailers"}
        self._send(HEADERS, END_HEADERS, 1, b"".join(_literal(*item) for item in {**headers, **more}.items()))
        self._send(DATA, 0, 1, b"\0" + struct.pack(">I", len(message)) + message)

    def outlive(self) -> None:
        """Acknowledge what must be, until the server closes the connection.

        Raises:
            TimeoutError: It is silent and leaves the connection open.
        """
        while (frame := self._next()) is not None:
            kind, flags, payload = frame
            if kind == SETTINGS and not flags & ACK:
                self._send(SETTINGS, ACK, 0, b"")
            elif kind == PING and not flags & ACK:
                self.pings += 1
                self._send(PING, ACK, 0, payload)

    def _send(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        head = struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream)
        self._connection.sendall(head + payload)

    def _next(self) -> tuple[int, int, bytes] | None:
        head = self._take(HEAD_BYTES)
        if head is None:
            return None
        payload = self._take(int.from_bytes(head[:3], "big"))
        return None if payload is None else (head[3], head[4], payload)

    def _take(self, size: int) -> bytes | None:
        while len(self._unread) < size:
            try:
                piece = self._connection.recv(65536)
            except ConnectionResetError:
                return None
            if not piece:
                return None
            self._unread += piece
        taken, self._unread = self._unread[:size], self._unread[size:]
        return taken


def _literal(name: str, value: str) -> bytes:
    """Return a header as HPACK writes one that is in no table: both texts after their lengths, below 127 bytes."""
    return b"\0" + b"".join(bytes((len(text),)) + text.encode() for text in (name, value))
