"""Playlists as values, and which rendition is liked best."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from freeroam.sources.hls_playlist import MediaPlaylist, Variant, order_variants, parse_playlist
from freeroam.sources.http_grammar import ByteRange
from freeroam.vocabulary.errors import SourceError
from freeroam.vocabulary.frame import FrameWish

BASE = "http://example.org/a/b.m3u8?x=y"


def media(*lines, head="#EXT-X-TARGETDURATION:4"):
    parsed = parse_playlist("\n".join(["#EXTM3U", head, *lines]), BASE)
    assert isinstance(parsed, MediaPlaylist)
    return parsed


def test_segments_are_numbered_and_their_addresses_absolute():
    playlist = media("#EXT-X-MEDIA-SEQUENCE:7", "#EXTINF:4,", "1.ts", "#EXTINF:3.5,title", "/2.ts?k=v")

    assert [segment.sequence for segment in playlist.segments] == [7, 8]
    assert [segment.url for segment in playlist.segments] == [
        "http://example.org/a/1.ts",
        "http://example.org/2.ts?k=v",
    ]
    assert playlist.duration_s == 7.5
    assert not playlist.is_ended


def test_a_byte_range_without_an_offset_goes_on_in_the_same_file_only():
    playlist = media(
        "#EXTINF:4,",
        "#EXT-X-BYTERANGE:100@50",
        "a.ts",
        "#EXTINF:4,",
        "#EXT-X-BYTERANGE:30",
        "a.ts",
        "#EXTINF:4,",
        "#EXT-X-BYTERANGE:10",
        "b.ts",
    )

    ranges = [segment.byte_range for segment in playlist.segments]
    assert ranges == [ByteRange(50, 100), ByteRange(150, 30), ByteRange(0, 10)]


def test_a_key_holds_until_another_or_none():
    playlist = media(
        "#EXTINF:4,",
        "a.ts",
        '#EXT-X-KEY:METHOD=AES-128,URI="k1",IV=0x0A',
        "#EXTINF:4,",
        "b.ts",
        "#EXTINF:4,",
        "c.ts",
        "#EXT-X-KEY:METHOD=NONE",
        "#EXTINF:4,",
        "d.ts",
    )

    keys = [segment.key for segment in playlist.segments]
    assert keys[0] is keys[3] is None
    assert keys[1] == keys[2]
    assert keys[1] is not None
    assert keys[1].url == "http://example.org/a/k1"
    assert keys[1].iv == bytes(15) + b"\x0a"


def test_dates_count_on_from_segment_to_segment():
    playlist = media("#EXT-X-PROGRAM-DATE-TIME:2024-01-01T00:00:00Z", "#EXTINF:4,", "a.ts", "#EXTINF:4,", "b.ts")

    assert [segment.captured_epoch_s for segment in playlist.segments] == [1704067200.0, 1704067204.0]


@pytest.mark.parametrize("date", ["yesterday", "", "2024-13-99T00:00:00Z"])
def test_a_date_that_makes_no_sense_is_left_out(date):
    playlist = media(f"#EXT-X-PROGRAM-DATE-TIME:{date}", "#EXTINF:4,", "a.ts")

    assert playlist.segments[0].captured_epoch_s is None


def test_a_target_duration_with_a_fraction_is_read():
    assert media("#EXTINF:4,", "a.ts", head="#EXT-X-TARGETDURATION:4.2").target_s == 5.0


def test_the_target_is_never_below_the_longest_segment():
    assert media("#EXTINF:9,", "a.ts").target_s == 9.0


@given(st.text(max_size=400))
def test_no_text_fails_in_another_way_than_with_bad_data(text):
    heads = ("", "#EXTM3U\n", "#EXTM3U\n#EXT-X-STREAM-INF:", "#EXTM3U\n#EXTINF:")
    for candidate in (f"{head}{text}\na\n" for head in heads):
        code = ""
        try:
            parse_playlist(candidate, BASE)
        except SourceError as error:
            code = error.code
        assert code in {"", "bad_data", "no_video"}


def variant(width, height, bandwidth=1000, codec="avc1", url=""):
    return Variant(url or f"{width}x{height}", width, height, bandwidth, codec)


LADDER = (variant(1920, 1080), variant(1280, 720), variant(640, 360))


@pytest.mark.parametrize(
    ("box", "order"),
    [
        ((512, 512), ["640x360", "1280x720", "1920x1080"]),
        ((1000, 1000), ["1280x720", "1920x1080", "640x360"]),
        ((4000, 4000), ["1920x1080", "1280x720", "640x360"]),
        ((None, 360), ["640x360", "1280x720", "1920x1080"]),
        ((None, None), ["1920x1080", "1280x720", "640x360"]),
    ],
)
def test_renditions_that_are_enough_come_first_the_smallest_of_them_at_the_front(box, order):
    assert [one.url for one in order_variants(LADDER, FrameWish(1.0, *box))] == order


def test_among_equals_the_cheaper_codec_and_then_the_lower_bandwidth_win():
    ladder = (
        variant(640, 360, 900, "hvc1", "hevc"),
        variant(640, 360, 2000, "avc1", "rich"),
        variant(640, 360, 1000, "avc1", "poor"),
    )

    assert [one.url for one in order_variants(ladder, FrameWish(1.0, 512, 512))] == ["poor", "rich", "hevc"]


def test_a_size_that_is_not_said_is_guessed_from_the_bandwidth():
    ladder = (
        Variant("high", None, None, 6_000_000),
        Variant("low", None, None, 100_000),
        Variant("mid", None, None, 900_000),
    )

    assert [one.url for one in order_variants(ladder, FrameWish(1.0, 512, 512))] == ["mid", "high", "low"]


def test_a_segment_that_says_to_last_no_time_lasts_as_long_as_segments_do():
    playlist = media("#EXTINF:0,", "a.ts", "#EXTINF:3,", "b.ts", "#EXTINF:0.000,", "c.ts")

    assert [segment.duration_s for segment in playlist.segments] == [4.0, 3.0, 4.0]
