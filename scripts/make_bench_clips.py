"""Make the clips that the decoding benchmarks use: ``python scripts/make_bench_clips.py`` (needs the extra ``bench``).

Natural pictures, panned, zoomed and held by hand, 40 s at 25 frames a second, H.264 with B-frames and a keyframe every
two seconds, as HLS with transport stream segments of four seconds: 1080p at 4 Mbit/s, 720p at 1.8 and 360p at 0.6, and
a master playlist over the three. The encoder is the libx264 of PyAV's wheels, so no FFmpeg is needed.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import av
import cv2
from moving_pictures import Look, Picture, View, collage, frames, load_picture, tile

FPS = 25
LENGTH_S = 40
GOP_S = 2
SEGMENT_S = 4
LADDER = ((1920, 1080, 4_000_000), (1280, 720, 1_800_000), (640, 360, 600_000))


def film() -> tuple[Picture, list[View]]:
    """Return the collage and the camera's way over it."""
    names = (
        ("astronaut.png", "chelsea.png", "coffee.png"),
        ("motorcycle_left.png", "rocket.jpg", "hubble_deep_field.jpg"),
    )
    canvas = collage([[tile(load_picture(name), 1280, 960) for name in row] for row in names])
    stops = [(640, 480), (1920, 480), (3200, 480), (3000, 1440), (1920, 1440), (640, 1440), (1500, 900), (640, 480)]
    step_s = LENGTH_S / (len(stops) - 1)
    return canvas, [View(index * step_s, x, y, 1700 if index % 2 else 1250) for index, (x, y) in enumerate(stops)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "benchmarks" / "clips")
    parser.add_argument("--preset", default="medium", help="of libx264")
    parser.add_argument("--shake", type=float, default=12.0, help="of the hand that holds the camera, in pixels")
    parser.add_argument("--grain", type=float, default=0.0, help="noise of the sensor, in grey levels")
    arguments = parser.parse_args()
    started_s = time.monotonic()
    outputs = []
    for width, height, bitrate in LADDER:
        folder = arguments.out / f"{height}p"
        folder.mkdir(parents=True, exist_ok=True)
        options = {
            "hls_time": str(SEGMENT_S),
            "hls_list_size": "0",
            "hls_playlist_type": "vod",
            "hls_segment_filename": str(folder / "segment%03d.ts"),
        }
        container = av.open(str(folder / "index.m3u8"), "w", format="hls", options=options)
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = width, height, "yuv420p", bitrate
        stream.codec_context.options = {
            "preset": arguments.preset,
            "x264-params": f"keyint={FPS * GOP_S}:min-keyint={FPS * GOP_S}:scenecut=0:bframes=3:open-gop=0"
            f":vbv-maxrate={bitrate // 1000}:vbv-bufsize={bitrate // 500}",
        }
        outputs.append((container, stream, width, height))
    canvas, views = film()
    look = Look(1920, 1080, FPS, arguments.shake, arguments.grain)
    for number, picture in enumerate(frames(canvas, views, look)):
        for container, stream, width, height in outputs:
            small = picture if width == 1920 else cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
            frame = av.VideoFrame.from_ndarray(small, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        if number % FPS == 0:
            print(f"\r{number // FPS} of {LENGTH_S} s", end="", file=sys.stderr, flush=True)
    for container, stream, _, _ in outputs:
        container.mux(stream.encode(None))
        container.close()
    lines = ["#EXTM3U", "#EXT-X-VERSION:3"]
    for width, height, bitrate in LADDER:
        lines += [f"#EXT-X-STREAM-INF:BANDWIDTH={bitrate},RESOLUTION={width}x{height}", f"{height}p/index.m3u8"]
    (arguments.out / "master.m3u8").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"\nmade {arguments.out} in {time.monotonic() - started_s:.0f} s")


if __name__ == "__main__":
    main()
