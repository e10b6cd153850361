"""The pace of live video."""

from __future__ import annotations

from freeroam.sources.decoding.pacing import Pacer


def test_a_burst_is_spread_over_its_own_time() -> None:
    pacer = Pacer()

    dues = [pacer.due_monotonic_s(50.0 + 0.5 * number, 1000.0) for number in range(6)]

    assert dues == [1000.0 + 0.5 * number for number in range(6)]


def test_a_delay_leaves_room_for_uneven_arrival() -> None:
    pacer = Pacer(delay_s=2.0)

    assert pacer.due_monotonic_s(0.0, 1000.0) == 1002.0
    assert pacer.due_monotonic_s(1.0, 1002.5) == 1003.0


def test_lateness_moves_the_schedule_once_and_keeps_the_spacing() -> None:
    pacer = Pacer()
    pacer.due_monotonic_s(0.0, 1000.0)

    late = pacer.due_monotonic_s(1.0, 1005.0)
    after = pacer.due_monotonic_s(2.0, 1005.1)

    assert late == 1005.0
    assert after == 1006.0


def test_a_little_lateness_moves_nothing() -> None:
    pacer = Pacer()
    pacer.due_monotonic_s(0.0, 1000.0)

    assert pacer.due_monotonic_s(1.0, 1001.2) == 1001.2
    assert pacer.due_monotonic_s(2.0, 1001.3) == 1002.0


def test_a_jump_of_stream_time_begins_anew() -> None:
    pacer = Pacer()
    pacer.due_monotonic_s(100.0, 1000.0)

    assert pacer.due_monotonic_s(5.0, 1001.0) == 1001.0
    assert pacer.due_monotonic_s(9000.0, 1002.0) == 1002.0
    assert pacer.due_monotonic_s(9001.0, 1002.0) == 1003.0


def test_samples_that_are_far_apart_are_no_jump() -> None:
    pacer = Pacer()
    pacer.interval_s = 60.0
    pacer.due_monotonic_s(0.0, 1000.0)

    assert pacer.due_monotonic_s(60.0, 1001.0) == 1060.0


def test_a_restart_forgets_what_was_late() -> None:
    pacer = Pacer()
    pacer.due_monotonic_s(0.0, 1000.0)
    pacer.restart()

    assert pacer.offset_s is None
    assert pacer.due_monotonic_s(1.0, 1000.1) == 1000.1
