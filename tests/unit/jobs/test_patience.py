"""How much may wait, and for how long, when a job's model is exchanged."""

from __future__ import annotations

from freeroam.jobs.patience import CATCH_UP_S, Patience
from freeroam.testing import FakeClock
from tests.unit.jobs.fakes import FakeEngine


def test_there_is_room_while_a_model_is_exchanged_and_until_it_had_time_to_catch_up() -> None:
    engine, clock = FakeEngine(), FakeClock()
    patience = Patience(engine, clock, room_bytes=100)
    assert patience.room_bytes(None) == 0

    engine.is_exchanged = True
    assert patience.room_bytes(None) == 100
    clock.move(3600.0)
    assert patience.room_bytes(None) == 100

    engine.is_exchanged = False
    clock.move(CATCH_UP_S - 1.0)
    assert patience.room_bytes(None) == 100
    clock.move(1.0)
    assert patience.room_bytes(None) == 0


def test_a_model_that_is_gone_leaves_no_room() -> None:
    engine = FakeEngine()
    engine.is_exchanged = True

    assert Patience(engine, FakeClock(), room_bytes=100).room_bytes("gone") == 0
