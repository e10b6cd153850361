"""No picture of an RTSP session is lost for want of a decoder, nor is its end."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal

import pytest

from freeroam.clock import SystemClock
from freeroam.security.dialing import Dialer
from freeroam.security.url_policy import UrlPolicy
from freeroam.sources.decoding.pool import DecoderPool
from freeroam.sources.decoding.values import DecoderConfig
from freeroam.sources.rtsp import RtspSources
from freeroam.sources.source import SourceRequest
from freeroam.vocabulary.errors import SourceError, SourceErrorCode
from freeroam.vocabulary.frame import Frame, FrameWish
from tests.rtp_clips import COUNT, FPS, rtp_of
from tests.servers_rtsp import ScriptedRtsp, camera, response
from tests.taking import Taking
from tests.waiting import until

CLOCK = SystemClock()
TICKS = 90_000 // FPS
ONE_GROUP = {"g": "60", "sc_threshold": "0"}
OPTIONS = {
    "libx264": {"tune": "zerolatency", **ONE_GROUP},
    "libx265": {"x265-params": "log-level=none:keyint=60:scenecut=0:bframes=0"},
    "libvpx": {"deadline": "realtime", "auto-alt-ref": "0", **ONE_GROUP},
    "mjpeg": {"huffman": "default"},
    "mpeg4": {"g": "60", "sc_threshold": "1000000000"},
}


@pytest.fixture
async def pool():
    pool = DecoderPool(DecoderConfig(processes=1), CLOCK)
    await pool.start()
    yield pool
    await pool.stop()


class Camera(ScriptedRtsp):
    """Sends its packets with the answer to PLAY.

    Args:
        encoder: Of its pictures, of which only the first is a keyframe unless ``options`` say otherwise.
        closes: Whether it hangs up behind them.
        first: How many pictures come at once; the others come when the test says.
    """

    def __init__(self, encoder: str, *, closes: bool = False, first: int = COUNT, **options: str) -> None:
        self._description, packets, _ = rtp_of(encoder, **{**OPTIONS[encoder], **options})
        self._pictures: list[list[bytes]] = [[]]
        for packet in packets:
            self._pictures[-1].append(packet)
            if packet[1] & 0x80:
                self._pictures.append([])
        # Its stamps wrap around within the pictures that come first.
        self._base = (2**32 - TICKS * first // 2) - int.from_bytes(packets[0][4:8], "big")
        self._first = first
        self._closes = closes
        super().__init__(self._reply)

    def _reply(self, method: str, headers: dict[str, str]) -> bytes:
        if method == "DESCRIBE":
            body = self._description + b"a=control:track1\r\n"
            return response("200 OK", headers, body, Content_Type="application/sdp")
        if method == "PLAY":
            if self._closes:
                asyncio.get_running_loop().call_soon(self.hang_up)
            return camera(method, headers) + self._video(self._pictures[: self._first], 0)
        return camera(method, headers)

    def go_on(self, after_s: int) -> None:
        """Send the other pictures, stamped as if so many seconds had passed in between."""
        for writer in self._writers:
            writer.write(self._video(self._pictures[self._first :], after_s * 90_000))

    def _video(self, pictures: list[list[bytes]], later: int) -> bytes:
        video = b""
        for packet in itertools.chain.from_iterable(pictures):
            stamp = (int.from_bytes(packet[4:8], "big") + self._base + later) % 2**32
            stamped = packet[:4] + stamp.to_bytes(4, "big") + packet[8:]
            video += b"$\0" + len(stamped).to_bytes(2, "big") + stamped
        return video

    def hang_up(self) -> None:
        for writer in self._writers:
            writer.close()


async def drain(stream, frames: list[Frame]) -> None:
    async for frame in stream:
        frames.append(frame)


def opened(pool: DecoderPool, url: str, fps: float):
    sources = RtspSources(Dialer(UrlPolicy(("127.0.0.0/8",))), pool, CLOCK)
    return sources(SourceRequest(url, FrameWish(fps, 160, 120)))


@pytest.mark.parametrize("closes", [False, True], ids=["goes on", "hangs up"])
@pytest.mark.parametrize("encoder", OPTIONS)
async def test_a_video_that_comes_before_a_decoder_is_taken_begins_with_its_first_picture(
    pool, encoder, closes
) -> None:
    # Given decoders that are all being replaced when a camera sends its one keyframe
    taking = Taking(pool)
    async with Camera(encoder, closes=closes) as server, asyncio.timeout(60):
        source = opened(pool, server.url(), FPS)
        async with contextlib.aclosing(source.frames()) as stream:
            first = asyncio.ensure_future(anext(stream))
            await taking.begun.wait()
            if closes:
                await until(lambda: server.open_connections == 0)

            taking.let_go()
            frames = [await first]

            # Then every picture comes but the last, whose end only the next one tells where nothing marks it
            while len(frames) < COUNT - 2:
                frames.append(await anext(stream))
            if closes:
                with pytest.raises(SourceError) as caught:
                    [None async for _ in stream]
                assert caught.value.source_code is SourceErrorCode.ENDED

    assert frames[0].array().mean() == pytest.approx(20 + 30, abs=8)
    steps = [after.sample_time_s - before.sample_time_s for before, after in itertools.pairwise(frames)]
    assert steps == pytest.approx([1.0 / FPS] * (COUNT - 3), abs=0.001)


async def test_a_session_that_ends_while_its_decoder_is_replaced_gives_its_last_pictures_and_ends(pool) -> None:
    taking = Taking(pool)
    taking.let_go()
    async with Camera("libx264") as server, asyncio.timeout(60):
        source = opened(pool, server.url(), FPS)
        frames = []
        async with contextlib.aclosing(source.frames()) as stream:
            frames.append(await anext(stream))

            # When the decoder is lost, and the camera hangs up before there is another
            taking.hold()
            os.kill(pool.pids[0], signal.SIGKILL)
            following = asyncio.ensure_future(anext(stream))
            while not taking.begun.is_set():
                await asyncio.wait({following}, timeout=0.02)
                if following.done():
                    frames.append(following.result())
                    following = asyncio.ensure_future(anext(stream))
            server.hang_up()
            await until(lambda: not any(task.get_name() == "read rtsp" for task in asyncio.all_tasks()))
            taking.let_go()

            frames.append(await following)
            with pytest.raises(SourceError) as caught:
                await drain(stream, frames)

    assert caught.value.source_code is SourceErrorCode.ENDED
    assert source.facts.skipped == {"decoders_lost": 1}
    steps = [after.sample_time_s - before.sample_time_s for before, after in itertools.pairwise(frames)]
    assert steps == pytest.approx([1.0 / FPS] * (COUNT - 1), abs=0.001)


@pytest.mark.parametrize("break_s", [0, 500])
@pytest.mark.parametrize(
    ("encoder", "options", "begins_with"),
    [
        pytest.param("libx264", {"g": "10"}, 15, id="h264"),
        pytest.param("libx265", {"x265-params": "log-level=none:keyint=10:scenecut=0:bframes=0"}, 15, id="h265"),
        pytest.param("mjpeg", {}, 15, id="mjpeg"),
        pytest.param("libvpx", {"g": "10"}, 20, id="vp8"),
        pytest.param("mpeg4", {"g": "10"}, 20, id="mpeg4"),
    ],
)
async def test_time_goes_on_with_the_cameras_clock_when_a_decoder_is_replaced(
    pool, encoder, options, begins_with, break_s
) -> None:
    # Given a camera whose first pictures are given, and whose decoder is then lost
    async with Camera(encoder, first=15, **options) as server, asyncio.timeout(60):
        source = opened(pool, server.url(), FPS)
        async with contextlib.aclosing(source.frames()) as stream:
            frames = [await anext(stream) for _ in range(15)]
            os.kill(pool.pids[0], signal.SIGKILL)
            following = asyncio.ensure_future(anext(stream))
            await until(lambda: pool.replaced and pool.open_feeds == 1)

            # When more pictures come, by the camera's clock so much later
            server.go_on(break_s)
            frames.append(await following)
            while len(frames) < 15 + COUNT - begins_with - 1:
                frames.append(await anext(stream))

    # Then each has the camera's time, from the first that can be decoded on
    numbers = [*range(15), *range(begins_with, COUNT - 1)]
    passed = [frame.stream_time_s - frames[0].stream_time_s for frame in frames]
    assert passed == pytest.approx([number / FPS + (break_s if number >= 15 else 0) for number in numbers], abs=0.001)
    assert source.facts.skipped == {"decoders_lost": 1}
