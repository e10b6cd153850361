"""Clients' pictures take a bounded part of the machine, whatever they become once they are decoded."""

from __future__ import annotations

import asyncio

import pytest

from freeroam.api.picture_room import PictureRoom
from freeroam.vocabulary.errors import QueueFull
from tests.waiting import until


def test_memory_is_full_until_a_question_is_over() -> None:
    # Given a question whose pictures fill most of the memory
    room = PictureRoom()
    room.hold(80, 100)

    # When another would be too much, then it is refused at once
    with pytest.raises(QueueFull, match="MAX_PICTURE_BYTES"):
        room.hold(21, 100)
    room.hold(20, 100)

    # And when the first is over, there is room again
    room.release(80)
    room.hold(21, 100)
    assert room.held_bytes == 41


def test_one_question_alone_always_fits() -> None:
    # Given nothing else, when a question is larger than the memory that is set, then it is its own bound that counts
    room = PictureRoom()
    room.hold(500, 100)
    room.release(500)
    assert room.held_bytes == 0


class Decoding:
    """A picture that is decoded until the test lets it end."""

    def __init__(self, room: PictureRoom, pixels: int) -> None:
        self.is_in = False
        self.goes_on = asyncio.Event()
        self.task = asyncio.create_task(self._run(room, pixels))

    async def _run(self, room: PictureRoom, pixels: int) -> None:
        async with room.decoding(pixels, 100):
            self.is_in = True
            await self.goes_on.wait()


async def test_so_many_pixels_are_decoded_at_once_and_no_more() -> None:
    # Given small pictures, a large one and a small one behind it
    room = PictureRoom()
    first, second, large, last = (Decoding(room, pixels) for pixels in (40, 40, 100, 10))
    await until(lambda: first.is_in and second.is_in)

    # Then what does not fit waits, and nobody passes it
    assert (large.is_in, last.is_in) == (False, False)
    first.goes_on.set()
    second.goes_on.set()
    await until(lambda: large.is_in)
    assert not last.is_in
    large.goes_on.set()
    await until(lambda: last.is_in)
    last.goes_on.set()
    await asyncio.gather(first.task, second.task, large.task, last.task)


@pytest.mark.parametrize("moment", ["before its turn", "as its turn comes", "as it is called"])
async def test_a_caller_that_goes_away_while_it_waits_leaves_nothing(moment: str) -> None:
    # Given one who waits for its turn, and one behind
    room = PictureRoom()
    first, leaving, last = (Decoding(room, pixels) for pixels in (100, 100, 100))
    await until(lambda: first.is_in)

    # When it goes away; the tasks run in the order in which they are woken
    if moment != "before its turn":
        first.goes_on.set()
    if moment == "as it is called":
        await first.task
    leaving.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving.task
    first.goes_on.set()

    # Then the next one has its turn, and in the end nothing is taken
    await until(lambda: last.is_in)
    last.goes_on.set()
    await asyncio.gather(first.task, last.task)
    async with room.decoding(100, 100):
        pass
