"""What strangers may send: short questions, few at a time.

gRPC bounds messages for all methods alike, by ``MAX_BODY_BYTES``, and takes in a whole one before anybody sees how long
it is. So what is open to all costs as much memory as messages are being read there at once, and that is bounded here.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from freeroam.api.grpc.outlets import Context, next_message, split_peer

MAX_READING = 4
"""Questions that are read at once; each may fill ``MAX_BODY_BYTES`` of memory before it is found too long."""

MAX_READING_OF_ONE = 2
"""Of these, from one address, so that no one address keeps all others waiting."""

MAX_HERE_OF_ONE = 16
"""Questions from one address that are read or wait for it."""

MAX_HERE = 64
"""The same, from all together."""

READING_S = 1.0
"""How long the reading of one may take; clients send a question along with the call."""

MAX_QUESTION_BYTES = 4096
"""A name with room to spare."""


class Reception:
    """Where questions of strangers wait for their turn to be read."""

    def __init__(self) -> None:
        self._reading: Counter[str] = Counter()
        self._waiting: deque[tuple[str, asyncio.Future[None]]] = deque()

    async def hear(self, context: Context) -> bytes:
        """Return the next message of a call; the call ends if it is too long or late, or too many have come."""
        address = split_peer(context.peer())[0]
        here = Counter(known for known, _ in self._waiting) + self._reading
        if here.total() >= MAX_HERE or here[address] >= MAX_HERE_OF_ONE:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, f"{here.total()} are asking already; come back")
        async with self._turn(address):
            data = await hear_one(context, READING_S)
        if data is None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the call brought no question")
        assert data is not None
        return data

    @asynccontextmanager
    async def _turn(self, address: str) -> AsyncIterator[None]:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((address, turn))
        self._let_in()
        try:
            await turn
            yield
        finally:
            if turn.cancelled():
                self._waiting.remove((address, turn))
            else:
                self._reading[address] -= 1
            self._let_in()

    def _let_in(self) -> None:
        """Let in the first who wait and may be read; those of an address that has its share let others pass."""
        for address, turn in tuple(self._waiting):
            if self._reading.total() >= MAX_READING:
                return
            if not turn.done() and self._reading[address] < MAX_READING_OF_ONE:
                self._waiting.remove((address, turn))
                self._reading[address] += 1
                turn.set_result(None)
        self._reading += Counter()  # without those of whom nothing is read any more


async def hear_one(context: Context, limit_s: float) -> bytes | None:
    """Return the next message of a call, None if there is none; the call ends if it is too long or late."""
    try:
        async with asyncio.timeout(limit_s):
            data = await next_message(context)
    except TimeoutError:
        await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no complete question came in time; ask again")
    if data is not None and len(data) > MAX_QUESTION_BYTES:
        del data  # the error of an aborted call, and with it this frame, stays until a collection
        message = f"the question is longer than {MAX_QUESTION_BYTES} bytes"
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
    return data
