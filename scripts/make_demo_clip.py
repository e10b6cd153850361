"""Make the clip behind ``demo:``: ``python scripts/make_demo_clip.py`` (needs the extra ``bench``).

A camera pans and zooms over four photographs that come with scikit-image, so that the detector has things to find: a
person, a cat and a cup (and a rocket, which it does not know). scikit-image's motorcycle is left out, because nothing
there says that it is free. H.264 with B-frames and a keyframe every two seconds, as a transport stream. The
encoder is the libx264 of PyAV's wheels; on one version of it the result is the same to the byte. ``--check`` puts the
shipped detector on what was made and prints what it finds.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

import av
import cv2
import numpy as np
from moving_pictures import Look, Picture, View, collage, frames, load_picture, tile

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "src" / "freeroam" / "sources" / "data" / "demo.ts"
MODEL = ROOT / "src" / "freeroam" / "models" / "data" / "coco80-centernet" / "model.onnx"
WIDTH, HEIGHT, FPS, GOP_S = 640, 360, 25, 2
TILE_W, TILE_H = 960, 540
PICTURES = (("astronaut.png", "chelsea.png"), ("rocket.jpg", "coffee.png"))
FOUND_CLASSES = {0: "person", 15: "cat", 41: "cup"}
CHECK_SIDE, CHECK_SCORE = 320, 0.3


def film() -> tuple[Picture, list[View]]:
    """Return the collage and the camera's way over it."""
    canvas = collage([[tile(load_picture(name), TILE_W, TILE_H) for name in row] for row in PICTURES])
    person, cat, cup, middle = (480, 270), (1440, 270), (1440, 810), (960, 540)
    stops = [
        (0, person, 1000),
        (4, person, 820),
        (6, cat, 1000),
        (10, cat, 880),
        (12, cup, 1000),
        (16, cup, 880),
        (19, middle, 1880),
        (21, middle, 1880),
        (24, person, 1000),
    ]
    return canvas, [View(time_s, x, y, width) for time_s, (x, y), width in stops]


def encode(path: Path, bitrate: int) -> None:
    """Write the film to ``path``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas, views = film()
    with av.open(str(path), "w", format="mpegts", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = WIDTH, HEIGHT, "yuv420p", bitrate
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {
            "preset": "slow",
            "x264-params": f"keyint={FPS * GOP_S}:min-keyint={FPS * GOP_S}:scenecut=0:bframes=2:open-gop=0",
        }
        for number, picture in enumerate(frames(canvas, views, Look(WIDTH, HEIGHT, FPS))):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    print(f"{path}: {path.stat().st_size} bytes")


def check(path: Path, model: Path) -> None:
    """Print in how many of two frames a second the detector finds something, and what."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    seen: Counter[str] = Counter()
    asked = found = 0
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number % (FPS // 2):
                continue
            picture = frame.to_ndarray(format="rgb24")
            scale = CHECK_SIDE / max(picture.shape[:2])
            small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            square = np.full((CHECK_SIDE, CHECK_SIDE, 3), 114, np.uint8)
            square[: small.shape[0], : small.shape[1]] = small
            heat = session.run(["heat"], {"images": square.transpose(2, 0, 1)[None].astype(np.float32)})[0][0]
            scores = heat.reshape(heat.shape[0], -1).max(axis=1)
            names = [name for index, name in FOUND_CLASSES.items() if scores[index] >= CHECK_SCORE]
            seen.update(names or ["nothing of these"])
            asked += 1
            found += bool(names)
    print(f"found something in {found} of {asked} frames: {dict(seen)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--bitrate", type=int, default=600_000)
    parser.add_argument("--check", action="store_true", help="run the detector on it")
    parser.add_argument("--model", type=Path, default=MODEL)
    arguments = parser.parse_args()
    encode(arguments.out, arguments.bitrate)
    if arguments.check:
        check(arguments.out, arguments.model)


if __name__ == "__main__":
    main()
