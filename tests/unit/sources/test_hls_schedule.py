"""Which segment comes next, and at which stream time."""

from collections import Counter

import pytest

from freeroam.sources.hls_playlist import MediaPlaylist, Segment
from freeroam.sources.hls_schedule import Schedule

NOW = 1_700_000_000.0


def playlist(first, count, *, ended=False, duration_s=2.0, start=None, date=None, **changes):
    segments = tuple(
        Segment(
            sequence=number,
            url=f"{number}.ts",
            duration_s=duration_s,
            captured_epoch_s=None if date is None else date + number * duration_s,
            **changes.get(f"s{number}", {}),
        )
        for number in range(first, first + count)
    )
    return MediaPlaylist(duration_s, segments, ended, start)


class Walk:
    """A schedule with its counts."""

    def __init__(self, first, now_epoch_s=NOW, **kwargs):
        self.counts = Counter()
        count = lambda reason, amount: self.counts.update({reason: amount})  # noqa: E731
        self.schedule = Schedule(first, now_epoch_s, count, **kwargs)

    def take(self):
        taken = []
        while (planned := self.schedule.next()) is not None:
            taken.append(planned)
        return taken

    def numbers(self):
        return [planned.segment.sequence for planned in self.take()]


def test_a_recording_is_played_whole_from_zero():
    walk = Walk(playlist(5, 4, ended=True))

    planned = walk.take()

    assert [one.segment.sequence for one in planned] == [5, 6, 7, 8]
    assert [one.time_s for one in planned] == [0.0, 2.0, 4.0, 6.0]
    assert [one.breaks_run for one in planned] == [True, False, False, False]
    assert walk.schedule.is_over


@pytest.mark.parametrize(
    ("start", "first"), [(None, 7), (-2.0, 9), (-100.0, 0), (0.0, 0), (5.0, 2), (1000.0, 9), (-9.0, 5)]
)
def test_a_live_stream_begins_near_its_end_or_where_the_server_wants(start, first):
    assert Walk(playlist(0, 10, start=start)).numbers()[0] == first


def test_live_stream_time_is_the_wall_clock_when_there_are_no_dates():
    planned = Walk(playlist(0, 10)).take()

    assert planned[0].time_s == NOW - 6.0


def test_live_stream_time_is_the_date_where_there_is_one():
    planned = Walk(playlist(0, 10, date=5000.0)).take()

    assert [one.time_s for one in planned] == [5014.0, 5016.0, 5018.0]


@pytest.mark.parametrize("late_s", [0.0, 0.1, 0.3, 1.7, 5.0])
def test_a_segment_keeps_its_time_when_the_stream_is_opened_again(late_s):
    first = Walk(playlist(0, 6))
    planned = first.take()

    again = Walk(
        playlist(0, 6), now_epoch_s=NOW + late_s, resume_s=planned[0].time_s + 0.5, known=first.schedule.placed
    )

    assert again.take() == planned


def test_a_stream_that_is_opened_again_goes_on_in_the_segment_it_was_in_though_another_has_come():
    first = Walk(playlist(0, 6))
    planned = first.take()

    again = Walk(playlist(1, 6), now_epoch_s=NOW + 1.0, resume_s=planned[0].time_s + 0.5, known=first.schedule.placed)

    taken = again.take()
    assert taken[:3] == planned
    assert (taken[3].segment.sequence, taken[3].time_s) == (6, planned[2].time_s + 2.0)


def test_a_stream_that_was_away_for_longer_goes_on_near_its_end_in_its_own_time():
    first = Walk(playlist(0, 6))
    planned = first.take()

    again = Walk(playlist(4, 6), now_epoch_s=NOW + 8.5, resume_s=planned[0].time_s + 0.5, known=first.schedule.placed)

    taken = again.take()
    assert [one.segment.sequence for one in taken] == [7, 8, 9]
    assert taken[0].time_s == planned[0].time_s + 4 * 2.0


def test_what_was_placed_is_known_to_the_opening_after_the_next_though_that_one_failed_early():
    first = Walk(playlist(0, 6))
    planned = first.take()
    resume_s = planned[0].time_s + 0.5
    second = Walk(playlist(0, 6), now_epoch_s=NOW + 0.3, resume_s=resume_s, known=first.schedule.placed)

    third = Walk(playlist(0, 6), now_epoch_s=NOW + 0.7, resume_s=resume_s, known=second.schedule.placed)

    assert third.take() == planned


@pytest.mark.parametrize(
    ("again", "now_epoch_s"),
    [(playlist(0, 6), NOW + 60.0), (playlist(0, 4), NOW + 6.0), (playlist(100, 6), NOW + 1.0)],
    ids=["the same names much later", "all before what was shown", "other numbers"],
)
def test_a_server_that_began_anew_is_placed_by_the_wall_clock_and_repeats_no_time(again, now_epoch_s):
    first = Walk(playlist(0, 6))
    resume_s = first.take()[1].time_s + 0.5

    walk = Walk(again, now_epoch_s=now_epoch_s, resume_s=resume_s, known=first.schedule.placed)

    first_s = walk.take()[0].time_s
    assert first_s == max(now_epoch_s - 6.0, resume_s + 0.001)


def test_what_is_new_follows_what_was_played():
    walk = Walk(playlist(0, 6))

    assert walk.numbers() == [3, 4, 5]
    walk.schedule.update(playlist(1, 7), NOW)
    assert walk.numbers() == [6, 7]
    assert not walk.schedule.is_over
    walk.schedule.update(playlist(1, 8, ended=True), NOW)
    assert walk.numbers() == [8]
    assert walk.schedule.is_over


def test_segments_that_were_missed_are_counted_and_leave_their_time():
    walk = Walk(playlist(0, 6))
    before = walk.take()[-1]
    walk.schedule.update(playlist(9, 3), NOW + 12.0)

    after = walk.take()

    assert walk.counts == {"segments_missed": 3}
    assert after[0].segment.sequence == 9
    assert after[0].breaks_run
    assert after[0].time_s == before.time_s + 4 * 2.0


def test_dates_say_how_long_a_gap_was():
    walk = Walk(playlist(0, 6, date=5000.0))
    before = walk.take()[-1]
    walk.schedule.update(playlist(6, 3, date=5100.0), NOW)

    assert walk.take()[0].time_s == before.time_s + 102.0


@pytest.mark.parametrize("step_s", [-500.0, -0.2, 0.2, 10.0**7])
def test_no_date_moves_stream_time_back_or_by_a_day(step_s):
    walk = Walk(playlist(0, 6, date=5000.0))
    before = walk.take()[-1]
    walk.schedule.update(playlist(6, 3, date=5000.0 + step_s), NOW)

    assert [one.time_s - before.time_s for one in walk.take()] == [2.0, 4.0, 6.0]


def test_a_gap_is_passed_over_and_breaks_the_run():
    walk = Walk(playlist(0, 4, ended=True, s1={"is_gap": True}))

    planned = walk.take()

    assert [(one.segment.sequence, one.breaks_run) for one in planned] == [(0, True), (2, True), (3, False)]
    assert walk.counts == {"segments_gap": 1}


def test_a_discontinuity_breaks_the_run():
    walk = Walk(playlist(0, 3, ended=True, s1={"is_discontinuity": True}))

    assert [one.breaks_run for one in walk.take()] == [True, True, False]


def test_an_older_copy_of_the_playlist_changes_nothing():
    walk = Walk(playlist(0, 6))
    walk.take()
    walk.schedule.update(playlist(0, 5), NOW)
    walk.schedule.update(playlist(0, 5), NOW)

    assert walk.numbers() == []
    walk.schedule.update(playlist(1, 6), NOW)
    assert walk.numbers() == [6]
    assert walk.counts == {}


@pytest.mark.parametrize("reloads", [1, 3])
def test_a_server_that_begins_anew_is_followed(reloads):
    walk = Walk(playlist(1000 if reloads == 1 else 8, 6))
    before = walk.take()[-1]
    for _ in range(reloads):
        walk.schedule.update(playlist(0, 6), NOW)

    after = walk.take()

    assert [one.segment.sequence for one in after] == [3, 4, 5]
    assert after[0].breaks_run
    assert after[0].time_s == before.time_s + 2.0
    assert walk.counts == {"playlist_rewinds": 1}


def test_a_stream_that_falls_far_behind_jumps_to_its_end():
    walk = Walk(playlist(0, 6))
    walk.schedule.next()
    walk.schedule.update(playlist(0, 30), NOW)

    planned = walk.schedule.next()

    assert planned is not None
    assert planned.segment.sequence == 27
    assert planned.breaks_run
    assert walk.counts == {"segments_behind": 23}


def test_a_job_that_waits_leaves_nothing_out():
    walk = Walk(playlist(0, 6), waits=True)
    walk.schedule.next()
    walk.schedule.update(playlist(0, 30), NOW)

    assert walk.numbers() == list(range(4, 30))


def test_a_recording_goes_on_where_it_broke_off():
    planned = Walk(playlist(0, 6, ended=True), resume_s=5.0).take()

    assert [(one.segment.sequence, one.time_s) for one in planned] == [(2, 4.0), (3, 6.0), (4, 8.0), (5, 10.0)]


def test_a_live_stream_with_dates_goes_on_after_the_last_frame_if_nothing_may_be_left_out():
    assert Walk(playlist(0, 20, date=5000.0), waits=True, resume_s=5013.0).numbers()[0] == 6
    assert Walk(playlist(0, 20, date=5000.0), waits=False, resume_s=5013.0).numbers()[0] == 17


def test_live_stream_time_never_repeats_over_openings():
    assert Walk(playlist(0, 6), resume_s=NOW + 50.0).take()[0].time_s > NOW + 50.0


def test_a_live_playlist_that_is_empty_for_a_moment_changes_nothing():
    walk = Walk(playlist(1000, 6))
    before = walk.take()[-1]
    walk.schedule.update(playlist(0, 0), NOW)

    assert walk.numbers() == []
    walk.schedule.update(playlist(1006, 2), NOW)
    assert [one.time_s - before.time_s for one in walk.take()] == [2.0, 4.0]
    assert walk.counts == {}


def test_a_live_playlist_that_ends_empty_is_over():
    walk = Walk(playlist(1000, 6))
    walk.take()
    walk.schedule.update(playlist(0, 0, ended=True), NOW)

    assert walk.numbers() == []
    assert walk.schedule.is_over


def test_an_empty_live_playlist_waits():
    walk = Walk(playlist(0, 0))

    assert walk.numbers() == []
    walk.schedule.update(playlist(70, 1), NOW)
    assert walk.numbers() == [70]
    assert walk.counts == {}


@pytest.mark.parametrize(
    ("away_s", "moved_s"),
    [pytest.param(2.0, 2.0 + 12.0, id="a moment later"), pytest.param(600.0, 600.0 + 12.0, id="after an outage")],
)
def test_numbers_that_jump_by_millions_move_time_little_further_than_the_clock_went(away_s, moved_s):
    walk = Walk(playlist(0, 6))
    end_s = walk.take()[-1].time_s + 2.0
    walk.schedule.update(playlist(50_000_000, 3), NOW + away_s)

    assert walk.take()[0].time_s == pytest.approx(end_s + moved_s)
