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


@functools.cache
def huge_segment(side: int = 20_000) -> bytes:
    """Return a transport stream whose H.264 headers announce pictures of ``side`` by ``side`` pixels."""
    import io

    target = io.BytesIO()
    with av.open(target, "w", format="mpegts") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "g": "10", "bf": "0"}
        packets = []
        for number in range(10):
            frame = av.VideoFrame.from_ndarray(np.full((96, 160, 3), 9 * number, dtype=np.uint8), format="rgb24")
            frame.pts = number
            packets += stream.encode(frame)
        packets += stream.encode(None)
        for packet in packets:
            altered = av.Packet(_with_size(bytes(packet), side))
            altered.pts, altered.dts, altered.time_base = packet.pts, packet.dts, packet.time_base
            altered.stream = stream
            altered.is_keyframe = packet.is_keyframe
            container.mux(altered)
    return target.getvalue()


def _with_size(data: bytes, side: int) -> bytes:
    """Replace the sequence parameter set of an Annex B packet."""
    nals = [nal for nal in data.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if nal]
    return b"".join(b"\0\0\0\1" + (_sps(side) if nal[0] & 31 == 7 else nal) for nal in nals)


def _sps(side: int) -> bytes:
    def golomb(value: int) -> str:
        bits = f"{value + 1:b}"
        return "0" * (len(bits) - 1) + bits

    blocks = side // 16 - 1
    # Baseline, level 6.2: identifier 0, frame numbers of 4 bits, picture order 2, one reference, no crop, no VUI.
    bits = "010000101100000000111110" + golomb(0) + golomb(0) + golomb(2) + golomb(1) + "0"
    bits += golomb(blocks) + golomb(blocks) + "1" + "1" + "0" + "0" + "1"
    bits += "0" * (-len(bits) % 8)
    return b"\x67" + int(bits, 2).to_bytes(len(bits) // 8, "big")
