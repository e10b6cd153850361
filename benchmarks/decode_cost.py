"""What a live HLS stream costs in CPU, against OpenCV on the same stream in the same run.

    python scripts/make_bench_clips.py
    python benchmarks/decode_cost.py                 # the whole `freeroam serve` process tree
    python benchmarks/decode_cost.py --level pool    # decoder processes and the loop that feeds them, no HTTP

Three questions: one 1080p rendition at 2 FPS, a 1080/720/360 ladder at 2 FPS, one rendition at 0.5 FPS. The peer reads
the same address with `cv2.VideoCapture`: `grab` for every picture, `retrieve` and `resize` for the wanted ones. CPU is
user and system time of the whole process tree, a stream-second, once both have caught up with the live edge; the tree
serves `--streams` streams and its cost is shared by them, what a service with no job uses included. They take turns, so
that neither disturbs the other. The ratio is to OpenCV at 2 FPS on one 1080p rendition (= 1.00); OpenCV on each
question's own stream and rate stands beside it. Frames count as delivered when the model has answered.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.live_hls_origin import LiveOrigin, segment_bytes, segments_of
from benchmarks.service import Service, write_json

BOX = 512
NATIVE_FPS = 25
SETTLE_S = 12.0

PEER = """
import sys, time, cv2
url, fps, box = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
capture = cv2.VideoCapture(url, cv2.CAP_FFMPEG)
grabbed = wanted = 0
told = time.monotonic()
while capture.grab():
    if grabbed * fps // 25 != (grabbed - 1) * fps // 25:
        done, picture = capture.retrieve()
        height, width = picture.shape[:2]
        scale = min(1.0, box / max(height, width))
        cv2.resize(picture, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
        wanted += 1
    grabbed += 1
    if time.monotonic() - told > 0.2:
        told = time.monotonic()
        print(grabbed, wanted, flush=True)
"""


@dataclass(frozen=True, slots=True)
class Question:
    """One row of the table."""

    name: str
    ladder: bool
    fps: float
    bar: float


QUESTIONS = (
    Question("one rendition, 2 FPS", ladder=False, fps=2.0, bar=0.60),
    Question("ladder, 2 FPS", ladder=True, fps=2.0, bar=0.12),
    Question("one rendition, 0.5 FPS", ladder=False, fps=0.5, bar=0.12),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """CPU seconds a stream-second, and which share of the asked frames came."""

    cpu: float
    delivered: float


class Peer:
    """OpenCV's capture in a process of its own, for ``with``."""

    def __init__(self, url: str, fps: float) -> None:
        self._fps = fps
        self._command = [sys.executable, "-c", PEER, url, str(fps), str(BOX)]
        self._process: subprocess.Popen[str] | None = None
        self._told = (0, 0)

    def __enter__(self) -> Peer:
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1
        )
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def now(self) -> tuple[float, int, int]:
        """Return CPU seconds, pictures grabbed and pictures retrieved so far."""
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError("OpenCV's capture ended")
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system, *self._told

    def between(self, before: tuple[float, int, int], after: tuple[float, int, int]) -> Measured:
        """Return what the time between two moments cost."""
        stream_s = (after[1] - before[1]) / NATIVE_FPS
        return Measured((after[0] - before[0]) / stream_s, (after[2] - before[2]) / (stream_s * self._fps))

    def _listen(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            grabbed, wanted = line.split()
            self._told = (int(grabbed), int(wanted))


def measure_peer(question: Question, seconds: float) -> Measured:
    """Measure OpenCV on the live stream."""
    with LiveOrigin(ladder=question.ladder) as origin, Peer(origin.url(0), question.fps) as peer:
        time.sleep(SETTLE_S)
        before = peer.now()
        time.sleep(seconds)
        return peer.between(before, peer.now())


def measure_service(question: Question, seconds: float, streams: int) -> Measured:
    """Measure the process tree of a service with a job on each of ``streams`` live streams; CPU a stream."""
    settings = {"MODEL_TYPE": "fake", "MAX_CONCURRENT_STREAMS": str(streams)}
    with LiveOrigin(streams=streams, ladder=question.ladder) as origin, Service(**settings) as service:
        box = {"width_px": BOX, "height_px": BOX}
        jobs = [service.begin(origin.url(number), fps=question.fps, source=box) for number in range(streams)]
        end_s = time.monotonic() + 60
        while any(service.status(job)["frames_processed"] == 0 for job in jobs):
            if time.monotonic() > end_s:
                raise RuntimeError(f"no frame came: {[service.status(job) for job in jobs]}")
            time.sleep(0.1)
        time.sleep(SETTLE_S)
        frames, before, begun_s = answered(service, jobs), service.cost(), time.monotonic()
        time.sleep(seconds)
        done, after, stream_s = answered(service, jobs) - frames, service.cost(), time.monotonic() - begun_s
    # One frame more or less of each stream lies in the window by chance.
    asked = int(stream_s * question.fps) * streams
    return Measured((after.cpu_s - before.cpu_s) / stream_s / streams, min(1.0, (done + streams) / asked))


def answered(service: Service, jobs: list[str]) -> int:
    """Return how many frames the model has answered."""
    return sum(service.status(job)["frames_processed"] for job in jobs)


def measure_decoders(question: Question, seconds: float) -> Measured:
    """Measure decoders alone on the clip that the service would choose."""
    return asyncio.run(measure_pool(360 if question.ladder else 1080, question.fps, seconds))


async def measure_pool(height: int, fps: float, seconds: float) -> Measured:
    """Measure a decoder pool and the loop that feeds it a clip in real time, segment by segment."""
    from freeroam.clock import SystemClock
    from freeroam.sources.decoding.pacing import Pacer
    from freeroam.sources.decoding.pool import DecoderPool
    from freeroam.sources.decoding.values import DecoderConfig, FeedShape
    from freeroam.vocabulary.frame import FrameWish

    clock, pool = SystemClock(), DecoderPool(DecoderConfig(processes=1), SystemClock())
    await pool.start()
    segments = [(segment_bytes(height, name), length) for name, length in segments_of(height)]
    seconds = min(seconds, sum(length for _, length in segments))

    async def write(feed) -> None:
        for data, length in segments:
            await feed.write(data)
            await clock.sleep(length)
        feed.end()

    try:
        await clock.sleep(1.0)
        child = psutil.Process(pool.pids[0])
        before, own, frames = child.cpu_times(), time.process_time(), 0
        async with pool.open_feed(FeedShape(FrameWish(fps, BOX, BOX), "mpegts")) as feed:
            writing, pacer = asyncio.create_task(write(feed)), Pacer(delay_s=5.0)
            async for frame in feed.decoded():
                await clock.sleep(pacer.due_monotonic_s(frame.time_s, clock.monotonic_s()) - clock.monotonic_s())
                frames += 1
            await writing
        after = child.cpu_times()
        cpu_s = after.user + after.system - before.user - before.system + time.process_time() - own
        length_s = sum(length for _, length in segments)
        return Measured(cpu_s / length_s, frames / (length_s * fps))
    finally:
        await pool.stop()


def mean(measured: Iterable[Measured]) -> Measured:
    """Return the mean CPU, and the worst delivery."""
    several = list(measured)
    return Measured(sum(one.cpu for one in several) / len(several), min(one.delivered for one in several))


def main() -> None:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40, help="measured, a subject and question")
    parser.add_argument("--rounds", type=int, default=2, help="peer and ours in turn, averaged")
    parser.add_argument("--streams", type=int, default=4, help="streams that one service serves")
    parser.add_argument("--level", choices=("serve", "pool"), default="serve")
    arguments = parser.parse_args()
    on_service = arguments.level == "serve"
    measure = partial(measure_service, streams=arguments.streams) if on_service else measure_decoders
    rows: list[dict[str, Any]] = []
    print(f"{'question':24} {'OpenCV':>8} {'ours':>8} {'ratio':>7} {'bar':>6} {'own ratio':>10} {'delivered':>10}")
    for question in QUESTIONS:
        pairs = [
            (measure_peer(question, arguments.seconds), measure(question, arguments.seconds))
            for _ in range(arguments.rounds)
        ]
        peer, ours = (mean(measured) for measured in zip(*pairs, strict=True))
        one = rows[0]["peer"] if rows else peer.cpu
        ratio, own = ours.cpu / one, ours.cpu / peer.cpu
        figures = f"{peer.cpu:8.4f} {ours.cpu:8.4f} {ratio:7.3f} {question.bar:6.2f} {own:10.3f} {ours.delivered:10.1%}"
        print(f"{question.name:24} {figures}", flush=True)
        row = {"peer": peer.cpu, "ours": ours.cpu, "ratio": ratio, "own_ratio": own, "bar": question.bar}
        rows.append({"question": question.name, **row, "delivered": ours.delivered})
    write_json(f"decode_cost_{arguments.level}", {"rows": rows, **vars(arguments)})


if __name__ == "__main__":
    main()
