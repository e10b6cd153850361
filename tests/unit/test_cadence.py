"""Sampling goes by timestamp: the grid holds whatever the frames do."""

from __future__ import annotations

import pytest

from freeroam.vocabulary.cadence import Cadence


def taken(times_s: list[float], fps: float) -> list[float]:
    cadence = Cadence.of_fps(fps)
    kept = []
    for time_s in times_s:
        due_s, cadence = cadence.offer(time_s)
        if due_s is not None:
            kept.append(round(time_s, 3))
    return kept


@pytest.mark.parametrize(
    ("native_fps", "fps", "count_in_ten_s"),
    [(25, 2, 20), (25, 25, 250), (30, 1, 10), (29.97, 15, 150), (25, 0.5, 5), (25, 30, 250), (10, 7, 70)],
)
def test_as_many_frames_are_taken_as_asked_for(native_fps: float, fps: float, count_in_ten_s: int) -> None:
    times = [100.0 + n / native_fps for n in range(int(native_fps * 10))]

    assert abs(len(taken(times, fps)) - count_in_ten_s) <= 1


def test_rounded_timestamps_do_not_cost_frames() -> None:
    """A clock of milliseconds rounds 1/30 s; none of 30 asked frames a second may be lost to that."""
    times = [round(n / 30, 3) for n in range(300)]

    assert len(taken(times, 30)) == 300


def test_a_gap_does_not_shift_the_grid() -> None:
    times = [0.0, 0.5, 1.0, 3.3, 3.5, 4.0]

    assert taken(times, 2) == [0.0, 0.5, 1.0, 3.3, 3.5, 4.0]


def test_time_that_begins_anew_is_sampled_from_its_first_frame() -> None:
    times = [50.0, 50.5, 51.0, 0.0, 0.5]

    assert taken(times, 2) == times


def test_a_late_frame_is_not_taken_twice() -> None:
    times = [0.0, 0.5, 0.49, 0.51, 1.0]

    assert taken(times, 2) == [0.0, 0.5, 1.0]


def test_a_restored_grid_goes_on_where_it_was() -> None:
    times = [n / 25 for n in range(250)]
    whole = taken(times, 2)

    cadence = Cadence.of_fps(2)
    kept: list[float] = []
    for time_s in times[:97]:
        due_s, cadence = cadence.offer(time_s)
        if due_s is not None:
            kept.append(round(time_s, 3))
    cadence = Cadence.of_fps(2, cadence.next_due_s)
    for time_s in times[97:]:
        due_s, cadence = cadence.offer(time_s)
        if due_s is not None:
            kept.append(round(time_s, 3))

    assert kept == whole


def test_what_comes_once_more_is_passed_over_without_moving_the_grid():
    # Given a grid that goes on where a decoder was lost, four seconds into a group of pictures
    cadence = Cadence(0.5, 10.0, may_restart=False)

    # When the group comes again from its beginning
    dues = []
    for number in range(60):
        due_s, cadence = cadence.offer(6.0 + number * 0.1)
        dues += [] if due_s is None else [due_s]

    # Then the next sample is the one that was due, and from then on a jump back is a new beginning again
    assert dues == pytest.approx([10.0, 10.5, 11.0, 11.5])
    assert cadence.offer(1.0)[0] == 1.0
