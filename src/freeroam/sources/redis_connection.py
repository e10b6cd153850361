"""One connection to a Redis server that reads a stream: opened once, never by the library again, answers bounded.

The library's own pools, retries and maintenance notices would connect again, and to wherever the server says; here a
connection is dialled by us (the checked address for references, see ``security/dialing.py``) and ends when it breaks.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from redis import exceptions
from redis.asyncio.connection import AbstractConnection

from freeroam.security.redaction import redact_text
from freeroam.sources.redis_entries import EntryId
from freeroam.sources.redis_place import StreamInfo
from freeroam.vocabulary.errors import SourceError, SourceErrorCode

BLOCK_S = 2.0
"""How long the server waits for entries; also how soon a stream made anew is noticed."""

GREATEST_ANSWER_BYTES = 512 * 1024 * 1024
"""What one answer may hold; one entry of Redis can hold as much."""

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Dial = Callable[[], Awaitable[Streams]]
RawEntry = tuple[EntryId, list[bytes] | None]


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a stream is.

    Attributes:
        host: Name or address.
        port: TCP port.
        db: Number of the database.
        key: Name of the stream.
        username: For ``AUTH``.
        password: For ``AUTH``.
        tls: Whether the connection is encrypted.
        is_trusted: Whether it is the operator's own setting, which the policy for addresses does not concern.
    """

    host: str
    port: int
    db: int
    key: str
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    is_trusted: bool = False

    @property
    def shown(self) -> str:
        """The server as messages may name it."""
        return f"{self.host}:{self.port}"


async def dial_trusted(address: RedisAddress, timeout_s: float) -> Streams:
    """Connect to the operator's own server, by the system's resolver.

    Raises:
        SourceError: ``dns``, ``refused``, ``timeout`` or ``tls``.
    """
    import socket

    tls = ssl.create_default_context() if address.tls else None
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.open_connection(address.host, address.port, ssl=tls)
    except TimeoutError:
        raise SourceError(SourceErrorCode.TIMEOUT, f"Redis at {address.shown} did not answer") from None
    except socket.gaierror:
        raise SourceError(SourceErrorCode.DNS, f"the name {address.host} has no address") from None
    except ssl.SSLError as error:
        raise SourceError(SourceErrorCode.TLS, f"Redis at {address.shown}: {error.reason or 'TLS failed'}") from None
    except OSError as error:
        text = f"Redis at {address.shown} could not be reached: {error.strerror or type(error).__name__}"
        raise SourceError(SourceErrorCode.REFUSED, text) from None


class StreamConnection:
    """Commands that read one stream.

    Args:
        connection: Open.
        address: What it is connected to.
        read_timeout_s: What an answer may take beyond the time the server itself waits.
    """

    def __init__(self, connection: _Dialled, address: RedisAddress, read_timeout_s: float) -> None:
        self._connection = connection
        self._address = address
        self._read_timeout_s = read_timeout_s

    async def read(self, after: EntryId, count: int) -> list[RawEntry]:
        """Return at most ``count`` entries after ``after``; empty if none came within ``BLOCK_S``.

        Raises:
            SourceError: See ``connect``.
        """
        block_ms = str(int(BLOCK_S * 1000))
        answer = await self._ask(
            "XREAD", "COUNT", str(count), "BLOCK", block_ms, "STREAMS", self._address.key, str(after), waits_s=BLOCK_S
        )
        entries: list[RawEntry] = []
        for name, fields in answer[0][1] if answer else ():
            entry_id = EntryId.parse(name)
            if entry_id is not None:
                entries.append((entry_id, fields))
        return entries

    async def info(self) -> StreamInfo | None:
        """Return what the server knows of the stream, None if there is no such key.

        The answer holds the first and the last entry with their pictures, so it is not asked at every step.

        Raises:
            SourceError: See ``connect``.
        """
        try:
            answer = await self._ask("XINFO", "STREAM", self._address.key)
        except _NoSuchKey:
            return None
        return StreamInfo.of(dict(zip(answer[::2], answer[1::2], strict=False)))

    async def length(self) -> int:
        """Return how many entries the stream has now; 0 if there is no such key.

        Raises:
            SourceError: See ``connect``.
        """
        return int(await self._ask("XLEN", self._address.key))

    async def _ask(self, *command: str, waits_s: float = 0.0) -> Any:
        with _named_errors(self._address):
            async with asyncio.timeout(waits_s + self._read_timeout_s):
                await self._connection.send_command(*command, check_health=False)
                self._connection.begin_answer()
                return await self._connection.read_response(disable_decoding=True, timeout=float("inf"))


@asynccontextmanager
async def connect(address: RedisAddress, dial: Dial, read_timeout_s: float) -> AsyncIterator[StreamConnection]:
    """Open a connection, log in and choose the database; closed at the end of the block.

    Raises:
        SourceError: What ``dial`` raises; ``auth`` (no or a wrong password, no right to read), ``timeout``,
            ``not_found`` (no such database), ``no_video`` (the key is no stream), ``unavailable`` (the connection was
            lost, the server is loading), ``bad_data`` (an answer that is none of Redis, or too large).
    """
    connection = _Dialled(await dial(), address)
    try:
        with _named_errors(address):
            async with asyncio.timeout(read_timeout_s):
                await connection.connect()  # type: ignore[no-untyped-call]
        yield StreamConnection(connection, address, read_timeout_s)
    finally:
        connection.abort()


class _NoSuchKey(Exception):
    """The key is not there."""


class _TooMuch(Exception):
    """An answer is larger than it may be."""


class _named_errors:  # noqa: N801 - reads as a phrase after ``with``
    """Turns the library's errors into ours, without the server's words where they may echo a secret."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, SourceError):
            return
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, _TooMuch):
            cause = cause.__cause__ or cause.__context__
        raise self._named(cause if isinstance(cause, _TooMuch) else error) from None

    def _named(self, error: Exception) -> Exception:
        where = f"Redis at {self._address.shown}"
        text = str(error)
        if isinstance(error, _TooMuch | exceptions.InvalidResponse | UnicodeError | ValueError | IndexError):
            return SourceError(SourceErrorCode.BAD_DATA, f"{where} gave an answer that is none, or too large")
        if isinstance(error, exceptions.ResponseError | exceptions.AuthenticationError):
            lowered = text.lower()
            if "no such key" in lowered:
                return _NoSuchKey()
            if isinstance(error, exceptions.NoPermissionError | exceptions.AuthenticationError) or any(
                word in lowered for word in ("noauth", "wrongpass", "noperm", "authentication", "password")
            ):
                return SourceError(SourceErrorCode.AUTH, f"{where} refused the user, the password or the command")
            if "wrongtype" in lowered or "wrong kind of value" in lowered:
                return SourceError(SourceErrorCode.NO_VIDEO, f"the key {self._address.key} is no Redis stream")
            if "db index" in lowered:
                return SourceError(SourceErrorCode.NOT_FOUND, f"{where} has no database {self._address.db}")
            return SourceError(SourceErrorCode.UNAVAILABLE, f"{where} said: {redact_text(text)[:200]}")
        if isinstance(error, exceptions.TimeoutError | TimeoutError):
            return SourceError(SourceErrorCode.TIMEOUT, f"{where} did not answer in time")
        if isinstance(error, exceptions.RedisError | OSError | EOFError):
            return SourceError(SourceErrorCode.UNAVAILABLE, f"the connection to {where} was lost")
        return error


class _BoundedReader:
    """Counts what an answer brings, and stops a server that never ends."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self.left_bytes = GREATEST_ANSWER_BYTES

    async def read(self, size: int = -1) -> bytes:
        return self._count(await self._reader.read(size if size >= 0 else 65536))

    async def readline(self) -> bytes:
        return self._count(await self._reader.readline())

    async def readexactly(self, size: int) -> bytes:
        if size > self.left_bytes:
            raise _TooMuch
        return self._count(await self._reader.readexactly(size))

    def at_eof(self) -> bool:
        return self._reader.at_eof()

    def _count(self, data: bytes) -> bytes:
        self.left_bytes -= len(data)
        if self.left_bytes < 0:
            raise _TooMuch
        return data


class _Dialled(AbstractConnection):
    """The library's connection over streams that are open already."""

    def __init__(self, streams: Streams, address: RedisAddress) -> None:
        self._streams: Streams | None = streams
        self._transport = streams[1].transport
        self._shown = address.shown
        super().__init__(
            db=address.db,
            username=address.username,
            password=address.password,
            # Time is bounded by whoever asks: with a limit of its own the library sends inside ``asyncio.wait_for``,
            # which before Python 3.12 loses a cancellation that comes as the bytes leave.
            socket_timeout=None,
            socket_connect_timeout=None,
            protocol=2,
        )

    async def _connect(self) -> None:
        if self._streams is None:
            raise exceptions.ConnectionError("the connection was lost")
        (reader, self._writer), self._streams = self._streams, None
        self._reader = _BoundedReader(reader)  # type: ignore[assignment]

    def begin_answer(self) -> None:
        """Let the next answer be as large as answers may be."""
        if isinstance(self._reader, _BoundedReader):
            self._reader.left_bytes = GREATEST_ANSWER_BYTES

    def abort(self) -> None:
        """Drop the connection without a farewell."""
        self._writer = self._reader = None
        self._transport.abort()

    def repr_pieces(self) -> list[tuple[str, Any]]:
        return [("server", self._shown)]

    def _host_error(self) -> str:
        return self._shown
