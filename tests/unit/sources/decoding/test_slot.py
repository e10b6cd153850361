"""A decoder process is judged by what it says of itself."""

from __future__ import annotations

import asyncio

import pytest

from freeroam.sources.decoding.slot import HEARTBEAT_S, DecoderSlot
from freeroam.sources.decoding.suspects import Suspects
from freeroam.sources.decoding.values import DecoderConfig
from freeroam.testing import FakeClock


class Child:
    """A process that can be killed."""

    pid = 1
    is_killed = False
    stands_still = False

    def __init__(self) -> None:
        self.wire = self
        self.asked = 0

    def send(self, message: dict) -> None:
        self.asked += 1

    def kill(self) -> None:
        self.is_killed = True


@pytest.mark.parametrize(
    ("busy_s", "rss_bytes", "is_killed"),
    [
        pytest.param(0.0, 100, False, id="at rest"),
        pytest.param(9.9, 100, False, id="at work"),
        pytest.param(10.1, 100, True, id="at work for too long"),
        pytest.param(0.0, 1001, True, id="grown too large"),
    ],
)
def test_a_process_that_works_without_a_sign_of_life_or_grows_is_killed(busy_s, rss_bytes, is_killed) -> None:
    config = DecoderConfig(frame_deadline_s=10.0, max_rss_bytes=1000)
    slot, child = DecoderSlot(0, config, FakeClock(), asyncio.Event(), Suspects(FakeClock()), asyncio.Event()), Child()

    slot._judge(child, {"op": "pong", "busy_s": busy_s, "rss_bytes": rss_bytes})

    assert child.is_killed is is_killed
    assert slot.rss_bytes == rss_bytes


def _watched(child: Child, clock: FakeClock) -> DecoderSlot:
    """A place with a child that holds a feed, and may be silent for three seconds."""
    config = DecoderConfig(silence_deadline_s=3.0)
    slot = DecoderSlot(0, config, clock, asyncio.Event(), Suspects(clock), asyncio.Event())
    slot._child = child
    slot.add(1, object())
    return slot


@pytest.mark.parametrize("answered_s", [0.0, 0.3, 0.7])
@pytest.mark.parametrize(
    ("stands_still", "sooner_s", "later_s"),
    [
        pytest.param(True, HEARTBEAT_S, 2 * HEARTBEAT_S + 0.1, id="stopped"),
        pytest.param(False, 2.9, 3.2, id="at work"),
    ],
)
async def test_a_process_that_falls_silent_is_killed_in_time(
    stands_still: bool, sooner_s: float, later_s: float, answered_s: float
) -> None:
    # Given a process that has answered, some time after it was asked, and then says nothing more
    clock, child = FakeClock(), Child()
    slot = _watched(child, clock)
    child.stands_still = stands_still
    watch = asyncio.create_task(slot._watch(child))
    await asyncio.sleep(0)
    await clock.advance(answered_s)
    slot._heard()

    # Then it has a whole beat to answer if it stands still, and its deadline if it is at work
    while not child.is_killed and clock.monotonic_s() - slot._heard_s <= later_s:
        await clock.advance(0.05)
    assert child.is_killed
    assert clock.monotonic_s() - slot._heard_s >= sooner_s - answered_s
    watch.cancel()


async def test_a_process_that_answers_lives() -> None:
    # Given one that stands still between two questions
    clock, child = FakeClock(), Child()
    slot = _watched(child, clock)
    child.stands_still = True
    watch = asyncio.create_task(slot._watch(child))

    for _ in range(200):
        asked = child.asked
        await clock.advance(0.05)
        if child.asked > asked:
            slot._heard()

    assert not child.is_killed
    assert child.asked >= 9
    watch.cancel()
