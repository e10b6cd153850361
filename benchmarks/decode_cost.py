"""What a live HLS stream costs in CPU, against OpenCV on the same stream in the same run.

    python scripts/make_bench_clips.py
    python benchmarks/decode_cost.py                 # the whole `freeroam serve` process tree
    python benchmarks/decode_cost.py --level pool    # decoder processes and the loop that feeds them, no HTTP

Three questions: one 1080p rendition at 2 FPS, a 1080/720/360 ladder at 2 FPS, one rendition at 0.5 FPS. The peer reads
the same address with `cv2.VideoCapture`: `grab` for every picture, `retrieve` and `resize` for the wanted ones. CPU is
user and system time of the whole process tree, a stream-second, once both have caught up with the live edge; what a
service with no job uses is in it. Frames count as delivered when the model has answered.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

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


def measure_peer(origin: LiveOrigin, fps: float, seconds: float) -> Measured:
    """Measure OpenCV in a process of its own."""
    command = [sys.executable, "-c", PEER, origin.url(0), str(fps), str(BOX)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        usage = psutil.Process(process.pid)
        begun_s, before, start = time.monotonic(), None, (0, 0)
        for line in process.stdout:
            grabbed, wanted = (int(word) for word in line.split())
            now_s = time.monotonic() - begun_s
            times = usage.cpu_times()
            if before is None and now_s >= SETTLE_S:
                before, start = times.user + times.system, (grabbed, wanted)
            if before is not None and now_s >= SETTLE_S + seconds:
                stream_s = (grabbed - start[0]) / NATIVE_FPS
                cpu_s = times.user + times.system - before
                return Measured(cpu_s / stream_s, (wanted - start[1]) / (stream_s * fps))
    finally:
        process.kill()
        process.wait()
    raise RuntimeError("OpenCV's capture ended")


def measure_service(origin: LiveOrigin, fps: float, seconds: float) -> Measured:
    """Measure the process tree of a service with one job."""
    settings = {"MODEL_TYPE": "fake", "FAKE_LATENCY_MS": "2", "FAKE_SIDE_PX": str(BOX)}
    with Service(**settings) as service:
        job = service.begin(origin.url(0), fps=fps, source={"width_px": BOX, "height_px": BOX})
        end_s = time.monotonic() + 60
        while service.status(job)["frames_processed"] == 0:
            if time.monotonic() > end_s:
                raise RuntimeError(f"no frame came: {service.status(job)}")
            time.sleep(0.1)
        time.sleep(SETTLE_S)
        frames, cost, begun_s = service.status(job)["frames_processed"], service.cost(), time.monotonic()
        time.sleep(seconds)
        status, after, ended_s = service.status(job), service.cost(), time.monotonic()
        stream_s = ended_s - begun_s
        done = status["frames_processed"] - frames
        # One frame more or less lies in the window by chance.
        return Measured((after.cpu_s - cost.cpu_s) / stream_s, min(1.0, (done + 1) / int(stream_s * fps)))


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


def main() -> None:
    """Run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40, help="measured, a subject and question")
    parser.add_argument("--level", choices=("serve", "pool"), default="serve")
    arguments = parser.parse_args()
    peers: dict[tuple[bool, float], Measured] = {}
    rows = []
    print(f"{'question':24} {'OpenCV':>8} {'ours':>8} {'ratio':>7} {'bar':>6} {'delivered':>10}")
    for question in QUESTIONS:
        with LiveOrigin(ladder=question.ladder) as origin:
            peer = measure_peer(origin, question.fps, arguments.seconds)
        peers[question.ladder, question.fps] = peer
        if arguments.level == "serve":
            with LiveOrigin(ladder=question.ladder) as origin:
                ours = measure_service(origin, question.fps, arguments.seconds)
        else:
            ours = asyncio.run(measure_pool(360 if question.ladder else 1080, question.fps, arguments.seconds))
        ratio = ours.cpu / peer.cpu
        figures = f"{peer.cpu:8.4f} {ours.cpu:8.4f} {ratio:7.3f} {question.bar:6.2f} {ours.delivered:10.1%}"
        print(f"{question.name:24} {figures}", flush=True)
        row = {"peer": peer.cpu, "ours": ours.cpu, "ratio": ratio, "bar": question.bar, "delivered": ours.delivered}
        rows.append({"question": question.name, **row})
    write_json(f"decode_cost_{arguments.level}", {"rows": rows, "seconds": arguments.seconds})


if __name__ == "__main__":
    main()
