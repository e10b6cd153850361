"""Decoder processes on real video: every sample comes, whatever the container, and nothing brings the parent down."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import random
import signal
from collections.abc import AsyncIterator

import numpy as np
import pytest
from PIL import Image

from freeroam.clock import SystemClock
from freeroam.processes.ring import PAGE_BYTES, place_of
from freeroam.processes.wire import MAX_MESSAGE_BYTES
from freeroam.sources.decoding.feed import Feed
from freeroam.sources.decoding.pool import DecoderPool
from freeroam.sources.decoding.values import DecodedFrame, DecoderConfig, FeedShape, RawShape
from freeroam.vocabulary.errors import SourceError
from freeroam.vocabulary.frame import FrameWish
from tests.numbered_clips import clip, numbered_picture, picture_bytes, read_number
from tests.waiting import until

SMALL_BYTES = -(-320 * 180 * 3 // PAGE_BYTES) * PAGE_BYTES
"""What a frame of 320x180 takes of a ring."""


@pytest.fixture
async def pool() -> AsyncIterator[DecoderPool]:
    running = DecoderPool(DecoderConfig(processes=1), SystemClock())
    await running.start()
    yield running
    await running.stop()


async def fill(feed: Feed, data: bytes, piece: int = 50_000) -> None:
    for start in range(0, len(data), piece):
        await feed.write(data[start : start + piece])
    feed.end()


async def decode(pool: DecoderPool, data: bytes, shape: FeedShape) -> tuple[list[DecodedFrame], Feed]:
    async with pool.open_feed(shape) as feed:
        writing = asyncio.create_task(fill(feed, data))
        try:
            return [frame async for frame in feed.decoded()], feed
        finally:
            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)


def numbers(frames: list[DecodedFrame]) -> list[int]:
    return [read_number(frame.pixels, frame.width_px, frame.height_px) for frame in frames]


def wish(fps: float, width: int | None = None, height: int | None = None) -> FrameWish:
    return FrameWish(fps, width, height)


@pytest.mark.parametrize(
    ("container", "data"),
    [
        pytest.param("mpegts", lambda: clip("mpegts"), id="ts"),
        pytest.param("mpegts", lambda: clip("mpegts", is_open_gop=True), id="ts-open-gop"),
        pytest.param("mpegts", lambda: clip("mpegts", codec="libx265", bframes=4), id="ts-hevc"),
        pytest.param("mpegts", lambda: clip("mpegts", bframes=0), id="ts-no-b"),
        pytest.param("mpegts", lambda: clip("mpegts", codec="mpeg2video"), id="ts-mpeg2"),
        pytest.param("mp4", lambda: clip("mp4", fragmented=True), id="fmp4"),
        pytest.param("matroska", lambda: clip("matroska"), id="mkv"),
        pytest.param("matroska", lambda: clip("matroska", codec="libvpx-vp9"), id="mkv-vp9"),
        pytest.param(None, lambda: clip("mpegts"), id="probed-ts"),
        pytest.param(None, lambda: clip("mp4", fragmented=True), id="probed-fmp4"),
        pytest.param(None, lambda: clip("avi", codec="mjpeg"), id="probed-mjpeg-avi"),
        pytest.param("h264", lambda: clip("h264", bframes=0), id="bare-h264"),
    ],
)
@pytest.mark.parametrize("lookahead", [True, False], ids=["ahead", "live"])
async def test_every_asked_sample_comes_in_order(pool, container, data, lookahead) -> None:
    for fps in (0.5, 2.0, 10.0, 25.0):
        frames, _ = await decode(pool, data(), FeedShape(wish(fps), container, lookahead=lookahead))

        times = [frame.time_s - frames[0].time_s for frame in frames]
        shown = numbers(frames)
        assert len(frames) in {round(6 * fps), round(6 * fps) + 1}
        assert times == sorted(times)
        # What is shown is what the time says: nothing was decoded without its references.
        assert [round(time * 25) for time in times] == [number - shown[0] for number in shown]
        assert all(frame.due_s <= frame.time_s + 0.03 / fps for frame in frames)
        assert all(abs(frame.time_s - frame.due_s) < 1 / fps for frame in frames[1:])


async def test_a_picture_is_fitted_into_the_wish_and_never_enlarged(pool) -> None:
    small, _ = await decode(pool, clip(), FeedShape(wish(1, 100, 100), "mpegts"))
    large, _ = await decode(pool, clip(), FeedShape(wish(1, 4000, 4000), "mpegts"))

    assert (small[0].width_px, small[0].height_px) == (100, 56)
    assert len(small[0].pixels) == 100 * 56 * 3
    assert (large[0].width_px, large[0].height_px) == (320, 180)
    assert (large[0].source_width_px, large[0].source_height_px) == (320, 180)


async def test_keyframes_are_enough_for_a_rare_question(pool) -> None:
    _, feed = await decode(pool, clip(seconds=13), FeedShape(wish(0.5), "mpegts"))

    assert feed.facts.decode == "keyframes"
    assert feed.facts.decoded_packets == 7
    assert feed.facts.packets == 325


async def test_what_nothing_refers_to_is_not_decoded(pool) -> None:
    _, feed = await decode(pool, clip(seconds=12), FeedShape(wish(2), "mpegts"))

    assert feed.facts.decode == "references"
    assert feed.facts.decoded_packets < 150


async def test_the_grid_and_the_clock_of_the_run_before_go_on(pool) -> None:
    frames, feed = await decode(pool, clip(), FeedShape(wish(1), "mpegts", starts_at_s=100.0, next_due_s=100.5))

    assert frames[0].due_s == pytest.approx(100.5)
    assert frames[0].time_s == pytest.approx(100.5, abs=0.1)
    assert feed.next_due_s == pytest.approx(106.5)


async def test_a_change_of_rate_takes_hold_in_the_middle(pool) -> None:
    data = clip(seconds=20, gop_s=1)
    async with pool.open_feed(FeedShape(wish(1), "mpegts")) as feed:
        writing = asyncio.create_task(fill(feed, data))
        times = []
        async for frame in feed.decoded():
            times.append(frame.time_s)
            if len(times) == 3:
                feed.change_wish(wish(5))
        await writing

    assert len(times) > 50
    assert times == sorted(times)


async def test_a_change_of_size_in_the_middle_is_followed(pool) -> None:
    data = clip(seconds=4) + clip(seconds=4, start_s=4, width=640, height=360)
    frames, feed = await decode(pool, data, FeedShape(wish(2, 200, 200), "mpegts"))

    sizes = {(frame.source_width_px, frame.source_height_px) for frame in frames}
    assert sizes == {(320, 180), (640, 360)}
    assert {(frame.width_px, frame.height_px) for frame in frames} == {(200, 112)}
    assert len(frames) >= 15
    assert (feed.facts.width_px, feed.facts.height_px) == (640, 360)


async def test_a_reader_that_takes_nothing_holds_the_writer_back(pool) -> None:
    config = DecoderConfig(processes=1, unread_bytes=100_000, ahead_frames=2)
    small = DecoderPool(config, SystemClock())
    await small.start()
    try:
        data = clip(seconds=40) * 3
        async with small.open_feed(FeedShape(wish(5), "mpegts")) as feed:
            writing = asyncio.create_task(fill(feed, data, 10_000))
            await until(lambda: feed.ready_frames == 2)
            await asyncio.sleep(0.3)

            assert not writing.done()
            assert feed.ready_frames == 2

            writing.cancel()
            await asyncio.gather(writing, return_exceptions=True)
    finally:
        await small.stop()


async def test_closing_ends_a_feed_that_waits_for_bytes(pool) -> None:
    async with pool.open_feed(FeedShape(wish(2), "mpegts")) as feed:
        await feed.write(clip()[:100_000])
        taking = asyncio.create_task(anext(aiter(feed.decoded())))
        await asyncio.wait_for(taking, 20)

    assert pool.open_feeds == 0
    with pytest.raises(SourceError):
        await anext(aiter(feed.decoded()))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\0" * 200_000, "bad_data"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nfile:///etc/passwd\n" * 50, "bad_data"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n" * 50, "bad_data"),
        (b"", "bad_data"),
        (bytes(random.Random(3).randbytes(500_000)), "bad_data"),
    ],
    ids=["zeros", "playlist", "concat", "nothing", "noise"],
)
async def test_what_is_no_video_is_refused_with_a_code(pool, data, code) -> None:
    with pytest.raises(SourceError) as raised:
        await decode(pool, data, FeedShape(wish(2)))

    assert raised.value.code == code


async def test_sound_alone_is_no_video(pool) -> None:
    import io

    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mpegts") as output:
        stream = output.add_stream("aac", rate=48000)
        for _ in range(100):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate = 48000
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))

    with pytest.raises(SourceError) as raised:
        await decode(pool, buffer.getvalue(), FeedShape(wish(2), "mpegts"))

    assert raised.value.code == "no_video"


@pytest.mark.parametrize("damage", ["flipped", "holes", "cut"])
@pytest.mark.parametrize("seed", range(3))
async def test_damaged_video_goes_on_at_the_next_good_keyframe(pool, damage, seed) -> None:
    data = bytearray(clip(seconds=20))
    chance = random.Random(seed)
    middle = range(len(data) // 4, len(data) // 2)
    if damage == "flipped":
        for _ in range(300):
            data[chance.choice(middle)] ^= 1 << chance.randrange(8)
    elif damage == "holes":
        for _ in range(20):
            start = chance.choice(middle)
            data[start : start + 500] = bytes(500)
    else:
        del data[middle.start : middle.start + 5_000 + seed]
    frames, _ = await decode(pool, bytes(data), FeedShape(wish(2), "mpegts"))

    assert pool.replaced == {}
    assert len(frames) >= 20
    assert frames[-1].time_s - frames[0].time_s > 18
    assert numbers(frames[-6:]) == sorted(numbers(frames[-6:]))


async def test_pictures_over_the_limit_are_refused_before_they_are_decoded() -> None:
    tight = DecoderPool(DecoderConfig(processes=1, max_pixels=100_000), SystemClock())
    await tight.start()
    try:
        with pytest.raises(SourceError) as raised:
            await decode(tight, clip(width=640, height=360), FeedShape(wish(2), "mpegts"))
        assert raised.value.code == "codec"
        assert "640x360" in raised.value.message
        assert len((await decode(tight, clip(), FeedShape(wish(2), "mpegts")))[0]) == 12
    finally:
        await tight.stop()


def announcing(data: bytes, width: int, height: int) -> bytes:
    """Return a bare H.264 stream whose parameter sets announce another size (H.264 section 7.3.2.1.1)."""

    def golomb(value: int) -> str:
        code = f"{value + 1:b}"
        return "0" * (len(code) - 1) + code

    bits = f"{66:08b}{0:08b}{51:08b}" + golomb(0) + golomb(0) + golomb(2) + golomb(1) + "0"
    bits += golomb(width // 16 - 1) + golomb(height // 16 - 1) + "1" + "1" + "0" + "0" + "1"
    bits += "0" * (-len(bits) % 8)
    unit = b"\x67" + bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits), 8))
    start = b"\0\0\0\1"
    units = data.split(start)[1:]
    return b"".join(start + (unit if part[0] & 0x1F == 7 else part) for part in units)


async def test_a_picture_of_20000_by_20000_is_refused_at_the_start_and_costs_its_run_in_the_middle(pool) -> None:
    good = clip("h264", bframes=0, seconds=4)
    huge = announcing(good, 20_000, 20_000)

    with pytest.raises(SourceError) as raised:
        await decode(pool, huge * 3, FeedShape(wish(2), "h264"))
    assert raised.value.code in {"codec", "bad_data"}

    frames = []
    with contextlib.suppress(SourceError):
        async with pool.open_feed(FeedShape(wish(2), "h264")) as feed:
            writing = asyncio.create_task(fill(feed, good + huge + good))
            frames = [frame async for frame in feed.decoded()]
            await writing

    assert len(frames) >= 8
    assert {(frame.source_width_px, frame.source_height_px) for frame in frames} == {(320, 180)}
    await until(lambda: 0 < pool.rss_bytes < 300_000_000)
    assert pool.replaced == {}


async def test_a_killed_decoder_fails_its_feeds_and_is_replaced(pool) -> None:
    async with pool.open_feed(FeedShape(wish(2), "mpegts")) as feed:
        await feed.write(clip())
        os.kill(pool.pids[0], signal.SIGKILL)
        with pytest.raises(SourceError) as raised:
            async for _ in feed.decoded():
                pass

    assert raised.value.code == "decoder"
    frames, _ = await decode(pool, clip(), FeedShape(wish(2), "mpegts"))
    assert len(frames) == 12
    assert pool.replaced == {"died": 1}


async def test_a_stopped_decoder_is_noticed_and_replaced(pool) -> None:
    async with pool.open_feed(FeedShape(wish(2), "mpegts")) as feed:
        await feed.write(clip())
        await anext(aiter(feed.decoded()))
        os.kill(pool.pids[0], signal.SIGSTOP)
        with pytest.raises(SourceError) as raised:
            async for _ in feed.decoded():
                pass

    assert raised.value.code == "decoder"
    assert len((await decode(pool, clip(), FeedShape(wish(2), "mpegts")))[0]) == 12
    assert pool.replaced == {"silent": 1}


async def test_a_feed_is_not_given_to_an_idle_decoder_that_hangs() -> None:
    patient = DecoderConfig(processes=2, silence_deadline_s=60.0, stillness_deadline_s=60.0)
    two = DecoderPool(patient, SystemClock())
    await two.start()
    try:
        async with two.open_feed(FeedShape(wish(2), "mpegts")) as feed:
            idle = next(slot for slot in two._slots if not slot.load)
            await until(lambda: idle._has_answered and not idle.is_heard)
            os.kill(idle.pid, signal.SIGSTOP)

            frames, _ = await decode(two, clip(), FeedShape(wish(2), "mpegts"))
            assert len(frames) == 12
            assert two.replaced == {}

            # Once it answers again it is used again.
            os.kill(idle.pid, signal.SIGCONT)
            await until(lambda: idle.is_heard)
            async with two.open_feed(FeedShape(wish(2), "mpegts")):
                assert idle.load == 1
            await fill(feed, clip())
            assert len([frame async for frame in feed.decoded()]) == 12
    finally:
        await two.stop()


async def test_a_video_that_ends_its_decoder_twice_is_decoded_where_it_harms_no_other(pool, monkeypatch) -> None:
    monkeypatch.setattr("freeroam.sources.decoding.pool.WARD_REST_S", 0.05)
    good, bad = FeedShape(wish(2), "mpegts", owner="good"), FeedShape(wish(2), "mpegts", owner="bad")

    async def lose(shape: FeedShape) -> int:
        async with pool.open_feed(shape) as feed:
            victim = feed._slot.pid
            os.kill(victim, signal.SIGKILL)
            with pytest.raises(SourceError):
                [None async for _ in feed.decoded()]
            return victim

    # The first two times it meets the process that all share.
    for _ in range(2):
        await until(lambda: pool.pids)
        assert await lose(bad) not in pool.pids
    await until(lambda: pool.pids)
    shared = pool.pids[0]

    # From then on its neighbours live.
    async with pool.open_feed(good) as neighbour:
        assert neighbour._slot.pid == shared
        assert await lose(bad) != shared
        assert await lose(bad) != shared
        await fill(neighbour, clip())
        assert len([None async for _ in neighbour.decoded()]) == 12

    # And what was started for it ends when it is gone, without a loss being forgotten.
    await until(lambda: not pool._ward)
    await until(lambda: pool.pids == [shared])
    assert pool.replaced == {"died": 4}


async def test_a_decoder_that_grew_fat_is_replaced() -> None:
    lean = DecoderPool(DecoderConfig(processes=1, max_rss_bytes=1), SystemClock())
    await lean.start()
    try:
        await until(lambda: lean.replaced.get("fat", 0) >= 1)
    finally:
        await lean.stop()


async def test_a_decoder_that_says_what_nobody_understands_is_replaced(pool) -> None:
    before = pool.pids
    async with pool.open_feed(FeedShape(wish(2), "mpegts")) as feed:
        feed.take = lambda message: message["a field that no message has"]
        await feed.write(clip())
        with pytest.raises(SourceError) as raised:
            async for _ in feed.decoded():
                pass

    assert raised.value.code == "decoder"
    await until(lambda: pool.pids and pool.pids != before)
    assert pool.replaced == {"garbled": 1}
    assert len((await decode(pool, clip(), FeedShape(wish(2), "mpegts")))[0]) == 12


async def test_frames_lie_in_shared_memory_and_leave_it_with_their_last_reader(pool) -> None:
    frames, _ = await decode(pool, clip(), FeedShape(wish(10, 320, 320), "mpegts"))

    assert all(place_of(frame.pixels) is not None for frame in frames)
    assert numbers(frames) == sorted(numbers(frames))
    expected = len(frames) * SMALL_BYTES
    await until(lambda: pool.frame_bytes == expected)
    del frames[1:]
    assert pool.frame_bytes == SMALL_BYTES
    frames.clear()
    assert pool.frame_bytes == 0


@pytest.mark.parametrize(
    ("ring_bytes", "shared"),
    [pytest.param(0, 0, id="none at all"), pytest.param(3 * SMALL_BYTES, 3, id="too little")],
)
async def test_frames_without_room_in_shared_memory_travel_as_bytes(pool, ring_bytes, shared) -> None:
    small = DecoderPool(DecoderConfig(processes=1, ring_bytes=ring_bytes), SystemClock())
    await small.start()
    try:
        frames, _ = await decode(small, clip(), FeedShape(wish(10, 320, 180), "mpegts"))

        usual, _ = await decode(pool, clip(), FeedShape(wish(10, 320, 180), "mpegts"))
        assert numbers(frames) == numbers(usual)
        assert sum(place_of(frame.pixels) is not None for frame in frames) == shared
        refused = small.refused_places
        assert (refused > 0) == (ring_bytes > 0)
    finally:
        await small.stop()
    assert small.refused_places == refused


async def test_a_feed_that_is_closed_in_the_middle_gives_its_places_back_once_nobody_writes_there(pool) -> None:
    kept: list[DecodedFrame] = []
    for _ in range(20):
        async with pool.open_feed(FeedShape(wish(25, 320, 180), "mpegts")) as feed:
            await feed.write(clip())
            kept.append(await anext(aiter(feed.decoded())))

    await until(lambda: pool.frame_bytes == len(kept) * SMALL_BYTES)
    # Later feeds have not written where the kept frames lie.
    assert len({read_number(frame.pixels, frame.width_px, frame.height_px) for frame in kept}) == 1


async def test_a_killed_decoder_gives_back_what_it_might_have_written_and_frames_outlive_it(pool) -> None:
    async with pool.open_feed(FeedShape(wish(2, 320, 180), "mpegts")) as feed:
        await feed.write(clip())
        frame = await anext(aiter(feed.decoded()))
        before = bytes(frame.pixels)
        await until(lambda: feed.ready_frames)
        os.kill(pool.pids[0], signal.SIGKILL)
        with pytest.raises(SourceError):
            [None async for _ in feed.decoded()]

    frames, _ = await decode(pool, clip(), FeedShape(wish(10, 320, 180), "mpegts"))
    assert bytes(frame.pixels) == before
    expected = (1 + len(frames)) * SMALL_BYTES
    await until(lambda: pool.frame_bytes == expected)


async def test_single_pictures_of_a_known_size_lie_in_shared_memory_too(pool) -> None:
    data = picture_bytes("JPEG", 320, 180, 7)
    async with pool.open_pictures(FrameWish(1.0, 320, 180)) as pictures:
        good = await pictures.decode(data)
        with pytest.raises(SourceError):
            await pictures.decode(b"no picture")
        leaving = asyncio.create_task(pictures.decode(data))
        await asyncio.sleep(0)
        leaving.cancel()
        again = await pictures.decode(data)

    assert place_of(good.pixels) is not None
    assert bytes(good.pixels) == bytes(again.pixels)
    await until(lambda: pool.frame_bytes == 2 * SMALL_BYTES)


async def test_feeds_are_spread_over_the_processes() -> None:
    two = DecoderPool(DecoderConfig(processes=2), SystemClock())
    await two.start()
    try:
        async with two.open_feed(FeedShape(wish(2))) as first, two.open_feed(FeedShape(wish(2))) as second:
            os.kill(two.pids[0], signal.SIGKILL)
            await until(lambda: first.is_over)
            assert not second.is_over
            assert len((await decode(two, clip(), FeedShape(wish(2), "mpegts")))[0]) == 12
    finally:
        await two.stop()


async def test_many_feeds_leave_nothing_behind(pool) -> None:
    import psutil

    child = psutil.Process(pool.pids[0])

    async def open_some(count: int) -> None:
        for _ in range(count):
            await decode(pool, clip(seconds=2), FeedShape(wish(2), "mpegts"))
            async with pool.open_feed(FeedShape(wish(2), "mpegts")) as left:
                await left.write(clip()[:30_000])

    await open_some(20)
    before = child.memory_info().rss
    await open_some(40)

    await until(lambda: child.num_threads() <= 3)
    assert child.memory_info().rss < before + 15_000_000
    assert pool.open_feeds == 0


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
async def test_single_pictures_are_decoded_and_scaled(pool, form) -> None:
    async with pool.open_pictures(wish(1, 200, 200)) as pictures:
        frame = await pictures.decode(picture_bytes(form, number=341))
        again = await pictures.decode(picture_bytes(form, 2000, 1000, number=682))

    assert (frame.width_px, frame.height_px, frame.source_width_px) == (200, 112, 640)
    assert (again.width_px, again.height_px, again.source_height_px) == (200, 100, 1000)
    assert numbers([frame, again]) == [341, 682]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
async def test_a_turned_picture_is_given_upright_and_so_is_its_size(pool, form) -> None:
    lying, exif = Image.fromarray(np.rot90(numbered_picture(99, 400, 200), 1)), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter to stand upright
    file = io.BytesIO()
    lying.save(file, form, exif=exif)

    async with pool.open_pictures(wish(1, 200, 200)) as pictures:
        frame = await pictures.decode(file.getvalue())

    assert (frame.width_px, frame.height_px) == (200, 100)
    assert (frame.source_width_px, frame.source_height_px) == (400, 200)
    assert numbers([frame]) == [99]


@pytest.mark.parametrize("channels", [1, 3, 4])
async def test_raw_pixels_are_scaled(pool, channels) -> None:
    rgb = numbered_picture(99, 400, 200)
    raw = {1: rgb[:, :, :1], 3: rgb, 4: np.concatenate([rgb, rgb[:, :, :1]], axis=2)}[channels]
    async with pool.open_pictures(wish(1, 200, 200)) as pictures:
        frame = await pictures.decode(raw.tobytes(), RawShape(400, 200, channels))

    pixels = np.frombuffer(frame.pixels, np.uint8).reshape(frame.height_px, frame.width_px, 3)
    assert (frame.width_px, frame.height_px) == (200, 100)
    assert np.abs(pixels[50, ::20].astype(int) - rgb[100, ::40].astype(int)).max() <= 3


@pytest.mark.parametrize(
    ("data", "raw"),
    [
        (b"", None),
        (b"hello", None),
        (picture_bytes("JPEG")[:2000], None),
        (b"\xff\xd8\xff\xe0" + b"\0" * 50, None),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (20_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0" * 9, None),
        (b"abc", RawShape(10, 10, 3)),
        (b"a" * 200, RawShape(10, 10, 2)),
        (b"a" * 12, RawShape(-2, -2, 3)),
        (b"a" * 12, RawShape(20_000, 20_000, 3)),
    ],
)
async def test_a_bad_picture_is_an_error_and_the_next_is_good(pool, data, raw) -> None:
    async with pool.open_pictures(wish(1, 200, 200)) as pictures:
        with pytest.raises(SourceError) as raised:
            await pictures.decode(data, raw)
        frame = await pictures.decode(picture_bytes("JPEG", number=7))

    assert raised.value.code == "bad_data"
    assert numbers([frame]) == [7]


async def test_a_picture_too_large_to_be_sent_is_a_bad_one(pool) -> None:
    async with pool.open_pictures(wish(1)) as pictures:
        with pytest.raises(SourceError) as raised:
            await pictures.decode(bytes(MAX_MESSAGE_BYTES))
        assert numbers([await pictures.decode(picture_bytes("JPEG", number=3))]) == [3]

    assert raised.value.code == "bad_data"


async def test_a_picture_asked_of_a_killed_decoder_fails(pool) -> None:
    async with pool.open_pictures(wish(1)) as pictures:
        os.kill(pool.pids[0], signal.SIGSTOP)
        asked = asyncio.create_task(pictures.decode(picture_bytes("PNG")))
        await asyncio.sleep(0)
        os.kill(pool.pids[0], signal.SIGKILL)
        with pytest.raises(SourceError) as raised:
            await asked

    assert raised.value.code == "decoder"
