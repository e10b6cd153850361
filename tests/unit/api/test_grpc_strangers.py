"""How strangers' questions are let in one by one, and how much of one stream is taken in."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from freeroam.api.grpc.outlets import close_connection, split_peer
from freeroam.api.grpc.strangers import (
    MAX_HERE_OF_ONE,
    MAX_QUESTION_BYTES,
    MAX_READING,
    MAX_READING_OF_ONE,
    Reception,
)
from freeroam.api.grpc.streaming import Intake
from tests.waiting import until


class AbortedError(Exception):
    """What gRPC raises when a call is ended."""


class Senders:
    """Callers whose messages come when they are told to; counts how many are being read."""

    def __init__(self) -> None:
        self.reading = 0
        self.may_come = asyncio.Event()


class FakeContext:
    def __init__(self, address: str, senders: Senders, message: bytes | None = b"") -> None:
        self._address = address
        self._senders = senders
        self._message = grpc.aio.EOF if message is None else message

    def peer(self) -> str:
        return f"ipv4:{self._address}:4711"

    async def read(self) -> Any:
        self._senders.reading += 1
        try:
            await self._senders.may_come.wait()
        finally:
            self._senders.reading -= 1
        return self._message

    async def abort(self, code: Any, details: str) -> None:
        raise AbortedError(code.name, details)


async def test_few_questions_are_read_at_once_and_fewer_of_one_address() -> None:
    # Given many callers at one address, whose questions do not come
    reception, senders = Reception(), Senders()
    asking = [asyncio.create_task(reception.hear(FakeContext("10.0.0.1", senders))) for _ in range(MAX_HERE_OF_ONE)]
    await until(lambda: senders.reading == MAX_READING_OF_ONE)

    # When one more comes from there, then it is refused at once
    with pytest.raises(AbortedError, match="RESOURCE_EXHAUSTED"):
        await reception.hear(FakeContext("10.0.0.1", senders))

    # And others are read before those who wait, up to the bound for all
    others = [asyncio.create_task(reception.hear(FakeContext(f"10.0.1.{n}", senders))) for n in range(4)]
    await until(lambda: senders.reading == MAX_READING)

    # And every question is heard once they come
    senders.may_come.set()
    assert set(await asyncio.gather(*asking, *others)) == {b""}
    assert senders.reading == 0


async def test_a_caller_that_goes_while_it_waits_leaves_its_place() -> None:
    # Given callers that wait behind two who are read
    reception, senders = Reception(), Senders()
    asking = [asyncio.create_task(reception.hear(FakeContext("10.0.0.1", senders))) for _ in range(5)]
    await until(lambda: senders.reading == MAX_READING_OF_ONE)

    # When one of either kind goes, then the others are heard
    for gone in (asking[0], asking[4]):
        gone.cancel()
    senders.may_come.set()
    heard = await asyncio.gather(*asking, return_exceptions=True)
    assert [isinstance(question, bytes) for question in heard] == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("message", "reason"), [(b"x" * (MAX_QUESTION_BYTES + 1), "longer"), (None, "brought no question")]
)
async def test_a_question_that_is_none_is_refused(message: bytes | None, reason: str) -> None:
    # Given a message that is too long, or missing, when it is heard, then the call ends
    reception, senders = Reception(), Senders()
    senders.may_come.set()
    with pytest.raises(AbortedError, match=reason):
        await reception.hear(FakeContext("10.0.0.1", senders, message))


async def test_the_messages_of_one_stream_wait_for_room() -> None:
    # Given a stream that holds a message of the greatest size, which alone always fits
    intake = Intake(limit_bytes=100)
    await intake.take(120)

    # When another comes, then it waits until the first is taken apart
    second = asyncio.create_task(intake.take(60))
    await asyncio.sleep(0)
    assert not second.done()
    intake.release(120)
    await second

    # And small ones share the room
    await intake.take(40)
    third = asyncio.create_task(intake.take(1))
    await asyncio.sleep(0)
    assert not third.done()
    intake.release(60)
    await third


@pytest.mark.parametrize(
    ("peer", "told"),
    [
        ("ipv4:127.0.0.1:4711", ("127.0.0.1", "4711")),
        ("ipv6:%5B::1%5D:4711", ("::1", "4711")),
        ("ipv6:[fe80::1%25eth0]:4711", ("fe80::1%eth0", "4711")),
        ("unix:/tmp/socket:1", ("", "")),
    ],
)
def test_names_of_peers_are_read(peer: str, told: tuple[str, str]) -> None:
    # Given gRPC's name of a peer, when it is read, then address and port are told apart
    assert split_peer(peer) == told


def test_a_connection_that_is_not_there_closes_no_other() -> None:
    # Given no connection of that peer, when it is to be closed, then nothing is
    assert not close_connection("ipv4:192.0.2.1:4711", 1)
    assert not close_connection("unix:/tmp/socket", 1)
