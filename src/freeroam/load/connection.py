"""One connection of the load client: writes a question, reads its answer, and is used again; no library in between.

A general HTTP client spends several times what counting needs on each piece of a stream, and would itself be the limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

import httptools

from freeroam.clock import Clock
from freeroam.load.doors import Hearing, refusal
from freeroam.vocabulary.inference import Priority

MAX_REFUSAL_BYTES = 64 * 1024
_OK = 200


@dataclass(slots=True, eq=False)
class Exchange:
    """One question and what came of it.

    Attributes:
        due_s: When it should have been sent; its times count from here.
        hearing: Reads the answer.
        is_measured: Whether its times count.
        sent_s: When it was sent.
        ended_s: When it was over.
        error: What it is counted under if it failed.
        refusal: The body of an answer that is not 200.
        is_begun: Whether a byte of the answer came.
        over: Resolved when it is over.
    """

    due_s: float
    hearing: Hearing
    priority: Priority | None
    is_measured: bool
    over: asyncio.Future[None]
    sent_s: float = 0.0
    ended_s: float = 0.0
    error: str | None = None
    refusal: bytearray = field(default_factory=bytearray)
    is_begun: bool = False


class Connection(asyncio.Protocol):
    """One TCP connection; asks one question at a time.

    Args:
        clock: Tells when pieces come.
    """

    def __init__(self, clock: Clock) -> None:
        self._now_s: Callable[[], float] = clock.monotonic_s
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._exchange: Exchange | None = None
        self._came_s = 0.0
        self.is_usable = False
        self.uses = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self.is_usable = True

    def ask(self, request: bytes, exchange: Exchange) -> None:
        """Send a question; ``exchange.over`` tells when its answer is complete."""
        assert self._transport is not None
        self._exchange = exchange
        self.uses += 1
        exchange.sent_s = self._now_s()
        self._transport.write(request)

    def cut(self, error: str) -> None:
        """Give up the question that is open, and the connection with it."""
        self._end(error)
        self.close()

    def close(self) -> None:
        """Close the connection at once."""
        self.is_usable = False
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        self._came_s = self._now_s()
        if self._exchange is not None:
            self._exchange.is_begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.cut(f"no HTTP: {type(error).__name__}")

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - why does not matter
        """Take note that it is gone; an answer without a length is over with it."""
        self.is_usable = False
        exchange = self._exchange
        if exchange is not None:
            self._end(None if exchange.hearing.is_over else "connection lost")

    # What the parser calls.

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        exchange = self._exchange
        if exchange is None:
            return
        if self._parser.get_status_code() == _OK:
            exchange.hearing.feed(body, self._came_s)
        elif len(exchange.refusal) < MAX_REFUSAL_BYTES:
            exchange.refusal += body

    def on_message_complete(self) -> None:
        """Take note that the answer is over."""
        exchange, status = self._exchange, self._parser.get_status_code()
        is_kept = self._parser.should_keep_alive()
        self._parser = httptools.HttpResponseParser(self)
        if exchange is not None:
            self._end(None if status == _OK else refusal(status, bytes(exchange.refusal)))
        if not is_kept:
            self.close()

    def _end(self, error: str | None) -> None:
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            return
        exchange.ended_s = self._now_s()
        exchange.hearing.close()
        exchange.error = error or exchange.hearing.error
        if not exchange.over.done():
            exchange.over.set_result(None)
