"""How the messages of a call come in and go out, and what becomes of a reader that takes none.

gRPC has no way to end one call whose reader grants it no room, and pings that such a reader answers keep its connection
alive; so the connection itself is closed. Whatever else runs on it ends with it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import grpc

from freeroam.api.call_ends import ReaderIsStuckError
from freeroam.observability.logs import get_logger
from freeroam.observability.metrics import Metrics

Context = Any
"""``grpc.aio.ServicerContext``; the library has no types."""

DESCRIPTORS = Path("/dev/fd")
"""The open files of this process, by their numbers, on Linux and macOS."""

_GONE = (grpc.aio.BaseError, asyncio.InvalidStateError)
"""What a write raises whose call is over already."""

log = get_logger(__name__)


async def next_message(context: Context) -> bytes | None:
    """Return the next message of a call; None if no more come.

    The iterator that gRPC offers for this keeps itself and the message that it gave last until a collection, which may
    be hours away: a few great messages would fill the memory.
    """
    message: Any = await context.read()
    return None if message is grpc.aio.EOF else message


class Outlet:
    """Writes the messages of one call, one after the other, whoever writes them.

    Args:
        context: The call.
        idle_timeout_s: How long a message may wait for a reader who takes nothing.

    Attributes:
        stuck: Done once the reader is.
    """

    def __init__(self, context: Context, idle_timeout_s: float) -> None:
        self._context = context
        self._idle_timeout_s = idle_timeout_s
        self._turn = asyncio.Lock()
        self._unsent: asyncio.Future[Any] | None = None
        self.stuck: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def write(self, message: Any) -> None:
        """Write one message; returns when it is taken.

        Raises:
            ReaderIsStuckError: It was not in ``STREAM_IDLE_TIMEOUT``, nor was one before it.
            CancelledError: The call is over already.
        """
        async with self._turn:
            await self._flush()
            self._unsent = asyncio.ensure_future(self._context.write(message))
            await self._flush()

    async def write_only(self, message: Any) -> None:
        """Write the only message of a call: as ``write`` does, without what keeps several writers apart.

        Raises:
            ReaderIsStuckError, CancelledError: As ``write`` does.
        """
        try:
            async with asyncio.timeout(self._idle_timeout_s):
                await self._context.write(message)
        except TimeoutError:
            self.stuck.set_result(None)
            raise ReaderIsStuckError from None
        except _GONE:
            raise asyncio.CancelledError from None

    async def _flush(self) -> None:
        """Wait until the message that was written last is taken; also one whose writer was cancelled meanwhile."""
        if self.stuck.done():
            raise ReaderIsStuckError
        if self._unsent is None:
            return
        await asyncio.wait({self._unsent}, timeout=self._idle_timeout_s)
        if not self._unsent.done():
            self.stuck.set_result(None)
            raise ReaderIsStuckError
        sent, self._unsent = self._unsent, None
        _look_at(sent)

    async def settle(self) -> None:
        """Wait until a message that could not be sent is taken after all, or the connection is gone.

        Raises:
            CancelledError: The connection is gone.
        """
        if self._unsent is not None:
            await asyncio.wait({self._unsent})
            _look_at(self._unsent)

    def close(self) -> None:
        """End; a message that a cancelled writer left behind goes with its call."""
        if self._unsent is not None:
            self._unsent.add_done_callback(_forget)
            if not self.stuck.done():
                self._unsent.cancel()
        self.stuck.cancel()


class Outlets:
    """Makes the outlets of all calls, and drops readers that are stuck.

    Args:
        port: Where the door listens.
        idle_timeout_s: From ``STREAM_IDLE_TIMEOUT``.
        metrics: Counts the dropped.
    """

    def __init__(self, port: int, idle_timeout_s: float, metrics: Metrics) -> None:
        self._port = port
        self._idle_timeout_s = idle_timeout_s
        self._metrics = metrics

    @asynccontextmanager
    async def open(self, context: Context, method: str, request_id: str = "") -> AsyncIterator[Outlet]:
        """Give the outlet of a call; a ``ReaderIsStuckError`` that leaves the block closes the reader's connection.

        Args:
            context: The call.
            method: Named in the log.
            request_id: Named in the log.
        """
        outlet = Outlet(context, self._idle_timeout_s)
        try:
            yield outlet
        except ReaderIsStuckError:
            self._metrics.count_slow_client("answer")
            is_closed = close_connection(context.peer(), self._port)
            log.info("slow_reader_dropped", request_id=request_id, path=method, is_connection_closed=is_closed)
            if is_closed:
                raise asyncio.CancelledError from None
            await outlet.settle()
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "nothing was read for too long")
        finally:
            outlet.close()


def close_connection(peer: str, port: int) -> bool:
    """Close the connection of ``peer``, gRPC's name of it, to our ``port``; tell whether there was one.

    gRPC keeps its sockets to itself, so they are looked for among the open files of this process. A copy of the
    descriptor is examined and shut down, so that it is the same connection even if its number is used anew meanwhile.
    """
    wanted = _end_of(*split_peer(peer))
    if wanted is None:
        return False
    for descriptor in DESCRIPTORS.iterdir():
        with suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(int(descriptor.name)).st_mode):
                continue
            with socket.socket(fileno=os.dup(int(descriptor.name))) as connection:
                if connection.family not in {socket.AF_INET, socket.AF_INET6}:
                    continue
                if connection.getsockname()[1] == port and _end_of(*connection.getpeername()[:2]) == wanted:
                    connection.shutdown(socket.SHUT_RDWR)
                    return True
    return False


def split_peer(peer: str) -> tuple[str, str]:
    """Return address and port of gRPC's name of a peer, ``ipv4:127.0.0.1:4711``; a unix socket has neither."""
    kind, _, rest = unquote(peer).partition(":")
    address, _, port = ("", "", "") if kind == "unix" else rest.rpartition(":")
    return address.strip("[]"), port


def _end_of(address: str, port: str | int) -> tuple[str, int] | None:
    """Return one end of a connection in one spelling; None if it is no network address."""
    try:
        known = ipaddress.ip_address(address.partition("%")[0])
        return str(getattr(known, "ipv4_mapped", None) or known), int(port)
    except ValueError:
        return None


def _look_at(sent: asyncio.Future[Any]) -> None:
    """Take note of how a message was sent; one that could not be is a caller who is gone."""
    try:
        sent.result()
    except _GONE:
        raise asyncio.CancelledError from None


def _forget(sent: asyncio.Future[Any]) -> None:
    if not sent.cancelled():
        sent.exception()
