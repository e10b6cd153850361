"""Which replica is given the next batch."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest

from freeroam.batching.policy import Credit
from freeroam.engines.credits import best_credit, credit_of
from freeroam.engines.forecast import Forecast
from freeroam.vocabulary.model import ModelWishes


def replica(calls: int = 0, *, begun_s: float = 0.0, speaking: int | None = None, name: str = "") -> Any:
    held = OrderedDict((number, SimpleNamespace(tickets=[object()] * 2)) for number in range(calls))
    wishes = ModelWishes(max_batch=4, streams_text=speaking is not None)
    return SimpleNamespace(calls=held, begun_s=begun_s, wishes=wishes, open_questions=speaking or 0, name=name)


@pytest.fixture
def forecast() -> Forecast:
    known = Forecast()
    known.record(2, 1.0)  # expected: 0.9 s
    return known


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (replica(0), Credit(4, 0.0)),
        (replica(1, begun_s=9.5), Credit(4, pytest.approx(0.4))),
        (replica(1, begun_s=5.0), Credit(4, None)),
        (replica(2), None),
        (replica(speaking=0), Credit(4, 0.0)),
        (replica(3, speaking=3), Credit(1, 0.0)),
        (replica(4, speaking=4), None),
    ],
    ids=["idle", "busy", "overdue", "has one ahead", "silent", "speaking", "speaking to all it can"],
)
def test_a_replica_gets_what_it_has_room_for(forecast: Forecast, one: Any, expected: Credit | None) -> None:
    assert credit_of(one, forecast, 10.0, 64) == expected


def test_without_experience_nobody_knows_when_a_call_ends() -> None:
    assert credit_of(replica(1), Forecast(), 0.0, 64) == Credit(4, None)


def test_the_replica_that_is_free_first_is_chosen(forecast: Forecast) -> None:
    overdue, late = replica(1, begun_s=0.0, name="overdue"), replica(1, begun_s=9.9, name="late")
    soon, idle, full = replica(1, begun_s=9.2, name="soon"), replica(0, name="idle"), replica(2, name="full")

    def chosen(*replicas: Any) -> str | None:
        best = best_credit(replicas, forecast, 10.0, 64)
        return best[0].name if best else None

    assert chosen(overdue, late, soon, idle, full) == "idle"
    assert chosen(overdue, late, soon, full) == "soon"
    assert chosen(overdue, late, full) == "late"
    assert chosen(full, overdue) == "overdue"
    assert chosen(full) is None


def test_answers_that_are_spoken_are_spread_evenly(forecast: Forecast) -> None:
    # Given two replicas that speak, one of them to somebody already
    one, two = replica(1, speaking=1, name="one"), replica(0, speaking=0, name="two")
    given = []

    # When a burst is given away
    while (best := best_credit([one, two], forecast, 10.0, 64)) is not None:
        chosen, credit = best
        given.append((chosen.name, credit.slots))
        chosen.open_questions += credit.slots

    # Then neither is ever ahead by more than one, and both are filled
    assert given[0] == ("two", 2)
    assert (one.open_questions, two.open_questions) == (4, 4)
    assert all(slots <= 2 for _, slots in given)


def test_a_single_replica_that_speaks_gets_all_at_once(forecast: Forecast) -> None:
    # Given another one that has no room, when there is a burst, then the one with room gets all that it can take
    best = best_credit([replica(0, speaking=0), replica(4, speaking=4)], forecast, 10.0, 64)
    assert best is not None
    assert best[1] == Credit(4, 0.0)
