"""What is old goes, what is not stays, and numbers stay true."""

from __future__ import annotations

from pathlib import Path

import pytest

from freeroam.jobs.retention import Retention
from freeroam.store.records import Ending
from freeroam.store.store import Store, StoreConfig
from freeroam.testing import FakeClock
from freeroam.vocabulary.errors import StoreError
from freeroam.vocabulary.job import JobStatus
from tests.unit.store.rows import new_job, row
from tests.waiting import until


async def test_old_results_and_jobs_that_ended_long_ago_are_cleared_at_each_interval(tmp_path: Path) -> None:
    clock = FakeClock(epoch_s=1000.0)
    store = Store(StoreConfig(f"sqlite:///{tmp_path}/freeroam.db"), clock)
    await store.open()
    for job_id in ("running", "ended", "just-ended"):
        await store.add_job(new_job(job_id))
        for created_at in (100.0, 990.0):
            await store.append(row(job_id, str(created_at), created_at=created_at))
    await store.end_job("ended", None, Ending(JobStatus.COMPLETED, 200.0))
    await store.end_job("just-ended", None, Ending(JobStatus.COMPLETED, 995.0))
    retention = Retention(store, clock, keep_s=500.0, interval_s=60.0)
    retention.start()

    await clock.advance(61.0)

    async def is_cleared() -> bool:
        running, ended = await store.find_job("running"), await store.find_job("ended")
        assert running is not None
        return ended is None and running.job.results_count == 1

    await until(is_cleared)
    just_ended = await store.find_job("just-ended")
    assert just_ended is not None
    await until(lambda: _count(store, "just-ended", 1))
    assert await store.append(row("running", "new", created_at=999.0)) == 3
    await retention.stop()
    await store.close()


async def _count(store: Store, job_id: str, count: int) -> bool:
    found = await store.find_job(job_id)
    return found is not None and found.job.results_count == count


@pytest.mark.parametrize("failure", [StoreError("gone"), TypeError("defect")])
async def test_clearing_goes_on_whatever_went_wrong_with_one(tmp_path: Path, failure: Exception) -> None:
    clock = FakeClock(epoch_s=1000.0)
    store = Store(StoreConfig(f"sqlite:///{tmp_path}/freeroam.db"), clock)
    await store.open()
    retention = Retention(store, clock, keep_s=500.0, interval_s=60.0)
    clearings: list[float] = []

    async def clear() -> tuple[int, int]:
        clearings.append(clock.monotonic_s())
        if len(clearings) == 1:
            raise failure
        return 0, 0

    retention.clear = clear  # type: ignore[method-assign]
    retention.start()
    await clock.advance(125.0)

    assert len(clearings) == 2
    await retention.stop()
    await store.close()
