"""Percentiles out of buckets are those of the times, to the precision that is promised."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freeroam.load.spread import Spread


def exact(times_ms: list[float], share: float) -> float:
    return sorted(times_ms)[max(1, math.ceil(share * len(times_ms))) - 1]


@given(
    times_ms=st.lists(st.floats(0.01, 1e6), min_size=1, max_size=200),
    share=st.sampled_from([0.01, 0.5, 0.95, 0.99, 1.0]),
)
def test_a_percentile_is_right_to_a_quarter_of_a_per_cent(times_ms: list[float], share: float) -> None:
    # Given times, when they are counted, then each percentile is the exact one within the width of its bucket
    spread = Spread()
    for value_ms in times_ms:
        spread.add(value_ms)
    assert spread.percentile_ms(share) == pytest.approx(exact(times_ms, share), rel=0.0026)
    assert spread.summary()["max"] == pytest.approx(max(times_ms), abs=0.001)


@given(times_ms=st.lists(st.floats(0, 1e6), max_size=100), cut=st.integers(0, 100))
def test_windows_add_up_to_the_whole(times_ms: list[float], cut: int) -> None:
    # Given times counted in two windows, when the windows are joined, then they are as if counted in one
    parts = [Spread(), Spread()]
    whole = Spread()
    for number, value_ms in enumerate(times_ms):
        parts[number >= cut].add(value_ms)
        whole.add(value_ms)
    parts[0].take_in(parts[1])
    assert parts[0].summary()["p99"] == whole.summary()["p99"]
    assert (parts[0].count, parts[0].max_ms) == (whole.count, whole.max_ms)


def test_no_time_at_all_has_no_percentile() -> None:
    # Given nothing, when it is summed up, then that is said instead of a nought
    assert Spread().summary() == {"count": 0, "mean": None, "p50": None, "p95": None, "p99": None, "max": None}


def test_an_hour_costs_no_more_than_a_second() -> None:
    # Given very many times, when they are counted, then the buckets stay few
    spread = Spread()
    for number in range(200_000):
        spread.add(0.5 + number % 5000)
    assert len(spread._counts) < 3000
