"""Small clips made when tests need them: each second has its own brightness, so a picture tells where it is from."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

FIRST_LEVEL = 40
LEVEL_STEP = 12


@dataclass(frozen=True)
class HlsClip:
    """Segments of one second each, made by FFmpeg's own HLS muxer."""

    segments: tuple[bytes, ...]
    init: bytes | None
    suffix: str
    segment_s: float = 1.0


def level_of(second: int) -> int:
    """Brightness of the pictures of that second."""
    return FIRST_LEVEL + LEVEL_STEP * (second % 16)


def second_of(pixels: bytes | memoryview) -> int:
    """The second that a picture shows, told by its brightness."""
    return round((float(np.frombuffer(pixels, dtype=np.uint8).mean()) - FIRST_LEVEL) / LEVEL_STEP)


@functools.cache
def hls_clip(
    seconds: int = 8, fps: int = 10, width: int = 160, height: int = 90, form: str = "mpegts", codec: str = "libx264"
) -> HlsClip:
    """Return a clip cut into segments of one second."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        suffix = "ts" if form == "mpegts" else "m4s"
        options = {
            "hls_time": "1",
            "hls_list_size": "0",
            "hls_playlist_type": "vod",
            "hls_segment_type": form,
            "hls_segment_filename": str(folder / f"segment%03d.{suffix}"),
            "hls_fmp4_init_filename": "init.mp4",
        }
        container = av.open(str(folder / "index.m3u8"), "w", format="hls", options=options)
        _encode(container, seconds, fps, (width, height), codec)
        segments = tuple(path.read_bytes() for path in sorted(folder.glob(f"segment*.{suffix}")))
        init = (folder / "init.mp4").read_bytes() if form != "mpegts" else None
    assert len(segments) == seconds
    return HlsClip(segments, init, suffix)


@functools.cache
def file_clip(
    seconds: int = 4, fps: int = 10, width: int = 160, height: int = 90, form: str = "mp4", flags: str = ""
) -> bytes:
    """Return a clip as one file."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"clip.{form}"
        muxers = {"mkv": "matroska", "ts": "mpegts"}
        container = av.open(str(path), "w", format=muxers.get(form, form), options={"movflags": flags} if flags else {})
        _encode(container, seconds, fps, (width, height), "libx264")
        return path.read_bytes()


@functools.cache
def picture(second: int = 0, width: int = 160, height: int = 90) -> bytes:
    """Return a JPEG picture of that second's brightness."""
    import io

    from PIL import Image

    target = io.BytesIO()
    Image.new("RGB", (width, height), (level_of(second),) * 3).save(target, "JPEG", quality=90)
    return target.getvalue()


def _encode(container: av.container.OutputContainer, seconds: int, fps: int, size: tuple[int, int], codec: str) -> None:
    with container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.gop_size = fps
        options = {"preset": "ultrafast", "tune": "zerolatency"} if codec == "libx264" else {}
        stream.options = {"g": str(fps), "keyint_min": str(fps), **options}
        for number in range(seconds * fps):
            pixels = np.full((size[1], size[0], 3), level_of(number // fps), dtype=np.uint8)
            # A bar that moves keeps the codec from dropping equal pictures.
            pixels[: size[1] // 16, : 1 + number % size[0]] += 8
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
