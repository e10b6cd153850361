"""Pictures as the RTP packets that FFmpeg's own muxer makes of them."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np

NAMES = {
    "libx264": "H264",
    "libx265": "H265",
    "libvpx": "VP8",
    "libvpx-vp9": "VP9",
    "mjpeg": "JPEG",
    "mpeg4": "MP4V-ES",
}
WIDTH, HEIGHT, FPS, COUNT = 320, 240, 25, 30


class Sink:
    """A file that keeps each write apart: FFmpeg's muxer writes a packet at a time."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self.written.append(bytes(data))
        return len(data)


def noise(number: int) -> np.ndarray:
    """A picture that needs many packets, whose brightness tells its number."""
    rough = np.random.default_rng(number).integers(0, 60, (HEIGHT, WIDTH, 3))
    return (rough + 4 * number + 20).astype(np.uint8)


def rtp_of(encoder: str, **options: str) -> tuple[bytes, list[bytes], list[int]]:
    """Encode and pack some pictures; return the description, the packets and the times in 90 kHz."""
    sink, times = Sink(), []
    output = av.open(sink, "w", "rtp", options={"packetsize": "1200"}, buffer_size=1200)
    stream = output.add_stream(encoder, rate=FPS, options={"g": "10", **options})
    stream.width, stream.height = WIDTH, HEIGHT
    stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
    stream.time_base = Fraction(1, FPS)
    # Of several slices JPEG makes restart intervals, of which FFmpeg's muxer says nothing.
    stream.codec_context.thread_count = 1
    for number in range(COUNT):
        frame = av.VideoFrame.from_ndarray(noise(number), "rgb24").reformat(format=stream.pix_fmt)
        frame.pts, frame.time_base = number, Fraction(1, FPS)
        for packet in stream.encode(frame):
            times.append(round(packet.pts * packet.time_base * 90_000))
            output.mux(packet)
    for packet in stream.encode(None):
        times.append(round(packet.pts * packet.time_base * 90_000))
        output.mux(packet)
    output.close()
    packets = [packet for packet in sink.written if not 200 <= packet[1] <= 204]
    kind = packets[0][1] & 0x7F
    name = NAMES[encoder]
    description = f"v=0\r\nm=video 0 RTP/AVP {kind}\r\na=rtpmap:{kind} {name}/90000\r\n"
    if stream.codec_context.extradata and encoder == "mpeg4":
        description += f"a=fmtp:{kind} profile-level-id=1; config={bytes(stream.codec_context.extradata).hex()}\r\n"
    return description.encode(), packets, times
