"""The store by itself: numbers, fences, groups, failures and the lock."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from freeroam.clock import SystemClock
from freeroam.store.database import READERS, parse_url
from freeroam.store.migrating import migrate
from freeroam.store.records import Ending, Progress
from freeroam.store.result_rows import AlreadyStored
from freeroam.store.store import Store, StoreConfig
from freeroam.testing import FakeClock
from freeroam.vocabulary.errors import ConfigurationError, LeaseLost, MissingExtra, StoreError
from freeroam.vocabulary.job import JobStatus
from tests.unit.store.rows import LEASE, new_job, row
from tests.waiting import until


async def test_a_second_process_is_told_which_file_is_held(store: Store, tmp_path: Path) -> None:
    second = (
        "import asyncio; from freeroam.clock import SystemClock; from freeroam.store.store import Store, StoreConfig\n"
        f"asyncio.run(Store(StoreConfig('sqlite:///{tmp_path}/freeroam.db'), SystemClock()).open())"
    )

    done = subprocess.run([sys.executable, "-c", second], capture_output=True, text=True, check=False)

    assert done.returncode != 0
    assert "freeroam.db.lock" in done.stderr
    assert "ConfigurationError" in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists descriptors")
async def test_a_store_opens_its_files_at_the_start_and_none_when_it_is_busy(store: Store, tmp_path: Path) -> None:
    def held() -> list[str]:
        names = [entry.readlink() for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
        return sorted(name.name for name in names if name.is_relative_to(tmp_path))

    await store.add_job(new_job("a"))
    before = held()

    for _ in range(5):
        await asyncio.gather(*(store.jobs_with_results() for _ in range(50)))

    assert held() == before
    assert before.count("freeroam.db") == READERS + 1


async def test_a_restart_takes_over_at_once_and_voids_old_leases(tmp_path: Path) -> None:
    config = StoreConfig(f"sqlite:///{tmp_path}/freeroam.db")
    first = Store(config, SystemClock())
    await first.open()
    await first.add_job(new_job("a"))
    await first.close()

    second = Store(config, SystemClock())
    await second.open()
    (claimed,) = await second.claim_jobs(LEASE, everything=True)

    assert (claimed.job.spec.job_id, claimed.epoch) == ("a", 2)
    with pytest.raises(LeaseLost):
        await second.append(row("a", "1", epoch=1))
    assert await second.append(row("a", "1", epoch=2)) == 1
    await second.close()


async def test_an_entry_answered_twice_leaves_no_gap_also_within_one_group(store: Store) -> None:
    await store.add_job(new_job("a"))

    futures = [store.append(row("a", key)) for key in ("1", "2", "2", "3", "1", "4")]
    answers = await asyncio.gather(*futures, return_exceptions=True)

    assert [answer for answer in answers if isinstance(answer, int)] == [1, 2, 3, 4]
    assert sum(isinstance(answer, AlreadyStored) for answer in answers) == 2
    found = await store.find_job("a")
    assert found is not None
    assert (found.job.results_count, found.job.frames_processed) == (4, 4)


async def test_what_waits_is_committed_in_groups_and_in_order(store: Store) -> None:
    await store.add_job(new_job("a"))
    assert store._writer is not None
    commits = store._writer.commits

    ids = await asyncio.gather(*(store.append(row("a", str(number))) for number in range(500)))

    assert ids == list(range(1, 501))
    assert store._writer.commits - commits <= 4


async def test_a_failing_operation_does_not_take_its_group_with_it(store: Store) -> None:
    await store.add_job(new_job("a"))

    good, bad, also_good = store.append(row("a", "1")), store.append(row("none", "1")), store.append(row("a", "2"))
    outcomes = await asyncio.gather(good, bad, also_good, return_exceptions=True)

    assert (outcomes[0], outcomes[2]) == (1, 2)
    assert isinstance(outcomes[1], LeaseLost)


async def test_writes_wait_while_the_database_fails_and_the_failure_is_shown(tmp_path: Path) -> None:
    clock = FakeClock()
    store = Store(StoreConfig(f"sqlite:///{tmp_path}/freeroam.db"), clock)
    await store.open()
    await store.add_job(new_job("a"))
    assert store._writer is not None
    working = store._writer._transact
    failures = 0

    async def broken(operations: list) -> list:
        nonlocal failures
        failures += 1
        raise OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))

    store._writer._transact = broken  # type: ignore[method-assign]
    first, second = store.append(row("a", "1")), store.append(row("a", "2"))
    await until(lambda: failures >= 2)

    assert (store.health.is_writable, store.health.last_error) == (False, "database or disk is full")
    with pytest.raises(StoreError, match="disk is full"):
        await store.check()
    store._writer._transact = working  # type: ignore[method-assign]
    while not second.done():
        await clock.advance(0.1)
        await asyncio.sleep(0.01)
    assert (await first, await second) == (1, 2)
    assert store.health.is_writable
    await store.close()


async def test_cancelled_readers_leak_no_connection(store: Store) -> None:
    await store.add_job(new_job("a"))

    for _ in range(50):
        readers = [asyncio.create_task(store.find_job("a")) for _ in range(8)]
        await asyncio.sleep(0)
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    assert await store.find_job("a") is not None
    await until(lambda: not store._reads)
    assert store._transactions._reading.pool.checkedout() == 0


async def test_a_caller_that_goes_away_does_not_stop_its_write(store: Store) -> None:
    caller = asyncio.create_task(store.add_job(new_job("a")))
    await asyncio.sleep(0)
    caller.cancel()

    await until(lambda: store.find_job("a"))


@pytest.mark.parametrize("turns", range(5))
async def test_a_cancellation_that_comes_with_the_commit_is_not_lost(
    store: Store, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    commits: list[asyncio.Future[object]] = []
    submit = store._submit

    def submit_and_note(operation: object) -> asyncio.Future[object]:
        commits.append(submit(operation))
        return commits[-1]

    monkeypatch.setattr(store, "_submit", submit_and_note)
    writing = asyncio.create_task(store.add_job(new_job("a")))
    while not commits or not commits[0].done():
        await asyncio.sleep(0)

    for _ in range(turns):
        await asyncio.sleep(0)
    was_running = writing.cancel()
    await asyncio.wait({writing})

    assert writing.cancelled() == was_running
    assert await store.find_job("a") is not None


async def test_a_job_ends_once(store: Store) -> None:
    await store.add_job(new_job("a"))

    ended = await store.end_job("a", None, Ending(JobStatus.CANCELLED, 5.0))
    again = await store.end_job("a", 1, Ending(JobStatus.COMPLETED, 6.0))

    assert ended is not None
    assert (ended.job.status, ended.job.completed_at, again) == (JobStatus.CANCELLED, 5.0, None)


async def test_leases_expire_on_the_databases_clock(store: Store) -> None:
    from freeroam.store.records import Lease

    await store.add_job(new_job("a", lease=Lease("one", 1000.0)))
    await store.add_job(new_job("b", lease=Lease("one", -1.0)))

    taken = await store.claim_jobs(Lease("two", 1000.0))

    assert [stored.job.spec.job_id for stored in taken] == ["b"]
    assert await store.renew_leases(Lease("one", 5.0)) == {"a": 1}
    assert await store.renew_leases(Lease("two", 5.0)) == {"b": 2}
    await store.release_leases("one")
    assert [stored.job.spec.job_id for stored in await store.claim_jobs(Lease("two", 5.0))] == ["a"]


async def test_old_results_go_in_chunks_totals_stay_true_and_ids_are_not_used_again(store: Store) -> None:
    await store.add_job(new_job("a"))
    for number in range(10):
        await store.append(row("a", str(number), created_at=float(number)))

    assert [await store.prune_results("a", 7.0, limit=4) for _ in range(3)] == [4, 3, 0]

    found = await store.find_job("a")
    assert found is not None
    assert found.job.results_count == 3
    assert await store.append(row("a", "new", created_at=99.0)) == 11
    assert await store.prune_results("a", None) == 4
    assert await store.append(row("a", "newer")) == 12


async def test_progress_is_stored_with_the_result(store: Store) -> None:
    await store.add_job(new_job("a"))

    await store.append(
        row("a", "1", progress=Progress({"superseded": 3}, prompt="x", prompt_version=4), cursor={"frame_id": "7-1"})
    )

    found = await store.find_job("a")
    assert found is not None
    assert (found.job.frames_dropped, found.job.prompt_version) == ({"superseded": 3}, 4)
    assert (found.job.cursor, found.job.status) == ({"frame_id": "7-1"}, JobStatus.RUNNING)


async def test_the_file_is_readable_by_its_owner_alone(store: Store, tmp_path: Path) -> None:
    assert (tmp_path / "freeroam.db").stat().st_mode & 0o077 == 0


async def test_migrating_twice_changes_nothing_and_a_newer_database_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/freeroam.db"

    assert await migrate(url) == await migrate(url) == "0001"

    with sqlite3.connect(tmp_path / "freeroam.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(ConfigurationError, match="newer than this Freeroam"):
        await migrate(url)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("nonsense", ConfigurationError),
        ("mysql://localhost/x", ConfigurationError),
        ("sqlite://", ConfigurationError),
        ("sqlite:///:memory:", ConfigurationError),
    ],
)
def test_an_address_that_cannot_be_used_is_refused(url: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="DATABASE_URL"):
        parse_url(url)


def test_postgres_needs_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"freeroam\[postgres\]"):
        parse_url("postgresql://localhost/freeroam")


async def test_the_tables_are_those_that_the_migrations_make(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    from freeroam.store.tables import metadata

    differences = await store._read(
        lambda connection: compare_metadata(MigrationContext.configure(connection), metadata)
    )

    assert differences == []


@pytest.mark.parametrize("content", [b"not a database, but long enough to be looked at" * 20, b"\xff" * 4096])
async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "freeroam.db").write_bytes(content)
    store = Store(StoreConfig(f"sqlite:///{tmp_path}/freeroam.db"), SystemClock())

    with pytest.raises(ConfigurationError, match="DATABASE_URL: the database cannot be opened"):
        await store.open()

    assert (tmp_path / "freeroam.db").read_bytes() == content
    with pytest.raises(StoreError):
        await store.find_job("a")
