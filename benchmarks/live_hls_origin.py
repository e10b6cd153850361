"""A live HLS origin on loopback, in a process of its own: the benchmark clips, looped, revealed in real time.

    python benchmarks/live_hls_origin.py --streams 4 --ladder --port 9000

Stream ``n`` is ``/<n>.m3u8``: with ``--ladder`` a master playlist over all clips, else the media playlist of one clip.
The playlist is a window of five segments that slides as a real one does; where the clip begins again there is a
discontinuity. Streams are out of step with each other, so that their segments do not all appear at once.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import urllib.error
import urllib.request
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socket import socket
from types import TracebackType
from typing import Any

CLIPS = Path(__file__).parent / "clips"
HEIGHTS = (1080, 720, 360)
BITRATES = {1080: 4_000_000, 720: 1_800_000, 360: 600_000}
SIZES = {1080: "1920x1080", 720: "1280x720", 360: "640x360"}
WINDOW = 5
READY_S = 30.0


class LiveOrigin:
    """The origin as a child process, for ``with``.

    Args:
        streams: How many streams there are.
        ladder: Whether each is a master playlist over 1080p, 720p and 360p.
        height: The one rendition without a ladder.
        seconds_in: How far the first stream is into its clip when the origin starts.
    """

    def __init__(self, streams: int = 1, *, ladder: bool = False, height: int = 1080, seconds_in: float = 20.0) -> None:
        with socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._arguments = ["--streams", str(streams), "--height", str(height), "--port", str(self.port)]
        self._arguments += ["--seconds-in", str(seconds_in), *(["--ladder"] if ladder else [])]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> LiveOrigin:
        self._process = subprocess.Popen([sys.executable, __file__, *self._arguments])
        end_s = time.monotonic() + READY_S
        while time.monotonic() < end_s:
            try:
                with urllib.request.urlopen(self.url(0), timeout=1):
                    return self
            except urllib.error.HTTPError as error:
                self.__exit__(None, None, None)
                raise RuntimeError("there are no clips; run scripts/make_bench_clips.py first") from error
            except OSError:
                time.sleep(0.05)
        self.__exit__(None, None, None)
        raise RuntimeError("the origin did not start")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)

    def url(self, stream: int) -> str:
        """Return the address of a stream."""
        return f"http://127.0.0.1:{self.port}/{stream}.m3u8"


@cache
def segments_of(height: int) -> tuple[tuple[str, float], ...]:
    """Return names and lengths in seconds of a clip's segments."""
    lines = (CLIPS / f"{height}p" / "index.m3u8").read_text(encoding="utf-8").splitlines()
    lengths = [float(line.removeprefix("#EXTINF:").rstrip(",")) for line in lines if line.startswith("#EXTINF:")]
    names = [line for line in lines if line and not line.startswith("#")]
    return tuple(zip(names, lengths, strict=True))


@cache
def segment_bytes(height: int, name: str) -> bytes:
    """Return a segment."""
    return (CLIPS / f"{height}p" / name).read_bytes()


def media_playlist(stream: int, height: int, age_s: float) -> str:
    """Return the window of a stream that has run for ``age_s``."""
    segments = segments_of(height)
    loop_s = sum(length for _, length in segments)
    loops, inside_s = divmod(age_s, loop_s)
    complete = int(loops) * len(segments)
    for _, length in segments:
        if inside_s < length:
            break
        inside_s -= length
        complete += 1
    first = max(0, complete - WINDOW)
    lines = [
        "#EXTM3U",
        "#EXT-X-VERSION:3",
        f"#EXT-X-TARGETDURATION:{round(max(length for _, length in segments))}",
        f"#EXT-X-MEDIA-SEQUENCE:{first}",
        # A discontinuity that has left the window is counted, one at its head is not yet.
        f"#EXT-X-DISCONTINUITY-SEQUENCE:{max(0, (first - 1) // len(segments))}",
    ]
    for number in range(first, complete):
        name, length = segments[number % len(segments)]
        if number and number % len(segments) == 0:
            lines.append("#EXT-X-DISCONTINUITY")
        lines += [f"#EXTINF:{length:.6f},", f"/{stream}/{height}p/{number}/{name}"]
    return "\n".join(lines) + "\n"


def master_playlist(stream: int) -> str:
    """Return the ladder of a stream."""
    lines = ["#EXTM3U", "#EXT-X-VERSION:3"]
    for height in HEIGHTS:
        lines += [
            f"#EXT-X-STREAM-INF:BANDWIDTH={BITRATES[height]},RESOLUTION={SIZES[height]}",
            f"/{stream}/{height}p.m3u8",
        ]
    return "\n".join(lines) + "\n"


def make_handler(arguments: argparse.Namespace) -> type[BaseHTTPRequestHandler]:
    """Return what answers requests."""
    born_s = time.monotonic() - arguments.seconds_in

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            try:
                found = self.find(self.path.strip("/").split("/"))
            except (ValueError, OSError, KeyError):
                found = None
            if found is None:
                self.send_error(404)
                return
            body, kind = found
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def find(self, parts: list[str]) -> tuple[bytes, str] | None:
            stream = int(parts[0].removesuffix(".m3u8"))
            if not 0 <= stream < arguments.streams:
                return None
            # The golden section spreads the streams evenly over the clip, however many there are.
            age_s = time.monotonic() - born_s + (stream * 0.618 % 1.0) * sum(length for _, length in segments_of(360))
            playlist = "application/vnd.apple.mpegurl"
            if len(parts) == 1 and arguments.ladder:
                return master_playlist(stream).encode(), playlist
            if len(parts) == 1:
                return media_playlist(stream, arguments.height, age_s).encode(), playlist
            height = int(parts[1].removesuffix(".m3u8").removesuffix("p"))
            if height not in HEIGHTS:
                return None
            if len(parts) == 2:
                return media_playlist(stream, height, age_s).encode(), playlist
            if parts[3] not in {name for name, _ in segments_of(height)}:
                return None
            return segment_bytes(height, parts[3]), "video/mp2t"

        def log_message(self, *_: object) -> None:
            pass

    return Answer


class Server(ThreadingHTTPServer):
    """A thread a connection; readers that go away are no news."""

    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--ladder", action="store_true")
    parser.add_argument("--height", type=int, default=1080, choices=HEIGHTS)
    parser.add_argument("--port", type=int, default=9000)
    parser.add_argument("--seconds-in", type=float, default=20.0)
    arguments = parser.parse_args()
    server = Server(("127.0.0.1", arguments.port), make_handler(arguments))
    server.serve_forever()


if __name__ == "__main__":
    main()
