"""The clock that tests move wakes sleepers in order, each at its own time."""

from __future__ import annotations

import asyncio

from freeroam.testing import FakeClock


async def test_sleepers_wake_in_order_at_their_own_time() -> None:
    # Given sleepers that sleep again when they wake
    clock = FakeClock(monotonic_s=0.0)
    woken: list[tuple[str, float]] = []

    async def sleep_twice(name: str, duration_s: float) -> None:
        for _ in range(2):
            await clock.sleep(duration_s)
            woken.append((name, clock.monotonic_s()))

    tasks = [asyncio.create_task(sleep_twice("slow", 1.0)), asyncio.create_task(sleep_twice("quick", 0.4))]

    # When time moves on in one go
    await clock.advance(5.0)

    # Then each woke at its own time
    assert woken == [("quick", 0.4), ("quick", 0.8), ("slow", 1.0), ("slow", 2.0)]
    assert clock.monotonic_s() == 5.0
    await asyncio.gather(*tasks)


async def test_a_cancelled_sleeper_is_forgotten() -> None:
    # Given a sleeper that is cancelled
    clock = FakeClock()
    task = asyncio.create_task(clock.sleep(10))
    await clock.settle()
    assert clock.sleepers == 1
    task.cancel()
    await clock.settle()

    # Then it counts no more and time moves on
    assert clock.sleepers == 0
    assert clock.next_wake_s is None
    await clock.advance(20)


def test_the_wall_clock_can_jump_without_the_other() -> None:
    # Given a clock, when the wall clock is set back, then monotonic time is not
    clock = FakeClock(monotonic_s=5.0, epoch_s=100.0)
    clock.jump_epoch(-50.0)
    assert (clock.monotonic_s(), clock.epoch_s()) == (5.0, 50.0)
