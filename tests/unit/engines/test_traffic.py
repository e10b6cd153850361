"""Shares of versions."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freeroam.engines.traffic import Traffic
from freeroam.vocabulary.errors import InvalidInput


def anybody(_: str) -> bool:
    return True


def test_shares_are_made_to_sum_to_one_and_zero_is_none() -> None:
    traffic = Traffic({"a": 3, "b": 1, "c": 0})

    assert traffic.shares == {"a": 0.75, "b": 0.25}
    assert traffic.main == "a"


@pytest.mark.parametrize(
    "shares",
    [{}, {"a": 0.0}, {"a": -0.1, "b": 1.0}, {"a": float("nan")}, {"a": float("inf")}, {"a": 1e308, "b": 1e308}],
)
def test_what_is_no_share_is_refused(shares: dict[str, float]) -> None:
    with pytest.raises(InvalidInput):
        Traffic(shares)


@given(st.lists(st.integers(1, 100), min_size=2, max_size=6), st.integers(1, 400))
def test_no_version_is_ever_far_off_its_share(weights: list[int], turns: int) -> None:
    traffic = Traffic({str(number): float(weight) for number, weight in enumerate(weights)})

    asked: Counter[str] = Counter()
    for turn in range(1, turns + 1):
        asked[traffic.next(anybody)] += 1
        # Smooth weighted round robin keeps each version within the number of versions less one of its due.
        assert all(abs(asked[version] - share * turn) < len(weights) for version, share in traffic.shares.items())
        if len(weights) == 2:
            assert all(abs(asked[version] - share * turn) < 1.0 for version, share in traffic.shares.items())


def test_a_twentieth_is_every_twentieth() -> None:
    traffic = Traffic({"old": 0.95, "new": 0.05})

    turns = [traffic.next(anybody) for _ in range(200)]

    where = [number for number, version in enumerate(turns) if version == "new"]
    assert [after - before for before, after in pairwise(where)] == [20] * 9


def test_a_version_that_cannot_answer_gets_nothing_while_another_can() -> None:
    traffic = Traffic({"a": 1.0, "b": 1.0})

    assert {traffic.next(lambda version: version == "b") for _ in range(9)} == {"b"}
    assert traffic.next(lambda _: False) == "a"
    assert Counter(traffic.next(anybody) for _ in range(10))["b"] >= 4


def test_the_share_of_one_that_goes_is_split_among_the_rest() -> None:
    rest = Traffic({"a": 0.5, "b": 0.25, "c": 0.25}).without("a")

    assert rest is not None
    assert rest.shares == {"b": 0.5, "c": 0.5}
    assert rest.without("b").without("c") is None
