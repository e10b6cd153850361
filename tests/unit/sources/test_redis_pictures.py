"""A backlog of pictures outlives decoders that are lost under it."""

from __future__ import annotations

import asyncio
import gc
import itertools

import pytest

from freeroam.sources.decoding.pictures import PictureFeed
from freeroam.sources.decoding.values import DecoderConfig
from freeroam.sources.redis_entries import BadEntry, Entry, EntryId
from freeroam.sources.redis_pictures import DECODER_TRIES, RedisPictures
from freeroam.vocabulary.frame import FrameWish

GOOD, DEADLY = b"good", b"deadly"
WISH = FrameWish(1.0)


class Slot:
    """A process that decodes what it is asked one after the other, and is lost with all it holds at a deadly one."""

    ring = None

    def __init__(self) -> None:
        self.feed: PictureFeed | None = None
        self.asked: list[dict] = []

    def add(self, number: int, feed: PictureFeed) -> None:
        self.feed = feed

    def remove(self, number: int, lent: list) -> None:
        self.feed = None

    def send(self, message: dict) -> None:
        if message["op"] == "picture":
            self.asked.append(message)

    def work(self) -> None:
        """Decode all that was asked."""
        asked, self.asked = self.asked, []
        for message in asked:
            if self.feed is None:
                return
            if message["blobs"] == [DEADLY]:
                feed, self.feed = self.feed, None
                feed.lose("died")
                return
            size = dict.fromkeys(("width_px", "height_px", "source_width_px", "source_height_px"), 1)
            done = {"op": "frame", "name": message["name"], "decode_ms": 1.0, "blobs": [memoryview(b"rgb")], **size}
            self.feed.take(done)


class Pool:
    """Gives a process to each decoder of pictures that is opened."""

    def __init__(self) -> None:
        self.slots: list[Slot] = []
        self._numbers = itertools.count(1)

    def open_pictures(self, wish: FrameWish, owner: str = "") -> PictureFeed:
        return PictureFeed(next(self._numbers), wish, DecoderConfig(), self._take_slot, owner)

    async def _take_slot(self, owner: str) -> Slot:
        self.slots.append(Slot())
        return self.slots[-1]

    async def work(self) -> None:
        while True:
            for slot in self.slots:
                slot.work()
            await asyncio.sleep(0)


def entry(number: int, picture: bytes = GOOD) -> Entry:
    return Entry(EntryId(number, 0), float(number), picture, raw=None, ends=False)


async def outcomes(pool: Pool, entries: list[Entry], ahead: int = 8) -> list[str]:
    """What becomes of entries when up to ``ahead`` of them are asked for before the first is answered."""
    told = []
    working = asyncio.create_task(pool.work())
    async with asyncio.timeout(30), RedisPictures(pool, WISH) as pictures:
        waiting: list = []
        coming = list(entries)
        while waiting or coming:
            while coming and len(waiting) < ahead:
                waiting.append((coming[0], pictures.ask(coming.pop(0))))
            await asyncio.sleep(0)
            first, asked = waiting.pop(0)
            try:
                await pictures.answer(first, asked)
                told.append("decoded")
            except BadEntry as error:
                told.append(error.reason)
    working.cancel()
    return told


async def test_one_lost_decoder_is_replaced_once_for_all_that_it_held() -> None:
    # Given a backlog of which eight pictures are asked for at once
    pool = Pool()
    entries = [entry(number) for number in range(100)]
    lost = asyncio.create_task(_lose_first(pool))

    told = await outcomes(pool, entries)
    await lost

    # Then those that were lost together go to one and the same decoder
    assert told == ["decoded"] * 100
    assert len(pool.slots) == 2


async def _lose_first(pool: Pool) -> None:
    while not pool.slots or not pool.slots[0].asked:
        await asyncio.sleep(0)
    pool.slots[0].asked.clear()
    feed, pool.slots[0].feed = pool.slots[0].feed, None
    feed.lose("died")


@pytest.mark.parametrize("deadly", [{0}, {3}, {0, 1}, {3, 5, 7}, {0, 1, 2, 3, 4, 5, 6, 7}])
async def test_a_picture_that_ends_decoders_costs_itself_and_none_of_those_asked_with_it(deadly) -> None:
    pool = Pool()
    entries = [entry(number, DEADLY if number in deadly else GOOD) for number in range(24)]

    told = await outcomes(pool, entries)

    assert [number for number, outcome in enumerate(told) if outcome != "decoded"] == sorted(deadly)
    assert {told[number] for number in deadly} == {"decoder_lost"}
    assert len(pool.slots) <= 1 + DECODER_TRIES * len(deadly)


async def test_pictures_that_were_lost_and_are_waited_for_no_more_are_told_to_nobody() -> None:
    # Given pictures whose decoder is lost before any of them is looked at
    unlooked: list[dict] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unlooked.append(context))
    pool = Pool()
    async with RedisPictures(pool, WISH) as pictures:
        tasks = [pictures.ask(entry(number)) for number in range(3)]
        await asyncio.sleep(0)
        pool.slots[0].feed.lose("died")
        await asyncio.wait(tasks)

    # When they are dropped
    del tasks
    gc.collect()

    assert unlooked == []
