"""What every database behind the store must do: SQLite in a file, and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from freeroam.clock import SystemClock
from freeroam.results.hub import ResultHub
from freeroam.results.writer import ResultWriter
from freeroam.store.migrating import migrate
from freeroam.store.records import Ending, Lease
from freeroam.store.result_rows import AlreadyStored
from freeroam.store.store import Store, StoreConfig
from freeroam.vocabulary.errors import Conflict, LeaseLost, NotFound, TooManyStreams
from freeroam.vocabulary.job import JobStatus
from tests.servers_postgres import PostgresServer
from tests.unit.store.rows import new_job, row
from tests.waiting import until


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    if importlib.util.find_spec("asyncpg") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("asyncpg is not installed; it is in the extra postgres")
        pytest.skip("asyncpg is not installed; pip install 'freeroam[postgres]'")
    with PostgresServer() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/freeroam.db"
    return request.getfixturevalue("postgres").url


@pytest.fixture
async def store(url: str) -> AsyncIterator[Store]:
    opened = Store(StoreConfig(url), SystemClock())
    await opened.open()
    for stored in (await opened.list_jobs(None, 1000, 0))[0]:
        await opened.end_job(stored.job.spec.job_id, None, Ending(JobStatus.CANCELLED, 1.0))
        await opened.erase_job(stored.job.spec.job_id)
    yield opened
    await opened.close()


async def test_a_job_comes_back_as_it_went_in(store: Store) -> None:
    added, prompt = await store.add_job(new_job("a"))

    found = await store.find_job("a")

    assert found == added
    assert prompt is not None
    assert (found.job.prompt, found.job.prompt_version, found.epoch) == (prompt.prompt, 1, 1)
    assert await store.find_job("none") is None
    with pytest.raises(Conflict):
        await store.add_job(new_job("a"))


async def test_a_limit_holds_however_many_ask_at_once(store: Store) -> None:
    wishes = [store.add_job(new_job(str(number), limit=3)) for number in range(10)]

    answers = await asyncio.gather(*wishes, return_exceptions=True)

    assert sum(isinstance(answer, TooManyStreams) for answer in answers) == 7
    assert await store.count_by_status() == {"pending": 3}


async def test_numbers_have_no_gap_though_entries_come_twice_and_leases_are_lost(store: Store) -> None:
    await store.add_job(new_job("a"))
    rows = [row("a", str(number % 40), epoch=1 if number % 7 else 9) for number in range(120)]

    answers = await asyncio.gather(*(store.append(one) for one in rows), return_exceptions=True)

    numbers = [answer for answer in answers if isinstance(answer, int)]
    assert numbers == list(range(1, 41))
    assert all(isinstance(answer, int | AlreadyStored | LeaseLost) for answer in answers)
    found = await store.find_job("a")
    assert found is not None
    assert found.job.results_count == 40
    assert [number for number, _ in await store.results_after("a", 0, 100)] == numbers
    assert [number for number, _ in await store.newest_results("a", 3)] == [38, 39, 40]


async def test_an_ended_job_takes_no_more_results(store: Store) -> None:
    await store.add_job(new_job("a"))
    await store.append(row("a", "1"))

    ended = await store.end_job("a", 1, Ending(JobStatus.FAILED, 5.0, "codec: broken", "codec"))

    assert ended is not None
    assert (ended.job.status, ended.job.error, ended.job.results_count) == (JobStatus.FAILED, "codec: broken", 1)
    with pytest.raises(LeaseLost):
        await store.append(row("a", "2"))
    with pytest.raises(LeaseLost):
        await store.begin_job("a", 1, 2.0)
    with pytest.raises(Conflict):
        await store.amend_job(ended.job.spec, None, 2.0)


async def test_a_lease_that_ran_out_is_taken_over_and_fences_off_its_holder(store: Store) -> None:
    await store.add_job(new_job("a", lease=Lease("one", -1.0)))
    await store.add_job(new_job("b", lease=Lease("one", 60.0)))

    taken = await store.claim_jobs(Lease("two", 60.0))

    assert [(stored.job.spec.job_id, stored.epoch) for stored in taken] == [("a", 2)]
    with pytest.raises(LeaseLost):
        await store.append(row("a", "1", epoch=1))
    assert await store.append(row("a", "1", epoch=2)) == 1
    assert await store.renew_leases(Lease("one", 60.0)) == {"b": 1}
    again = await store.retake_job("a", Lease("two", 60.0), 2)
    assert again is not None
    assert again.epoch == 3
    assert await store.retake_job("a", Lease("two", 60.0), 2) is None


async def test_prompts_have_versions_in_their_scope(store: Store) -> None:
    await store.add_job(new_job("a"))
    first = await store.update_prompt("one", None, 1.0, preserve_previous=True)
    second = await store.update_prompt("two", None, 2.0, preserve_previous=False)
    own = await store.update_prompt("own", "a", 3.0, preserve_previous=True)

    assert (second.version - first.version, own.version) == (1, 2)
    assert await store.find_prompt("a") == own
    assert await store.find_prompt("none") == second == await store.find_prompt(None)
    assert (await store.list_prompts("a", 10))[1] == 2
    with pytest.raises(NotFound):
        await store.update_prompt("x", "none", 3.0, preserve_previous=True)


async def test_pruning_keeps_totals_and_never_uses_a_number_again(store: Store) -> None:
    await store.add_job(new_job("a"))
    for number in range(6):
        await store.append(row("a", str(number), created_at=float(number)))

    assert await store.prune_results("a", 4.0) == 4
    assert await store.append(row("a", "new", created_at=9.0)) == 7

    found = await store.find_job("a")
    assert found is not None
    assert found.job.results_count == 3
    await store.end_job("a", None, Ending(JobStatus.CANCELLED, 10.0))
    assert await store.ended_before(11.0) == ["a"]
    assert await store.erase_job("a")
    assert not await store.erase_job("a")


@pytest.mark.parametrize("name", ["a\x00b", "\ud800"])
async def test_a_name_that_no_job_can_have_is_no_job(store: Store, name: str) -> None:
    assert await store.find_job(name) is None
    assert await store.newest_results(name, 10) == []
    assert await store.results_after(name, 0, 10) == []
    assert await store.own_prompt(name) is None
    assert await store.list_prompts(name, 10) == ([], 0)
    assert await store.end_job(name, None, Ending(JobStatus.CANCELLED, 1.0)) is None
    with pytest.raises(NotFound):
        await store.update_prompt("x", name, 3.0, preserve_previous=True)


async def test_an_erasure_that_comes_late_does_not_touch_a_new_job_of_the_same_name(store: Store) -> None:
    # Given two erasures of one job, the first of which is through, and a new job that got the name
    await store.add_job(new_job("a"))

    # When the second goes on, then the new job and its prompt stay
    assert not await store.erase_job("a")
    assert await store.find_job("a") is not None
    assert (await store.list_prompts("a", 10))[1] == 1


async def test_listeners_get_each_result_once_in_order_while_others_write(store: Store) -> None:
    await store.add_job(new_job("a"))
    hub = ResultHub(store)
    writer = ResultWriter(store, hub)
    listener = hub.listener()
    await listener.add("a")

    futures = [writer.submit(row("a", str(number))) for number in range(300)]
    heard = [(await anext(listener)).id for _ in range(300)]
    await asyncio.gather(*futures)

    assert heard == list(range(1, 301))


async def test_a_restart_finds_all_that_was_committed(store: Store, url: str) -> None:
    await store.add_job(new_job("a"))
    await store.append(row("a", "1"))
    await store.close()

    again = Store(StoreConfig(url), SystemClock())
    await again.open()
    found = await again.find_job("a")
    await again.close()

    assert found is not None
    assert found.job.results_count == 1
    assert await migrate(url) == "0001"


async def test_callers_that_go_away_leak_no_connection(store: Store) -> None:
    await store.add_job(new_job("a"))
    for turn in range(30):
        callers = [asyncio.create_task(store.find_job("a")) for _ in range(6)]
        callers.append(asyncio.create_task(store.update_prompt("x", "a", 1.0, preserve_previous=False)))
        for _ in range(turn % 5):
            await asyncio.sleep(0)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)

    await until(lambda: not store._reads)
    assert await store.append(row("a", "1")) == 1
    assert store._transactions._reading.pool.checkedout() == 0
