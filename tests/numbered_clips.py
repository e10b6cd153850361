"""Small videos for tests, made by the encoders of PyAV's wheels; each picture carries its own number."""

from __future__ import annotations

import io
from functools import cache

import av
import numpy as np

BITS = 10
WIDTH, HEIGHT = 320, 180


def numbered_picture(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """Return RGB ``[h, w, 3]`` whose columns, black or white, spell ``number`` in binary, most significant first."""
    bits = [(number >> place) & 1 for place in reversed(range(BITS))]
    row = np.repeat(np.array(bits, np.uint8) * 200 + 20, -(-width // BITS))[:width]
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def read_number(pixels: bytes | memoryview, width: int, height: int) -> int:
    """Return the number that a picture, of any size, carries."""
    middle = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)[height // 2, :, 1]
    number = 0
    for place in range(BITS):
        at = int((place + 0.5) * width / BITS)
        number = number * 2 + int(middle[at] > 120)
    return number


@cache
def clip(
    container: str = "mpegts",
    *,
    seconds: float = 6.0,
    fps: int = 25,
    gop_s: float = 2.0,
    bframes: int = 3,
    codec: str = "libx264",
    width: int = WIDTH,
    height: int = HEIGHT,
    first: int = 0,
    start_s: float = 0.0,
    is_open_gop: bool = False,
    fragmented: bool = False,
    params: str = "",
) -> bytes:
    """Return a video whose frame n, counted from ``first``, shows ``first + n``."""
    buffer = io.BytesIO()
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"} if fragmented else {}
    with av.open(buffer, "w", format=container, options=options) as output:
        stream = output.add_stream(codec, rate=fps)
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        gop = round(gop_s * fps)
        if codec in {"libx264", "libx265"}:
            name = "x264-params" if codec == "libx264" else "x265-params"
            keys = f"keyint={gop}:min-keyint={gop}:scenecut=0:bframes={bframes}:open-gop={int(is_open_gop)}"
            quiet = ":log-level=none" if codec == "libx265" else ""
            stream.codec_context.options = {"preset": "veryfast", "crf": "23", name: keys + quiet + params}
        else:
            stream.codec_context.gop_size = gop
            stream.bit_rate = 800_000
        stream.codec_context.thread_count = 1
        for number in range(round(seconds * fps)):
            frame = av.VideoFrame.from_ndarray(numbered_picture(first + number, width, height), format="rgb24")
            frame.pts = number + round(start_s * fps)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()


def picture_bytes(form: str, width: int = 640, height: int = 360, number: int = 5) -> bytes:
    """Return a ``JPEG``, ``PNG`` or ``WEBP`` file with a numbered picture."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(numbered_picture(number, width, height)).save(buffer, form)
    return buffer.getvalue()
