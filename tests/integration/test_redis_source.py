"""The Redis source against a real server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket

import pytest

from freeroam.clock import SystemClock
from freeroam.security.dialing import Dialer
from freeroam.security.url_policy import UrlPolicy
from freeroam.sources.decoding.pool import DecoderPool
from freeroam.sources.decoding.values import DecoderConfig
from freeroam.sources.reconnecting import ReconnectingSource, SourceConfig
from freeroam.sources.redis_stream import RedisConfig, RedisSources
from freeroam.sources.source import SourceRequest
from freeroam.vocabulary.errors import ForbiddenReference, SourceError, SourceErrorCode
from freeroam.vocabulary.frame import FrameWish
from freeroam.vocabulary.job import SourceOptions
from tests.servers_redis import RedisServer, jpeg
from tests.waiting import until

CLOCK = SystemClock()


@pytest.fixture
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture
async def pool():
    pool = DecoderPool(DecoderConfig(processes=1), CLOCK)
    await pool.start()
    yield pool
    await pool.stop()


def sources(server, pool, **config):
    dialer = Dialer(UrlPolicy(("127.0.0.0/8",)))
    return RedisSources(RedisConfig(url=server.url, **config), dialer, pool, CLOCK)


def request(key="frames", fps=30.0, **more):
    return SourceRequest(key, FrameWish(fps, 32, 32), waits=True, **more)


async def take(source, count=None, limit_s=30.0):
    """The first ``count`` frames of ``source``, or all until its end."""
    frames = []
    async with asyncio.timeout(limit_s), contextlib.aclosing(source.frames()) as stream:
        async for frame in stream:
            frames.append(frame)
            if len(frames) == count:
                break
    return frames


def ids(frames):
    return [frame.frame_id for frame in frames]


async def test_entries_come_in_order_sampled_by_their_own_time(server, pool):
    for number in range(40):
        server.add("frames", f"{1_700_000_000_000 + number * 100}-0", frame=jpeg())
    server.add("frames", eof=1)

    frames = await take(sources(server, pool)(request(fps=2.0)))

    assert ids(frames) == [f"{1_700_000_000_000 + number * 500}-0" for number in range(8)]
    assert [frame.sample_time_s - 1_700_000_000 for frame in frames] == [number * 0.5 for number in range(8)]
    assert (frames[0].width_px, frames[0].height_px) == (32, 24)
    assert (frames[0].source_width_px, frames[0].source_height_px) == (64, 48)
    assert frames[0].array()[0, 0, 0] > 150
    assert frames[0].captured_epoch_s == 1_700_000_000


@pytest.mark.parametrize("name", ["frame", "image", "data"])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
async def test_every_form_of_picture_is_read(server, pool, name, form):
    server.add("frames", **{name: jpeg(form=form)}, timestamp="12.5")
    server.add("frames", eof="true")

    frames = await take(sources(server, pool)(request()))

    assert [frame.stream_time_s for frame in frames] == [12.5]
    assert frames[0].array()[5, 5, 0] > 150


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("width_px", "height_px"), [(20, 10), (200, 100)], ids=["as it is", "scaled"])
async def test_raw_pixels_are_read(server, pool, channels, width_px, height_px):
    pixels = bytes([200, 30, 60, 255][:channels]) * (width_px * height_px)
    server.add("frames", frame=pixels, width=width_px, height=height_px, channels=channels, dtype="uint8")
    server.add("frames", eof=1)

    (frame,) = await take(sources(server, pool)(request()))

    expected = [200, 30, 60] if channels > 1 else [200] * 3
    assert [int(value) for value in frame.array()[3, 3]] == expected
    assert frame.width_px == min(32, width_px)
    assert frame.source_width_px == width_px


async def test_bad_entries_are_counted_named_and_passed_over(server, pool):
    good = jpeg()
    server.add("frames", "1000-0", frame=good)
    server.add("frames", "2000-0", nothing="here")
    server.add("frames", "3000-0", frame=b"\xff\xd8\xff" + os.urandom(200))
    server.add("frames", "4000-0", frame=b"not a picture")
    server.add("frames", "5000-0", frame=b"123", width=1, height=1, channels=2)
    server.add("frames", "6000-0", frame=b"12", width=1, height=1, channels=3)
    server.add("frames", "7000-0", frame=b"1234", width=1, height=1, channels=4, dtype="float32")
    server.add("frames", "8000-0", frame=good, timestamp="yesterday")
    server.add("frames", "9000-0", frame=b"", width=100_000, height=100_000)
    server.add("frames", "10000-0", frame=good, timestamp=10.0)
    server.add("frames", "11000-0", frame=b"not a picture", eof=1)
    source = sources(server, pool)(request())

    frames = await take(source)

    assert ids(frames) == ["1000-0", "10000-0"]
    assert sum(source.facts.skipped.values()) == 9
    assert source.facts.last_bad.startswith(("11000-0", "3000-0"))


async def test_reading_begins_where_the_job_says(server, pool):
    made = [server.add("frames", f"{number}000-0", frame=jpeg()) for number in range(1, 6)]

    async def first(start):
        task = asyncio.create_task(take(sources(server, pool)(request(options=SourceOptions(start=start))), 1))
        await asyncio.sleep(0)
        return task

    assert ids(await (await first("oldest"))) == [made[0]]
    assert ids(await (await first("3000-0"))) == [made[2]]
    assert ids(await (await first("3500"))) == [made[3]]
    newest = await first("newest")
    await until(lambda: any("xread" in client["cmd"] for client in server.client.client_list()))
    later = server.add("frames", "9000-0", frame=jpeg())
    assert ids(await newest) == [later]


async def test_a_missing_key_is_waited_for(server, pool):
    source = sources(server, pool)(request())
    task = asyncio.create_task(take(source, 1))
    await until(lambda: any("xread" in client["cmd"] for client in server.client.client_list()))

    entry_id = server.add("frames", frame=jpeg())

    assert ids(await task) == [entry_id]
    assert source.facts.may_be_quiet


@pytest.mark.parametrize("cut", [1, 7, 33, 60, 98])
async def test_after_a_break_the_same_entries_are_sampled_as_without_one(server, pool, cut):
    for number in range(100):
        entry_id = f"{1_700_000_000_000 + number * 77}-0"
        if number % 9 == 4:
            server.add("frames", entry_id, frame=b"bad")
        else:
            server.add("frames", entry_id, frame=jpeg())
    server.add("frames", eof=1)
    make = sources(server, pool)
    whole = await take(make(request(fps=6.0)))
    cut = min(cut, len(whole) - 1)

    begun = await take(make(request(fps=6.0)), cut)
    last = begun[-1]
    wanted = request(fps=6.0, resume_after=last.frame_id, resume_due_s=last.sample_time_s + 1 / 6.0)
    rest = await take(make(wanted))

    assert ids(begun + rest) == ids(whole)
    assert [frame.sample_time_s for frame in begun + rest] == [frame.sample_time_s for frame in whole]


async def test_a_recreated_stream_is_noticed(server, pool):
    for number in range(1, 4):
        server.add("frames", f"{number * 1000}-0", frame=jpeg())
    source = sources(server, pool)(request())
    task = asyncio.create_task(take(source, 5))
    await until(lambda: any("xread" in client["cmd"] for client in server.client.client_list()))

    server.client.delete("frames")
    server.add("frames", "5-0", frame=jpeg())
    server.add("frames", "600-0", frame=jpeg())

    assert ids(await task) == ["1000-0", "2000-0", "3000-0", "5-0", "600-0"]
    assert source.facts.skipped == {"stream_recreated": 1}


async def test_a_trimmed_stream_is_noticed(server, pool):
    for number in range(1, 101):
        server.add("frames", f"{number * 1000}-0", frame=jpeg())
    server.client.xtrim("frames", maxlen=20, approximate=False)
    server.add("frames", eof=1)
    make = sources(server, pool)

    resumed = make(request(resume_after="10000-0", resume_due_s=10.0))
    frames = await take(resumed)
    from_start = make(request())
    await take(from_start)

    assert ids(frames)[0] == "81000-0"
    assert resumed.facts.skipped == {"trimmed": 1}
    assert from_start.facts.skipped == {}


async def test_a_slow_reader_counts_what_was_trimmed_before_it_came(server, pool):
    picture = os.urandom(3 * 1024 * 1024)
    for number in range(1, 31):
        server.add("frames", f"{number * 1000}-0", frame=picture, width=1024, height=1024, channels=3)
    source = sources(server, pool)(request())
    stream = source.frames()
    seen = [(await anext(stream)).frame_id]

    server.client.xtrim("frames", maxlen=1, approximate=False)
    server.add("frames", "90000-0", eof=1)
    seen += [frame.frame_id async for frame in stream]

    # Whatever was in hand already is given; the rest went away unread, and is counted.
    assert seen[-1] == "30000-0"
    assert len(seen) < 30
    assert source.facts.skipped == {"trimmed": 30 - len(seen)}


async def test_two_thousand_entries_go_through_quickly(server, pool):
    picture = jpeg()
    pipe = server.client.pipeline()
    for number in range(2000):
        pipe.xadd("frames", {"frame": picture}, id=f"{1_700_000_000_000 + number * 100}-0")
    pipe.xadd("frames", {"eof": 1})
    pipe.execute()

    frames = await take(sources(server, pool)(request(fps=10.0)), limit_s=60.0)

    assert len(frames) == 2000
    assert len(set(ids(frames))) == 2000


async def test_a_redis_that_restarts_in_between_loses_and_doubles_nothing(server, pool):
    for number in range(50):
        server.add("frames", f"{1_700_000_000_000 + number * 100}-0", frame=jpeg())
    make = sources(server, pool)
    source = ReconnectingSource(make, request(fps=10.0), SourceConfig(first_pause_s=0.05), CLOCK)
    stream = source.frames()
    seen = [(await anext(stream)).frame_id for _ in range(50)]

    server.kill()
    await asyncio.sleep(0)
    waiting = asyncio.ensure_future(anext(stream))
    await until(lambda: source.status.reconnects >= 2)
    assert source.status.last_error in ("refused", "unavailable")
    server.start()
    for number in range(50, 60):
        server.add("frames", f"{1_700_000_000_000 + number * 100}-0", frame=jpeg())
    seen.append((await waiting).frame_id)
    seen += [(await anext(stream)).frame_id for _ in range(9)]
    await stream.aclose()

    assert seen == [f"{1_700_000_000_000 + number * 100}-0" for number in range(60)]


async def test_a_redis_that_hangs_times_out(server, pool):
    server.add("frames", frame=jpeg())
    stream = sources(server, pool, read_timeout_s=0.3)(request()).frames()
    await anext(stream)

    server.freeze()
    try:
        with pytest.raises(SourceError) as caught:
            await anext(stream)
    finally:
        server.thaw()

    assert caught.value.source_code is SourceErrorCode.TIMEOUT


async def test_a_lost_decoder_costs_no_entry(server, pool):
    for number in range(300):
        server.add("frames", f"{1_700_000_000_000 + number * 100}-0", frame=jpeg(640, 480))
    server.add("frames", eof=1)
    source = sources(server, pool)(request(fps=10.0))
    seen = []

    async for frame in source.frames():
        seen.append(frame.frame_id)
        if len(seen) in (20, 200):
            os.kill(pool.pids[0], signal.SIGKILL)

    assert len(seen) == len(set(seen)) == 300
    assert source.facts.skipped == {}


async def test_a_wrong_type_of_key_is_no_video(server, pool):
    server.client.lpush("frames", "a")

    with pytest.raises(SourceError, match="no Redis stream") as caught:
        await take(sources(server, pool)(request()), 1)

    assert caught.value.source_code is SourceErrorCode.NO_VIDEO


async def test_a_database_that_is_not_there_is_not_found(server, pool):
    with pytest.raises(SourceError) as caught:
        await take(sources(server, pool)(request(f"redis://127.0.0.1:{server.port}/999/frames")), 1)

    assert caught.value.source_code is SourceErrorCode.NOT_FOUND


async def test_a_reference_names_another_server_and_key(server, pool):
    server.client.select(0)
    entry_id = server.add("cam:1/left", frame=jpeg())

    frames = await take(sources(server, pool)(request(f"redis://127.0.0.1:{server.port}/0/cam:1/left")), 1)

    assert ids(frames) == [entry_id]


async def test_a_password_is_asked_for_and_never_shown(pool):
    with RedisServer(password="hunter2") as server:
        entry_id = server.add("frames", frame=jpeg())
        make = sources(server, pool)
        assert ids(await take(make(request()), 1)) == [entry_id]

        for login in ("", ":wrong-hunter3@", "me:wrong-hunter3@"):
            with pytest.raises(SourceError) as caught:
                await take(make(request(f"redis://{login}127.0.0.1:{server.port}/0/frames")), 1)
            assert caught.value.source_code is SourceErrorCode.AUTH
            assert "hunter" not in caught.value.message


async def test_a_reference_to_a_private_address_is_refused_before_anything_is_dialled(pool):
    dialer = Dialer(UrlPolicy())
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.settimeout(0)
        port = canary.getsockname()[1]
        make = RedisSources(RedisConfig(), dialer, pool, CLOCK)
        with pytest.raises(ForbiddenReference):
            make(request(f"redis://127.0.0.1:{port}/0/frames"))
        with pytest.raises(ForbiddenReference):
            make(request(f"redis://localhost:{port}/0/frames"))
        with pytest.raises(BlockingIOError):
            canary.accept()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\n\r\n", b"$99999999999\r\n", b"*2\r\n", b"\x00" * 70000, b""])
async def test_a_server_that_is_no_redis_ends_with_an_error(pool, answer):
    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError):
            await reader.read(100)
            writer.write(answer)
            await writer.drain()
            await asyncio.sleep(0.2)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        make = RedisSources(RedisConfig(read_timeout_s=0.5), Dialer(UrlPolicy(("127.0.0.0/8",))), pool, CLOCK)
        with pytest.raises(SourceError):
            await take(make(request(f"redis://127.0.0.1:{port}/0/frames")), 1)


async def test_closing_releases_everything(server, pool):
    for _ in range(20):
        server.add("frames", frame=jpeg())
    before = asyncio.all_tasks()
    stream = sources(server, pool)(request()).frames()
    await anext(stream)

    await stream.aclose()

    assert pool.open_feeds == 0
    await until(lambda: not any("xread" in client["cmd"] for client in server.client.client_list()))
    assert asyncio.all_tasks() == before
