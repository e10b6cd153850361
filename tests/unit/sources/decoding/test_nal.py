"""What headers of coded pictures tell."""

from __future__ import annotations

import pytest

from freeroam.sources.decoding.nal import PictureReader, length_size

START = b"\0\0\0\1"


def avc(*headers: int) -> bytes:
    return b"".join(START + bytes([header]) + b"\x55\x66" for header in headers)


def hevc(*kinds: tuple[int, int]) -> bytes:
    return b"".join(START + bytes([kind << 1, layer + 1]) + b"\x55" for kind, layer in kinds)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(avc(0x67, 0x68, 0x65), (True, True), id="parameter sets, then IDR"),
        pytest.param(avc(0x09, 0x41), (True, False), id="a reference"),
        pytest.param(avc(0x09, 0x06, 0x01), (False, False), id="nothing refers to it"),
        pytest.param(avc(0x09), (True, False), id="no picture in it"),
        pytest.param(b"", (True, False), id="empty"),
        pytest.param(b"\0\0\1", (True, False), id="cut off"),
    ],
)
def test_h264_pictures_say_whether_they_are_needed(data, expected) -> None:
    assert PictureReader("h264", None).read(data, is_key=False) == expected


def test_units_with_lengths_are_read_too() -> None:
    extradata = b"\x01\x64\x00\x1f\xff\xe1"
    unit = b"\x06\x01\x02"
    data = len(unit).to_bytes(4, "big") + unit + (3).to_bytes(4, "big") + b"\x01\x02\x03"

    assert length_size("h264", extradata) == 4
    assert PictureReader("h264", extradata).read(data, is_key=False) == (False, False)


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff\x01", b"\0\0\0\0" * 10, b"\0\0\0\5\x01\x02"])
def test_lengths_that_lie_do_no_harm(data) -> None:
    PictureReader("h264", b"\x01\x64\x00\x1f\xff\xe1").read(data, is_key=False)


def test_hevc_pictures_are_unneeded_only_in_the_highest_layer_and_only_once_that_is_known() -> None:
    reader = PictureReader("hevc", None)

    first = reader.read(hevc((32, 0), (19, 0)), is_key=True)
    too_early = reader.read(hevc((0, 0)), is_key=False)
    reader.read(hevc((2, 1)), is_key=False)
    reader.read(hevc((19, 0)), is_key=True)

    assert first == (True, True)
    assert too_early == (True, False)
    assert reader.read(hevc((0, 0)), is_key=False) == (True, False)
    assert reader.read(hevc((2, 1)), is_key=False) == (False, False)
    assert reader.read(hevc((21, 0)), is_key=True) == (True, False)


def test_of_other_codecs_the_demuxer_is_believed() -> None:
    reader = PictureReader("vp9", None)

    assert reader.read(b"abc", is_key=True) == (True, True)
    assert reader.read(b"abc", is_key=False) == (True, False)
