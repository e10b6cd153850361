"""A decoder process is judged by what it says of itself."""

from __future__ import annotations

import asyncio

import pytest

from freeroam.sources.decoding.slot import DecoderSlot
from freeroam.sources.decoding.suspects import Suspects
from freeroam.sources.decoding.values import DecoderConfig
from freeroam.testing import FakeClock


class Child:
    """A process that can be killed."""

    pid = 1
    is_killed = False

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
