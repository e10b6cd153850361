"""A group of pictures is found by the headers of its packets, whichever way its first picture is packed."""

from __future__ import annotations

import pytest

from freeroam.sources.rtp_groups import GroupFinder

SDP_H264 = b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
SDP_HEVC = b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H265/90000\r\n"
SDP_JPEG = b"v=0\r\nm=video 0 RTP/AVP 26\r\na=rtpmap:26 JPEG/90000\r\n"


def record(payload: bytes, time: int = 0, *, sources: int = 0, extension_words: int | None = None) -> bytes:
    """One RTP packet behind its length."""
    first = 0x80 | sources | (0x10 if extension_words is not None else 0)
    header = bytes([first, 96]) + bytes(2) + time.to_bytes(4, "big") + bytes(4) + bytes(4 * sources)
    if extension_words is not None:
        header += b"\xbe\xde" + extension_words.to_bytes(2, "big") + bytes(4 * extension_words)
    packet = header + payload
    return len(packet).to_bytes(2, "big") + packet


H264_P = bytes([0x41, 0, 0, 0])
H264_IDR = bytes([0x65, 0, 0, 0])
H264_SPS = bytes([0x67, 0, 0, 0])
HEVC_P = bytes([1 << 1, 1, 0, 0])
HEVC_IDR = bytes([19 << 1, 1, 0, 0])


@pytest.mark.parametrize(
    ("description", "payload"),
    [
        pytest.param(SDP_H264, H264_IDR, id="h264 IDR"),
        pytest.param(SDP_H264, H264_SPS, id="h264 parameter set"),
        pytest.param(SDP_H264, bytes([0x7C, 0x85, 0, 0]), id="h264 first fragment of an IDR"),
        pytest.param(SDP_H264, bytes([0x78, 0, 4]) + H264_SPS, id="h264 aggregate"),
        pytest.param(SDP_HEVC, HEVC_IDR, id="hevc IDR"),
        pytest.param(SDP_HEVC, bytes([21 << 1, 1, 0, 0]), id="hevc CRA"),
        pytest.param(SDP_HEVC, bytes([32 << 1, 1, 0, 0]), id="hevc parameter set"),
        pytest.param(SDP_HEVC, bytes([49 << 1, 1, 0x80 | 19, 0]), id="hevc first fragment of an IDR"),
        pytest.param(SDP_HEVC, bytes([48 << 1, 1, 0, 4]) + bytes([32 << 1, 1, 0, 0]), id="hevc aggregate"),
    ],
)
@pytest.mark.parametrize(
    "header", [{}, {"sources": 3}, {"extension_words": 0}, {"sources": 1, "extension_words": 2}], ids=str
)
def test_a_group_begins_with_what_decoding_can_begin_with(description, payload, header) -> None:
    other = HEVC_P if description is SDP_HEVC else H264_P
    before = record(other, 1, **header)

    assert GroupFinder(description).last_start(before + record(payload, 2, **header)) == len(before)
    assert GroupFinder(description).last_start(before) is None


@pytest.mark.parametrize(
    ("description", "payload"),
    [
        pytest.param(SDP_H264, bytes([0x7C, 0x05, 0, 0]), id="h264 later fragment"),
        pytest.param(SDP_H264, bytes([0x7C, 0x81, 0, 0]), id="h264 first fragment of another picture"),
        pytest.param(SDP_HEVC, bytes([49 << 1, 1, 19, 0]), id="hevc later fragment"),
        pytest.param(SDP_JPEG, H264_IDR, id="another codec"),
        pytest.param(b"", H264_IDR, id="no description"),
    ],
)
def test_nothing_else_begins_a_group(description, payload) -> None:
    assert GroupFinder(description).last_start(record(payload, 2)) is None


def test_a_group_begins_once_with_its_parameter_sets_and_not_again_with_its_slices() -> None:
    finder = GroupFinder(SDP_H264)

    assert finder.last_start(record(H264_SPS, 5)) == 0
    assert finder.last_start(record(H264_IDR, 5) + record(H264_IDR, 5)) is None
    assert finder.last_start(record(H264_P, 6) + record(H264_IDR, 7) + record(H264_SPS, 8)) == 2 * len(record(H264_P))


@pytest.mark.parametrize("cut", range(40))
def test_packets_that_were_cut_or_lie_about_their_length_break_nothing(cut) -> None:
    records = record(H264_P, 1, extension_words=1) + record(H264_IDR, 2, sources=15)

    GroupFinder(SDP_H264).last_start(records[: len(records) - cut])
    GroupFinder(SDP_HEVC).last_start(b"\x00\x00" + records + b"\xff\xff" + records)
    GroupFinder(SDP_H264).last_start(bytes([cut]) * 50)
