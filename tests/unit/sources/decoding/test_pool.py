"""What a pool starts and keeps, it gives back: processes for suspected videos, and memory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from freeroam.processes.child import ChildProcess
from freeroam.sources.decoding import pool as pools
from freeroam.sources.decoding.pool import TIDY_REST_S, DecoderPool
from freeroam.sources.decoding.values import DecoderConfig, FeedShape
from freeroam.testing import FakeClock
from freeroam.vocabulary.errors import SourceError
from freeroam.vocabulary.frame import FrameWish
from tests.waiting import until

SUSPECT = FeedShape(FrameWish(1.0), "mpegts", owner="suspect")


class Child:
    """A process that only waits."""

    pid = 1
    returncode: int | None = None
    stands_still = False

    def __init__(self) -> None:
        self.wire = self
        self.is_closed = False

    def send(self, message: dict) -> None:
        pass

    async def receive(self) -> None:
        await asyncio.Event().wait()

    async def aclose(self) -> None:
        self.is_closed = True


class Starting:
    """Starts processes: the usual one at once, others as the test says."""

    def __init__(self) -> None:
        self.children: list[Child] = []
        self.begun = asyncio.Event()
        self.outcome: asyncio.Future[None] | None = None

    async def start(self, *_: object, **__: object) -> Child:
        if self.children:
            self.outcome = asyncio.get_running_loop().create_future()
            self.begun.set()
            await self.outcome
        self.children.append(Child())
        return self.children[-1]


@pytest.fixture
def starting(monkeypatch) -> Starting:
    starting = Starting()
    monkeypatch.setattr(ChildProcess, "start", starting.start)
    return starting


@pytest.fixture
async def pool(starting):
    clock = FakeClock()
    pool = DecoderPool(DecoderConfig(processes=1, ring_bytes=4096), clock)
    await pool.start()
    for _ in range(2):
        # Given a video that was aboard two lost processes
        pool._suspects.note(["suspect"])
    yield pool
    await pool.stop()


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("end", ["cancelled", "broken"])
async def test_a_start_that_does_not_come_to_its_end_leaves_no_dead_place(pool, starting, end) -> None:
    before = descriptors()
    opening = asyncio.create_task(pool.open_feed(SUSPECT).__aenter__())
    await starting.begun.wait()
    assert len(pool._ward) == 1

    if end == "cancelled":
        opening.cancel()
    else:
        starting.outcome.set_exception(RuntimeError("broken"))
    await asyncio.wait({opening})

    assert pool._ward == []
    assert descriptors() == before
    assert opening.cancelled() or isinstance(opening.exception(), RuntimeError)


async def test_who_waits_for_a_start_that_was_cancelled_starts_another(pool, starting) -> None:
    first = asyncio.create_task(pool.open_feed(SUSPECT).__aenter__())
    await starting.begun.wait()
    starting.begun.clear()
    second = asyncio.create_task(pool.open_feed(SUSPECT).__aenter__())
    for _ in range(5):
        await asyncio.sleep(0)

    first.cancel()
    async with asyncio.timeout(30):
        await starting.begun.wait()
    starting.outcome.set_result(None)
    async with asyncio.timeout(30):
        feed = await second

    assert feed._slot is pool._ward[0]
    assert len(pool._ward) == 1
    await feed.aclose()


async def test_a_system_that_gives_no_process_lets_the_video_be_decoded_among_the_others(pool, starting) -> None:
    before = descriptors()
    opening = asyncio.create_task(pool.open_feed(SUSPECT).__aenter__())
    await starting.begun.wait()

    starting.outcome.set_exception(OSError("no process"))
    feed = await opening

    assert feed._slot is pool._slots[0]
    assert pool._ward == []
    assert descriptors() == before
    await feed.aclose()


async def test_a_pool_that_stops_while_a_process_starts_leaves_none(pool, starting) -> None:
    opening = asyncio.create_task(pool.open_feed(SUSPECT).__aenter__())
    await starting.begun.wait()

    await pool.stop()
    starting.outcome.set_result(None)
    async with asyncio.timeout(30):
        with pytest.raises(SourceError, match="not running"):
            await opening

    assert all(child.is_closed for child in starting.children)


async def test_the_collector_runs_only_where_it_holds_up_no_frame(starting, monkeypatch) -> None:
    # Given two videos that are decoded
    runs: list[bool] = []
    monkeypatch.setattr(pools, "give_memory_back", lambda *, collects: runs.append(collects))
    clock = FakeClock()
    pool = DecoderPool(DecoderConfig(processes=1, ring_bytes=4096), clock)
    await pool.start()
    feeds = [pool.open_feed(FeedShape(FrameWish(1.0), "mpegts")) for _ in range(2)]
    for feed in feeds:
        await feed.__aenter__()

    # When they end one after the other, then memory is given back each time, and collected after the last
    for count, feed in enumerate(feeds, start=1):
        await feed.aclose()
        await clock.advance(TIDY_REST_S)
        await until(lambda count=count: len(runs) == count)

    assert runs == [False, True]
    await pool.stop()
