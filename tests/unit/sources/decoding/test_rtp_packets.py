"""Pictures are put together from RTP packets as FFmpeg's own muxer packs them, and from what is odd or broken."""

from __future__ import annotations

import io
import itertools

import av
import numpy as np
import pytest

from freeroam.sources.decoding.rtp_packets import CodedPicture, PictureAssembler
from freeroam.vocabulary.errors import SourceError
from freeroam.vocabulary.errors import SourceErrorCode as Code
from tests.rtp_clips import COUNT, FPS, HEIGHT, WIDTH, noise, rtp_of


def assembled(description: bytes, packets: list[bytes]) -> tuple[PictureAssembler, list[CodedPicture]]:
    assembler = PictureAssembler(description)
    return assembler, [picture for packet in packets for picture in assembler.push(packet)]


def decoded(assembler: PictureAssembler, pictures: list[CodedPicture]) -> list[av.VideoFrame]:
    context = av.CodecContext.create(assembler.codec, "r")
    if assembler.extradata:
        context.extradata = assembler.extradata
    frames = []
    for picture in pictures:
        packet = av.Packet(picture.data)
        packet.pts = picture.time
        frames += context.decode(packet)
    return frames + context.decode(None)


@pytest.mark.parametrize(
    ("encoder", "options"),
    [
        ("libx264", {"tune": "zerolatency"}),
        ("libx264", {"bf": "2", "x264-params": "b-adapt=0:sync-lookahead=0"}),
        ("libx265", {"x265-params": "log-level=none:keyint=10:bframes=0"}),
        ("libvpx", {"deadline": "realtime", "auto-alt-ref": "0"}),
        ("mjpeg", {"huffman": "default"}),
        ("mpeg4", {}),
    ],
    ids=["h264", "h264 with B-frames", "h265", "vp8", "mjpeg", "mpeg4"],
)
def test_every_picture_comes_whole_and_at_its_time(encoder, options) -> None:
    # Given pictures of several packets each
    description, packets, times = rtp_of(encoder, **options)
    assert len(packets) > 2 * COUNT

    assembler, pictures = assembled(description, packets)

    # Then each is one picture, at its time, and all decode to what was encoded
    first = int.from_bytes(packets[0][4:8], "big")
    assert [picture.time for picture in pictures] == [first + time - times[0] for time in times]
    assert assembler.broken == 0
    frames = decoded(assembler, pictures)
    assert len(frames) == COUNT
    brightness = [frame.to_ndarray(format="rgb24").mean() for frame in frames]
    assert brightness == pytest.approx([noise(number).mean() for number in range(COUNT)], abs=6)

    # And decoding can begin with those that say so
    keys = [number for number, picture in enumerate(pictures) if picture.is_key]
    assert keys[0] == 0
    for key in keys[1:2]:
        assert decoded(assembler, pictures[key:])


def test_much_more_than_a_receiver_report_is_written_after_goes_through() -> None:
    # Given more bytes than after which FFmpeg's own demuxer never returned
    description, packets, _ = rtp_of("mjpeg", huffman="default")
    assembler, begun = PictureAssembler(description), 0
    for number in itertools.count():
        packet = bytearray(packets[number % len(packets)])
        packet[2:4] = (number & 0xFFFF).to_bytes(2, "big")
        begun += len(packet)
        assembler.push(bytes(packet))
        if begun > 3_000_000:
            break

    assert assembler.broken == 0


@pytest.mark.parametrize("encoder", ["libx264", "libvpx", "mjpeg"])
def test_a_picture_with_a_hole_is_counted_and_the_others_come(encoder) -> None:
    options = {"libx264": {"tune": "zerolatency"}, "mjpeg": {"huffman": "default"}}
    description, packets, _ = rtp_of(encoder, **options.get(encoder, {}))
    ends = [number for number, packet in enumerate(packets) if packet[1] & 0x80]
    hole = ends[4] + 2  # within the sixth picture

    assembler, pictures = assembled(description, packets[:hole] + packets[hole + 1 :])

    assert assembler.broken == 1
    assert len(pictures) in {COUNT, COUNT - 1}


def test_time_goes_on_when_stamps_wrap_around_and_packets_that_are_none_are_passed_over() -> None:
    description, packets, times = rtp_of("libx264", tune="zerolatency")
    first = int.from_bytes(packets[0][4:8], "big")
    wrapped = []
    for packet in packets:
        stamp = (int.from_bytes(packet[4:8], "big") - first - 4000) % 2**32
        wrapped += [b"", b"\x80", packet[:4] + stamp.to_bytes(4, "big") + packet[8:], bytes(40)]

    _, pictures = assembled(description, wrapped)

    assert [picture.time for picture in pictures] == [2**32 - 4000 + time - times[0] for time in times]


@pytest.mark.parametrize("extra", ["sources", "extension", "padding"])
def test_what_stands_round_a_payload_is_left_out(extra) -> None:
    description, packets, _ = rtp_of("libx264", tune="zerolatency")
    plain = assembled(description, packets)[1]

    def dressed(packet: bytes) -> bytes:
        head, payload = packet[:12], packet[12:]
        if extra == "sources":
            return bytes([head[0] | 2]) + head[1:] + bytes(8) + payload
        if extra == "extension":
            return bytes([head[0] | 0x10]) + head[1:] + b"\xbe\xde\0\1" + bytes(4) + payload
        return bytes([head[0] | 0x20]) + head[1:] + payload + b"\0\0\3"

    assert assembled(description, [dressed(packet) for packet in packets])[1] == plain


def test_parameter_sets_that_are_marked_like_a_picture_go_with_the_picture_after_them() -> None:
    # Given a camera that marks each of its parameter sets as the end of a picture, with a time of its own
    assembler = PictureAssembler(b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n")
    units = [b"\x67\x42\0\x1f", b"\x68\xce\x38\x80", b"\x65\x88\x80", b"\x41\x9a\x10"]

    pictures = [
        picture
        for number, unit in enumerate(units)
        for picture in assembler.push(bytes([0x80, 0xE0, 0, number, 0, 0, number, 0]) + bytes(4) + unit)
    ]

    assert [picture.is_key for picture in pictures] == [True, False]
    assert pictures[0].data == b"".join(b"\0\0\0\1" + unit for unit in units[:3])


def test_parameter_sets_of_the_description_come_before_the_first_picture() -> None:
    sets = b"Z0IAH5WoFAFuQA==,aM48gA==,no base64"
    description = (
        b"v=0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
        b"a=fmtp:96 packetization-mode=1; sprop-parameter-sets=" + sets + b";profile-level-id=42\r\n"
    )

    extradata = PictureAssembler(description).extradata

    assert extradata.count(b"\0\0\0\1") == 2
    assert extradata[4] & 0x1F == 7


@pytest.mark.parametrize(
    "description", [b"", b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 THEORA/90000\r\n", b"m=video 0 RTP/AVP 31\r\n"]
)
def test_what_cannot_be_unpacked_is_said(description) -> None:
    with pytest.raises(SourceError, match="cannot be unpacked from RTP; H264") as raised:
        PictureAssembler(description)

    assert raised.value.source_code is Code.CODEC


@pytest.mark.parametrize("name", ["H264", "H265", "VP8", "VP9", "JPEG", "MP4V-ES"])
def test_garbage_breaks_nothing(name) -> None:
    assembler = PictureAssembler(f"m=video 0 RTP/AVP 96\r\na=rtpmap:96 {name}/90000\r\n".encode())
    random = np.random.default_rng(7)

    for number in range(4000):
        noise_bytes = random.integers(0, 256, int(random.integers(0, 60)), np.uint8).tobytes()
        head = bytes(
            [0x80 | int(random.integers(0, 64)), 96 | 0x80 * (number % 3 == 0), number >> 8 & 255, number & 255]
        )
        for picture in assembler.push(head + bytes(8) + noise_bytes):
            assert isinstance(picture.data, bytes)


def test_a_vp9_key_frame_is_told_by_its_header() -> None:
    assembler = PictureAssembler(b"m=video 0 RTP/AVP 96\r\na=rtpmap:96 VP9/90000\r\n")
    buffer = io.BytesIO()
    output = av.open(buffer, "w", "ivf")
    stream = output.add_stream("libvpx-vp9", rate=FPS, options={"deadline": "realtime", "g": "5", "lag-in-frames": "0"})
    stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    told = []
    for number in range(8):
        frame = av.VideoFrame.from_ndarray(noise(number), "rgb24")
        for packet in stream.encode(frame):
            # One packet a picture behind the shortest descriptor: it begins and ends here.
            head = bytes([0x80, 0x80 | 96]) + len(told).to_bytes(2, "big") + (3600 * len(told)).to_bytes(4, "big")
            pictures = assembler.push(head + bytes(4) + b"\x0c" + bytes(packet))
            told.append((packet.is_keyframe, [(one.is_key, one.data == bytes(packet)) for one in pictures]))

    assert [keys for keys, _ in told].count(True) >= 1
    assert all(pictures == [(is_key, True)] for is_key, pictures in told)
