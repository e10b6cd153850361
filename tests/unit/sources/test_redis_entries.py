"""What an entry says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freeroam.sources.decoding.values import RawShape
from freeroam.sources.redis_entries import GREATEST_SEQUENCE, OLDEST, BadEntry, EntryId, parse_entry, parse_start
from freeroam.vocabulary.errors import InvalidInput

PLACE = EntryId(1_700_000_000_250, 3)
JPEG = b"\xff\xd8\xff\xe0rest"


def parse(**fields):
    flat = [text for name, value in fields.items() for text in (name.encode(), value)]
    return parse_entry(PLACE, flat, max_pixels=1000)


def test_ids_are_read_compared_and_written():
    assert EntryId.parse("5") == EntryId(5, 0)
    assert EntryId.parse(b"5-7") == EntryId(5, 7)
    assert EntryId(5, 7) < EntryId(6, 0) < EntryId(10, 0)
    assert str(PLACE) == "1700000000250-3"
    for text in ("", "a", "1-", "-1", "1-2-3", "1 ", f"{2**64}-0", "$", "1.5"):
        assert EntryId.parse(text) is None


def test_reading_from_an_id_on_begins_with_it():
    assert parse_start("oldest") == OLDEST
    assert parse_start("newest") is None
    assert parse_start("7-2") == EntryId(7, 1)
    assert parse_start("7") == EntryId(6, GREATEST_SEQUENCE)
    assert parse_start("0-0") == OLDEST
    with pytest.raises(InvalidInput):
        parse_start("tomorrow")


def test_the_id_is_the_time_unless_a_timestamp_is():
    assert parse(frame=JPEG).time_s == 1_700_000_000.25
    assert parse(frame=JPEG, timestamp=b"12.5").time_s == 12.5


@pytest.mark.parametrize("timestamp", [b"", b"nan", b"inf", b"today", b"12:30"])
def test_a_timestamp_that_is_none_makes_the_entry_bad(timestamp):
    with pytest.raises(BadEntry) as caught:
        parse(frame=JPEG, timestamp=timestamp)
    assert caught.value.reason == "bad_timestamp"


@pytest.mark.parametrize(
    ("value", "ends"), [(b"1", True), (b"true", True), (b"0", False), (b"", False), (b"False", False)]
)
def test_eof_ends_the_stream_when_it_is_set(value, ends):
    assert parse(frame=JPEG, eof=value).ends is ends


@pytest.mark.parametrize("more", [{}, {"frame": b""}])
def test_a_last_entry_needs_no_picture(more):
    entry = parse(eof=b"1", **more)
    assert entry.ends
    assert entry.picture is None


def test_a_file_with_its_size_told_is_a_file():
    assert parse(frame=JPEG, width=b"640", height=b"480").raw is None


def test_raw_pixels_have_three_channels_of_uint8_unless_told():
    assert parse(frame=b"123456", width=b"2", height=b"1").raw == RawShape(2, 1, 3)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "no_picture"),
        ({"frame": b""}, "no_picture"),
        ({"frame": b"GIF89a"}, "bad_picture"),
        ({"frame": b"123", "width": b"x", "height": b"1"}, "bad_shape"),
        ({"frame": b"123", "width": b"-1", "height": b"-1"}, "bad_shape"),
        ({"frame": b"123", "width": b"1", "height": b"1", "channels": b"2"}, "bad_shape"),
        ({"frame": b"123", "width": b"100000", "height": b"100000"}, "too_large"),
        ({"frame": b"123", "width": b"1", "height": b"1", "dtype": b"float32"}, "bad_dtype"),
        ({"frame": b"12", "width": b"1", "height": b"1"}, "bad_length"),
    ],
)
def test_what_is_no_picture_is_named(fields, reason):
    with pytest.raises(BadEntry) as caught:
        parse(**fields)
    assert caught.value.reason == reason
    assert not caught.value.ends


@pytest.mark.parametrize("fields", [{"frame": b"GIF89a"}, {"frame": JPEG, "timestamp": b"today"}])
def test_a_bad_entry_ends_the_stream_too_if_it_says_so(fields):
    with pytest.raises(BadEntry) as caught:
        parse(**fields, eof=b"1")
    assert caught.value.ends


def test_an_entry_deleted_while_it_was_read_is_bad():
    with pytest.raises(BadEntry):
        parse_entry(PLACE, None, 1000)


NAMES = st.sampled_from([b"frame", b"image", b"timestamp", b"eof", b"width", b"height", b"channels", b"dtype"])


@given(
    st.lists(st.tuples(NAMES, st.binary(max_size=12) | st.integers(-5, 70).map(lambda n: str(n).encode())), max_size=9)
)
def test_any_fields_are_understood_or_bad(pairs):
    flat = [text for pair in pairs for text in pair]
    try:
        entry = parse_entry(PLACE, flat, 1000)
    except BadEntry:
        return
    if entry.raw is not None:
        assert len(entry.picture) == entry.raw.width_px * entry.raw.height_px * entry.raw.channels
