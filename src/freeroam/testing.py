"""Fakes and builders for tests, ours and those of people who write models and sources."""

from __future__ import annotations

import asyncio
import heapq
import itertools

SETTLE_TURNS = 25
"""Loop turns that let chains of tasks come to rest before fake time moves on."""


class FakeClock:
    """A clock that stands still until a test moves it.

    Args:
        monotonic_s: Where monotonic time begins.
        epoch_s: Where wall time begins.
    """

    def __init__(self, monotonic_s: float = 1000.0, epoch_s: float = 1_700_000_000.0) -> None:
        self._now_s = monotonic_s
        self._epoch_offset_s = epoch_s - monotonic_s
        self._order = itertools.count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def monotonic_s(self) -> float:
        """Return fake monotonic seconds."""
        return self._now_s

    def epoch_s(self) -> float:
        """Return fake seconds since 1970."""
        return self._now_s + self._epoch_offset_s

    async def sleep(self, duration_s: float) -> None:
        """Wait until the clock was moved on by ``duration_s``; zero or less only yields."""
        if duration_s <= 0:
            await asyncio.sleep(0)
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._now_s + duration_s, next(self._order), waiter))
        await waiter

    @property
    def sleepers(self) -> int:
        """How many tasks sleep now."""
        return sum(not waiter.done() for _, _, waiter in self._sleepers)

    @property
    def next_wake_s(self) -> float | None:
        """Monotonic time of the earliest sleeper; None if nobody sleeps."""
        self._forget_cancelled()
        return self._sleepers[0][0] if self._sleepers else None

    def move(self, duration_s: float) -> None:
        """Move time on without letting anyone run; sleepers that are due wake at the next turn of the loop."""
        self._now_s += duration_s
        while self._sleepers and self._sleepers[0][0] <= self._now_s:
            self._wake_first()

    def jump_epoch(self, offset_s: float) -> None:
        """Set the wall clock forward or back, as an operator or NTP does; monotonic time is untouched."""
        self._epoch_offset_s += offset_s

    async def advance(self, duration_s: float) -> None:
        """Move time on by ``duration_s``, waking each sleeper at its own time; tasks come to rest in between."""
        end_s = self._now_s + duration_s
        await self.settle()
        while (wake_s := self.next_wake_s) is not None and wake_s <= end_s:
            self._now_s = max(self._now_s, wake_s)
            self._wake_first()
            await self.settle()
        self._now_s = end_s
        await self.settle()

    async def settle(self) -> None:
        """Let every task that can run do so, without moving time."""
        for _ in range(SETTLE_TURNS):
            await asyncio.sleep(0)

    def _wake_first(self) -> None:
        _, _, waiter = heapq.heappop(self._sleepers)
        if not waiter.done():
            waiter.set_result(None)

    def _forget_cancelled(self) -> None:
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)
