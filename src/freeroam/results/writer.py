"""Commits results in the order they are given, then publishes them: nobody sees an id that a crash could take back."""

from __future__ import annotations

import asyncio

from freeroam.results.hub import ResultHub
from freeroam.store.records import ResultRow, with_id
from freeroam.store.result_rows import AlreadyStored
from freeroam.store.store import Store


class ResultWriter:
    """Writes results for all runners.

    Args:
        store: Commits.
        hub: Is told what was committed.
    """

    def __init__(self, store: Store, hub: ResultHub) -> None:
        self._store = store
        self._hub = hub

    def submit(self, row: ResultRow) -> asyncio.Future[int]:
        """Queue a result and return its future, which is done after commit and publication, in the order of calls.

        While the database fails the future waits; whoever must not lose results waits for it. Raises through it
        ``LeaseLost``, or ``AlreadyStored`` if the entry has its result: then nothing was written or told.
        """
        committed = self._store.append(row)
        # The first callback: it runs before anyone who waits for the future, in the order of the commits.
        committed.add_done_callback(lambda future: self._publish(row, future))
        return committed

    async def write(self, row: ResultRow) -> int | None:
        """Commit and publish a result and return its number, or None if its entry has one already.

        Cancelling the call does not take the result back.

        Raises:
            LeaseLost: Another process runs the job now, or it is over.
        """
        try:
            return await asyncio.shield(self.submit(row))
        except AlreadyStored:
            return None

    def _publish(self, row: ResultRow, committed: asyncio.Future[int]) -> None:
        if not committed.cancelled() and committed.exception() is None:
            result_id = committed.result()
            self._hub.publish_result(row.job_id, result_id, with_id(result_id, row.body))
