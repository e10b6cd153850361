"""Listeners: replay, then live, without a gap or a double, however slow they are."""

from __future__ import annotations

import asyncio
import gc
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest

from freeroam.clock import SystemClock
from freeroam.results.hub import ResultHub
from freeroam.results.listener import HubConfig, Listener
from freeroam.results.writer import ResultWriter
from freeroam.store.records import Ending
from freeroam.store.store import Store, StoreConfig
from freeroam.vocabulary.errors import LeaseLost, NotFound, StoreError
from freeroam.vocabulary.inference import Piece
from freeroam.vocabulary.job import JobStatus
from freeroam.vocabulary.result import Event
from tests.unit.store.rows import new_job, row
from tests.waiting import until


class Bench:
    """A store, a hub and a writer; ``write`` makes the next result of job ``a``."""

    def __init__(self, store: Store, hub: ResultHub) -> None:
        self.store = store
        self.hub = hub
        self.writer = ResultWriter(store, hub)
        self.written = 0

    async def write(self, count: int = 1, job_id: str = "a") -> None:
        for _ in range(count):
            self.written += 1
            await self.writer.write(row(job_id, str(self.written)))

    async def finish(self, job_id: str = "a") -> None:
        ended = await self.store.end_job(job_id, None, Ending(JobStatus.COMPLETED, 9.0))
        assert ended is not None
        self.hub.publish_done(ended.job)

    async def listen(self, after: int | None = None) -> Listener:
        listener = self.hub.listener()
        await listener.add("a", after)
        return listener


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    store = Store(StoreConfig(f"sqlite:///{tmp_path}/freeroam.db"), SystemClock())
    await store.open()
    await store.add_job(new_job("a"))
    await store.add_job(new_job("b"))
    yield Bench(store, ResultHub(store, HubConfig(capacity=8, page=5)))
    await store.close()


def ids(events: list[Event]) -> list[int | None]:
    return [event.id for event in events if event.kind.value == "result"]


async def take(listener: Listener, count: int) -> list[Event]:
    return [await anext(listener) for _ in range(count)]


async def test_what_is_stored_is_replayed_and_what_comes_follows(bench: Bench) -> None:
    await bench.write(12)
    listener = await bench.listen()

    replayed = await take(listener, 12)
    await bench.write(3)
    live = await take(listener, 3)
    await bench.finish()
    rest = [event async for event in listener]

    assert ids(replayed + live) == list(range(1, 16))
    assert [event.kind.value for event in rest] == ["done"]
    assert orjson.loads(rest[0].data)["total_results"] == 15


async def test_a_listener_resumes_after_the_id_it_knows(bench: Bench) -> None:
    await bench.write(9)
    await bench.finish()

    events = [event async for event in await bench.listen(after=6)]

    assert ids(events) == [7, 8, 9]
    assert orjson.loads(events[0].data)["id"] == 7


async def test_results_written_while_a_page_is_read_come_once(bench: Bench) -> None:
    await bench.write(7)
    listener = await bench.listen()
    writing = asyncio.create_task(bench.write(200))

    events = await take(listener, 207)
    await writing

    assert ids(events) == list(range(1, 208))


@pytest.mark.parametrize("pause", [0, 3, 30])
async def test_a_slow_listener_is_read_from_the_store_and_misses_nothing(bench: Bench, pause: int) -> None:
    listener = await bench.listen()
    heard = await take_while_writing(bench, listener, pause)

    assert ids(heard) == list(range(1, 101))
    assert heard[-1].kind.value == "done"


async def take_while_writing(bench: Bench, listener: Listener, pause: int) -> list[Event]:
    async def write() -> None:
        await bench.write(100)
        await bench.finish()

    writing = asyncio.create_task(write())
    heard: list[Event] = []
    async for event in listener:
        heard.append(event)
        for _ in range(pause):
            await asyncio.sleep(0)
    await writing
    return heard


async def test_a_listener_that_never_asks_holds_a_bounded_number_of_events(bench: Bench) -> None:
    listener = await bench.listen()
    await bench.write()
    assert ids(await take(listener, 1)) == [1]

    await bench.write(100)

    assert len(listener._following["a"].fresh) <= 8
    assert ids(await take(listener, 100)) == list(range(2, 102))


async def test_asking_may_be_given_up_at_any_moment_and_loses_nothing(bench: Bench) -> None:
    listener = await bench.listen()
    writing = asyncio.create_task(bench.write(150))
    heard: list[Event] = []

    for turn in range(100_000):
        asking = asyncio.ensure_future(anext(listener))
        for _ in range(turn % 7):
            await asyncio.sleep(0)
        asking.cancel()
        try:
            heard.append(await asking)
        except asyncio.CancelledError:
            await asyncio.sleep(0)
        if len(heard) == 150:
            break
    await writing

    assert ids(heard) == list(range(1, 151))


async def test_pieces_pass_by_the_store_and_are_not_kept_for_the_slow(bench: Bench) -> None:
    listener = await bench.listen()
    await bench.write()
    await take(listener, 1)

    for index in range(50):
        bench.hub.publish_piece("a", Piece("x", index), ["0"])
    await bench.write()
    events = []
    while not ids(events):
        events.append(await anext(listener))

    assert [event.kind.value for event in events] == ["token"] * 4 + ["result"]


async def test_of_several_changes_a_slow_listener_gets_the_newest(bench: Bench) -> None:
    listener = await bench.listen()
    await bench.write()
    await take(listener, 1)

    for status in ("pending", "running"):
        bench.hub.publish_status("a", status)

    assert orjson.loads((await anext(listener)).data)["status"] == "running"


async def test_a_listener_of_an_unknown_job_is_told(bench: Bench) -> None:
    with pytest.raises(NotFound, match="Job none not found"):
        await bench.hub.listener().add("none")
    assert bench.hub.listeners == 0


async def test_one_listener_follows_many_jobs_and_leaves_them(bench: Bench) -> None:
    listener = bench.hub.listener(keep_open=True)
    await bench.write(2, "a")
    await bench.write(2, "b")
    await listener.add("a")
    await listener.add("b", after=1)

    events = await take(listener, 3)
    assert sorted((event.job_id, event.id) for event in events) == [("a", 1), ("a", 2), ("b", 2)]

    listener.remove("a")
    await bench.write(1, "a")
    await bench.finish("b")
    assert (await anext(listener)).kind.value == "done"
    waiting = asyncio.ensure_future(anext(listener))
    await asyncio.sleep(0)
    assert not waiting.done()
    listener.close()
    with pytest.raises(StopAsyncIteration):
        await waiting


async def test_a_store_that_fails_while_a_listener_catches_up_costs_it_nothing(bench: Bench) -> None:
    await bench.write(3)
    listener = await bench.listen()
    working = listener._results

    class Broken:
        async def results_after(self, job_id: str, after: int, limit: int) -> list[tuple[int, bytes]]:
            raise StoreError("gone")

    listener._results = Broken()
    with pytest.raises(StoreError):
        await anext(listener)
    listener._results = working

    assert ids(await take(listener, 3)) == [1, 2, 3]


class SlowResults:
    """Stored results whose first page comes when a test says so."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.is_asked = asyncio.Event()
        self.may_answer = asyncio.Event()

    async def results_after(self, job_id: str, after: int, limit: int) -> list[tuple[int, bytes]]:
        page = await self._store.results_after(job_id, after, limit)
        if not self.is_asked.is_set():
            self.is_asked.set()
            await self.may_answer.wait()
        return page


@pytest.mark.parametrize("is_over", [False, True])
async def test_a_job_that_is_added_again_while_its_page_is_read_is_followed_anew(bench: Bench, is_over: bool) -> None:
    # Given a listener that reads a page
    await bench.write(3)
    listener = bench.hub.listener(keep_open=True)
    listener._results = results = SlowResults(bench.store)
    await listener.add("a", after=0 if not is_over else 3)
    if is_over:
        await bench.finish()
    waiting = asyncio.ensure_future(anext(listener))
    await results.is_asked.wait()

    # When the job is added again, from another place
    await listener.add("a", after=1)
    results.may_answer.set()

    # Then it is told from there, once, and nothing of what was read before
    events = [await waiting, *await take(listener, 1)]
    if is_over:
        events += await take(listener, 1)
        assert (events[-1].kind.value, listener.jobs) == ("done", [])
    else:
        await bench.write()
        events += await take(listener, 1)
    assert ids(events) == ([2, 3] if is_over else [2, 3, 4])


@pytest.mark.parametrize("is_reading", [False, True])
async def test_results_that_nobody_told_are_read_from_the_store(bench: Bench, is_reading: bool) -> None:
    # Given a listener that has heard, or is reading, what there is
    await bench.write(2)
    listener = await bench.listen()
    listener._results = results = SlowResults(bench.store)
    if not is_reading:
        results.may_answer.set()
        heard = await take(listener, 2)
    waiting = asyncio.ensure_future(anext(listener))
    await results.is_asked.wait()

    # When results are committed by somebody who cannot tell them here, and then one that is told
    for key in ("untold 1", "untold 2"):
        await bench.store.append(row("a", key))
    await bench.write()
    results.may_answer.set()

    # Then none is left out, in order
    first = await waiting
    heard = [first, *await take(listener, 4)] if is_reading else [*heard, first, *await take(listener, 2)]
    assert ids(heard) == [1, 2, 3, 4, 5]


async def test_nothing_is_told_of_a_job_that_was_left_while_its_page_was_read(bench: Bench) -> None:
    await bench.write(3)
    await bench.write(1, "b")
    listener = bench.hub.listener(keep_open=True)
    listener._results = results = SlowResults(bench.store)
    await listener.add("a")
    waiting = asyncio.ensure_future(anext(listener))
    await results.is_asked.wait()

    listener.remove("a")
    await listener.add("b")
    results.may_answer.set()

    assert (await waiting).job_id == "b"


async def test_a_job_that_cannot_be_read_is_not_half_followed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(job_id: str) -> None:
        raise StoreError("gone")

    listener = bench.hub.listener(keep_open=True)
    monkeypatch.setattr(bench.store, "find_job", fail)
    with pytest.raises(StoreError):
        await listener.add("a")

    assert listener.jobs == []
    assert not bench.hub.is_heard("a")


async def test_when_the_service_stops_each_listener_gets_a_closing_event(bench: Bench) -> None:
    listener, socket = await bench.listen(), bench.hub.listener(keep_open=True)
    await bench.write()
    await take(listener, 1)

    bench.hub.close(lambda _: "running")
    events = [event async for event in listener]

    assert [orjson.loads(event.data)["closing"] for event in events] == [True]
    assert [event async for event in socket] == []
    assert [event.kind.value async for event in await bench.listen()] == ["status"]


async def test_an_entry_that_was_answered_before_is_not_told_again(bench: Bench) -> None:
    listener = await bench.listen()
    assert await bench.writer.write(row("a", "x")) == 1
    assert await bench.writer.write(row("a", "x")) is None
    assert await bench.writer.write(row("a", "y")) == 2

    assert ids(await take(listener, 2)) == [1, 2]
    with pytest.raises(LeaseLost):
        await bench.writer.write(row("a", "z", epoch=7))


async def test_whoever_is_told_a_result_finds_it_in_the_store(bench: Bench, tmp_path: Path) -> None:
    listener = await bench.listen()
    waiting = asyncio.ensure_future(anext(listener))

    bench.writer.submit(row("a", "x"))
    await waiting

    # Another connection sees what is committed, and nothing else.
    with sqlite3.connect(tmp_path / "freeroam.db") as reader:
        assert reader.execute("SELECT id FROM results").fetchall() == [(1,)]
    reader.close()


async def test_a_thousand_idle_listeners_run_no_task(bench: Bench) -> None:
    before = len(asyncio.all_tasks())
    listeners = [await bench.listen() for _ in range(1000)]
    assert len(asyncio.all_tasks()) == before
    assert bench.hub.listeners == 1000

    for listener in listeners:
        listener.close()
    del listeners, listener
    gc.collect()
    await until(lambda: bench.hub.listeners == 0)
    assert not bench.hub.is_heard("a")
