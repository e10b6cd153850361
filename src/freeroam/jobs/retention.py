"""Clears what is old: results past their age and jobs that ended as long ago, in short transactions."""

from __future__ import annotations

import asyncio

from freeroam.clock import Clock
from freeroam.observability.logs import get_logger
from freeroam.store.store import Store
from freeroam.vocabulary.errors import StoreError

CHUNK = 1000
"""Results deleted in one transaction, so that a new result never waits long behind a clearing."""

log = get_logger(__name__)


class Retention:
    """Clears at every interval.

    Args:
        store: What is cleared.
        clock: Tells the time.
        keep_s: How long results and jobs that are over are kept.
        interval_s: Between two clearings.
    """

    def __init__(self, store: Store, clock: Clock, *, keep_s: float, interval_s: float) -> None:
        self._store = store
        self._clock = clock
        self._keep_s = keep_s
        self._interval_s = interval_s
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to clear, first after one interval."""
        self._task = asyncio.create_task(self._run(), name="retention")

    async def stop(self) -> None:
        """Stop; what is not cleared is cleared next time."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def clear(self) -> tuple[int, int]:
        """Clear once and return how many results and jobs went. Totals of jobs stay true, ids are not used again."""
        cutoff = self._clock.epoch_s() - self._keep_s
        results = jobs = 0
        while ended := await self._store.ended_before(cutoff):
            for job_id in ended:
                jobs += await self._store.erase_job(job_id)
        for job_id in await self._store.jobs_with_results():
            while gone := await self._store.prune_results(job_id, cutoff, CHUNK):
                results += gone
        return results, jobs

    async def _run(self) -> None:
        while True:
            await self._clock.sleep(self._interval_s)
            try:
                results, jobs = await self.clear()
            except StoreError as error:
                log.warning("clearing_failed", error=error.message)
                continue
            except Exception:  # a defect must not let the disk fill up
                log.exception("clearing_failed")
                continue
            if results or jobs:
                log.info("cleared", results=results, jobs=jobs)
