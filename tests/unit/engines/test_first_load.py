"""What is told to those who ask a model that was never there yet."""

from __future__ import annotations

import pytest

from freeroam.engines.first_load import FirstLoad
from freeroam.testing import FakeClock


@pytest.mark.parametrize(("so_far_s", "retry_after_s"), [(0.0, 1.0), (4.0, 4.0), (3600.0, 30.0)])
async def test_whoever_is_refused_is_told_to_wait_as_long_as_the_load_has_taken(
    so_far_s: float, retry_after_s: float
) -> None:
    clock = FakeClock()
    first_load = FirstLoad(clock)
    await clock.advance(so_far_s)

    assert first_load.refuses
    assert first_load.refusal("model fake@1").retry_after_s == retry_after_s


@pytest.mark.parametrize("what", ["is_over", "is_waited_for"])
def test_nobody_is_refused_once_it_was_there_or_where_it_takes_anothers_place(what: str) -> None:
    first_load = FirstLoad(FakeClock())
    setattr(first_load, what, True)

    assert not first_load.refuses
