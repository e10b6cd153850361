"""Where a reader is, and what became of the stream under it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freeroam.sources.redis_entries import OLDEST, EntryId
from freeroam.sources.redis_place import Finding, Place, StreamInfo


def at(milliseconds):
    return EntryId(milliseconds, 0)


def info(first, last, added, length=None):
    """A stream with entries ``first`` to ``last``, one a millisecond unless ``length`` says otherwise."""
    there = last - first + 1 if length is None else length
    return StreamInfo(at(last), at(first) if there else None, there, added)


def read(place, *milliseconds):
    for one in milliseconds:
        place.advance(at(one))


def test_a_reader_that_keeps_up_misses_nothing():
    place = Place(OLDEST, is_new=True)
    assert place.look(info(1, 10, 10)) == Finding()
    read(place, *range(1, 11))

    assert place.look(info(1, 10, 10)) == Finding()
    read(place, 11)
    # What was read may be trimmed away; nobody missed it.
    assert place.look(info(12, 12, 12, length=0)) == Finding(missed=1)


def test_what_was_trimmed_before_the_first_look_is_not_missed():
    place = Place(OLDEST, is_new=True)

    assert place.look(info(51, 100, 100)) == Finding()
    read(place, *range(51, 101))

    assert place.look(info(51, 100, 100)) == Finding()


def test_what_was_trimmed_while_reading_is_counted_wherever_the_reader_is():
    place = Place(OLDEST, is_new=True)
    place.look(info(1, 100, 100))
    read(place, *range(1, 11))

    assert place.look(info(51, 100, 100)) == Finding(missed=40)
    read(place, *range(51, 61))
    read(place, *range(81, 101))

    assert place.look(info(81, 100, 100)) == Finding(missed=20)
    assert place.look(info(81, 100, 100)) == Finding()


def test_a_reader_that_resumes_where_nothing_is_left_says_so_once():
    place = Place(at(10), is_new=False)

    assert place.look(info(51, 100, 100)) == Finding(missed=1)
    read(place, *range(51, 101))

    assert place.look(info(51, 100, 100)) == Finding()


def test_a_stream_that_was_emptied_is_trimmed_not_recreated():
    place = Place(at(10), is_new=False)

    assert place.look(info(0, 100, 100, length=0)) == Finding(missed=1)

    assert place.cursor == at(100)


@pytest.mark.parametrize("added", [3, None])
def test_a_stream_whose_ids_begin_anew_is_read_from_its_oldest_entry(added):
    place = Place(at(1000), is_new=False)
    place.look(StreamInfo(at(1000), at(1), 1000, None if added is None else 1000))

    assert place.look(StreamInfo(at(3), at(1), 3, added)).was_recreated

    assert place.cursor == OLDEST


def test_a_stream_made_anew_with_ids_of_the_clock_goes_on_where_it_is():
    place = Place(OLDEST, is_new=True)
    place.look(info(1, 100, 100))
    read(place, *range(1, 101))
    place.look(info(1, 100, 100))

    read(place, 200, 201)
    finding = place.look(info(200, 201, 2))

    assert finding.was_recreated
    assert place.cursor == at(201)
    assert place.look(info(200, 201, 2)) == Finding()


def test_a_key_that_is_not_there_yet_begins_with_nothing_missed():
    place = Place(OLDEST, is_new=True)
    assert place.look(None) == Finding()
    read(place, 5, 6)

    assert place.look(info(5, 6, 2)) == Finding()


def test_a_start_in_the_future_is_waited_for():
    place = Place(at(10_000), is_new=True)

    place.look(info(1, 100, 100))
    assert place.look(info(1, 101, 101)) == Finding()

    assert place.cursor == at(10_000)


@given(st.lists(st.sampled_from(["add", "read", "trim", "look"]), max_size=60))
def test_every_entry_is_read_or_counted_as_missed(steps):
    place = Place(OLDEST, is_new=True)
    place.look(None)
    added, first, was_read, missed = 0, 1, 0, 0

    def look():
        nonlocal missed
        if added:
            missed += place.look(info(first, added, added, length=added - first + 1)).missed

    for step in steps:
        if step == "add":
            added += 1
        elif step == "trim" and added:
            first = min(first + 2, added + 1)
        elif step == "read":
            upcoming = max(place.cursor.milliseconds + 1, first)
            if upcoming <= added:
                read(place, upcoming)
                was_read += 1
        else:
            look()
    while max(place.cursor.milliseconds + 1, first) <= added:
        read(place, max(place.cursor.milliseconds + 1, first))
        was_read += 1
    look()

    assert was_read + missed == added
