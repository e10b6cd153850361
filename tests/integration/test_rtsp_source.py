"""The RTSP source against a real server, and against answers that no good server gives."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
from urllib.parse import quote

import pytest

from freeroam.clock import SystemClock
from freeroam.security.dialing import Dialer
from freeroam.security.url_policy import UrlPolicy
from freeroam.sources.decoding.pool import DecoderPool
from freeroam.sources.decoding.values import DecoderConfig
from freeroam.sources.reconnecting import ReconnectingSource, SourceConfig
from freeroam.sources.rtsp import RtspSources
from freeroam.sources.rtsp_session import SCHEMES, open_session
from freeroam.sources.source import SourceRequest
from freeroam.vocabulary.errors import SourceError, SourceErrorCode
from freeroam.vocabulary.frame import FrameWish
from freeroam.vocabulary.job import SourceOptions
from tests.servers import free_port
from tests.servers_rtsp import PASSWORD, SDP, USER, RtspServer, ScriptedRtsp, camera, response
from tests.waiting import until

CLOCK = SystemClock()
LOGIN = f"{USER}:{quote(PASSWORD, safe='')}@"


@pytest.fixture(scope="module")
def server():
    with RtspServer() as server:
        yield server


@pytest.fixture
async def pool():
    pool = DecoderPool(DecoderConfig(processes=1), CLOCK)
    await pool.start()
    yield pool
    await pool.stop()


def sources(pool, open_timeout_s=10.0):
    return RtspSources(Dialer(UrlPolicy(("127.0.0.0/8",))), pool, CLOCK, open_timeout_s)


def request(url, fps=5.0, **more):
    return SourceRequest(url, FrameWish(fps, 160, 160), **more)


async def take(source, count, limit_s=30.0):
    frames = []
    async with asyncio.timeout(limit_s), contextlib.aclosing(source.frames()) as stream:
        async for frame in stream:
            frames.append(frame)
            if len(frames) == count:
                break
    return frames


async def failure(source, limit_s=30.0):
    with pytest.raises(SourceError) as caught:
        await take(source, 1, limit_s)
    return caught.value


@pytest.mark.parametrize(
    ("mount", "codec"),
    [("h264", "h264"), ("b-frames", "h264"), ("h265", "hevc"), ("vp8", "vp8"), ("mjpeg", "mjpeg"), ("both", "h264")],
)
async def test_frames_come_at_the_asked_rate_and_size(server, pool, mount, codec):
    source = sources(pool)(request(server.url(mount)))

    frames = await take(source, 8)

    assert (frames[0].width_px, frames[0].height_px) == (160, 120)
    assert (source.facts.codec, source.facts.width_px, source.facts.height_px) == (codec, 320, 240)
    steps = [later.sample_time_s - earlier.sample_time_s for earlier, later in itertools.pairwise(frames)]
    assert steps == pytest.approx([0.2] * 7, abs=0.001)
    assert abs(frames[0].stream_time_s - CLOCK.epoch_s()) < 60.0
    assert frames[0].array().std() > 0
    await until(lambda: pool.open_feeds == 0)


async def test_a_stream_of_many_megabits_goes_on(server, pool):
    # Given a camera that sends megabytes within the test: FFmpeg's own demuxer of sessions hung after 280,000 bytes
    async with asyncio.timeout(60):
        frames = await take(sources(pool)(request(server.url("fat"))), 20, 60.0)

    steps = [later.sample_time_s - earlier.sample_time_s for earlier, later in itertools.pairwise(frames)]
    assert steps == pytest.approx([0.2] * 19, abs=0.001)
    assert pool.replaced == {}


async def test_a_stream_with_rare_keyframes_gives_every_sample(server, pool):
    frames = await take(sources(pool)(request(server.url("rare-keys"), fps=10.0)), 30)

    ids = [int(frame.frame_id) for frame in frames]
    assert ids == sorted(set(ids))
    assert ids[-1] - ids[0] == pytest.approx(2900, abs=60)


@pytest.mark.parametrize("way", ["basic", "digest"])
async def test_a_log_in_is_given_when_asked_for_and_never_shown(pool, way):
    with RtspServer(way) as server:
        assert await take(sources(pool)(request(server.url("h264", LOGIN))), 2)

        for login in ("", f"{USER}:wr0ng@", "nobody:wr0ng@"):
            error = await failure(sources(pool)(request(server.url("h264", login))))
            assert error.source_code is SourceErrorCode.AUTH
            assert "wr0ng" not in error.message


async def test_what_is_not_there_is_told_by_its_code(server, pool):
    assert (await failure(sources(pool)(request(server.url("nothing"))))).source_code is SourceErrorCode.NOT_FOUND
    assert (await failure(sources(pool)(request(server.url("audio"))))).source_code is SourceErrorCode.NO_VIDEO
    refused = sources(pool)(request(f"rtsp://127.0.0.1:{free_port()}/a"))
    assert (await failure(refused)).source_code is SourceErrorCode.REFUSED
    nameless = sources(pool)(request("rtsp://no-such-camera.invalid/a"))
    assert (await failure(nameless)).source_code is SourceErrorCode.DNS


async def test_a_server_that_ends_the_stream_says_so(server, pool):
    source = sources(pool)(request(server.url("ends")))

    with pytest.raises(SourceError) as caught:
        await take(source, 1000)

    assert caught.value.source_code is SourceErrorCode.ENDED


async def test_another_rate_is_taken_while_it_runs(server, pool):
    source = sources(pool)(request(server.url(), fps=1.0))
    async with contextlib.aclosing(source.frames()) as stream:
        await anext(stream)
        source.change_wish(FrameWish(10.0))
        frames = [await anext(stream) for _ in range(12)]

    assert frames[-1].stream_time_s - frames[-6].stream_time_s == pytest.approx(0.5, abs=0.1)


async def test_a_server_killed_and_restarted_is_found_again(pool):
    with RtspServer() as server:
        config = SourceConfig(first_pause_s=0.1, greatest_pause_s=0.5)
        source = ReconnectingSource(sources(pool), request(server.url()), config, CLOCK)
        async with contextlib.aclosing(source.frames()) as stream:
            before = [await anext(stream) for _ in range(3)]

            server.kill()
            waiting = asyncio.ensure_future(anext(stream))
            await until(lambda: source.status.last_error == "refused" or waiting.done())
            while not waiting.done() or source.status.last_error != "refused":
                if waiting.done():
                    before.append(waiting.result())
                    waiting = asyncio.ensure_future(anext(stream))
                elif source.status.last_error == "refused":
                    break
                await asyncio.sleep(0.02)
            server.start()
            after = [await waiting] + [await anext(stream) for _ in range(3)]

        ids = [int(frame.frame_id) for frame in before + after]
        assert ids == sorted(set(ids))
        assert source.status.reconnects >= 1


async def test_a_server_that_freezes_is_restarted(pool):
    with RtspServer() as server:
        config = SourceConfig(first_pause_s=0.1, greatest_pause_s=0.5, stall_timeout_s=1.0, open_timeout_s=1.0)
        source = ReconnectingSource(sources(pool, 1.0), request(server.url()), config, CLOCK)
        async with contextlib.aclosing(source.frames()) as stream:
            await anext(stream)
            server.freeze()

            async def take_on():
                while source.status.stalls == 0 or source.status.seconds_since_frame > 1.0:
                    await anext(stream)

            taking = asyncio.create_task(take_on())
            await until(lambda: source.status.stalls == 1)
            server.thaw()
            await asyncio.wait_for(taking, 30.0)

        assert source.status.reconnects >= 1


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_lost_decoder_is_followed_by_another_that_loses_no_sample(server, pool, blow):
    source = ReconnectingSource(sources(pool), request(server.url("rare-keys"), fps=2.0), SourceConfig(), CLOCK)
    frames = []
    async with asyncio.timeout(60), contextlib.aclosing(source.frames()) as stream:
        while len(frames) < 3:
            frames.append(await anext(stream))
        os.kill(pool.pids[0], blow)
        while len(frames) < 16:
            frames.append(await anext(stream))

    # The camera was not asked again, nor was its next keyframe waited for.
    assert source.status.reconnects == 0
    assert source.status.skipped == {"decoders_lost": 1}
    steps = [after.sample_time_s - before.sample_time_s for before, after in itertools.pairwise(frames)]
    assert steps == pytest.approx([0.5] * 15)


async def test_a_stream_that_loses_one_decoder_after_the_other_is_opened_anew(server, pool):
    source = ReconnectingSource(sources(pool), request(server.url()), SourceConfig(), CLOCK)
    async with asyncio.timeout(60), contextlib.aclosing(source.frames()) as stream:
        for killed in (1, 2):
            await anext(stream)
            os.kill(pool.pids[0], signal.SIGKILL)
            await until(lambda times=killed: pool.replaced == {"died": times})
        while source.status.reconnects == 0:
            await anext(stream)

    assert source.status.last_error == "decoder"


async def test_a_stream_whose_decoders_have_worked_keeps_its_session_however_often_they_are_lost(
    server, pool, monkeypatch
):
    monkeypatch.setattr("freeroam.sources.rtsp.WORKED_S", 0.0)
    source = ReconnectingSource(sources(pool), request(server.url("rare-keys"), fps=2.0), SourceConfig(), CLOCK)
    frames = []
    async with asyncio.timeout(60), contextlib.aclosing(source.frames()) as stream:
        for killed in range(4):
            frames += [await anext(stream) for _ in range(3)]
            assert pool.replaced == ({"died": killed} if killed else {})
            os.kill(pool.pids[0], signal.SIGKILL)
        frames += [await anext(stream) for _ in range(6)]

    assert source.status.reconnects == 0
    steps = [after.sample_time_s - before.sample_time_s for before, after in itertools.pairwise(frames)]
    assert steps == pytest.approx([0.5] * 17)


@pytest.mark.parametrize("step", ["connecting", "OPTIONS", "DESCRIBE", "SETUP", "PLAY", "playing"])
async def test_closing_in_the_middle_releases_everything(pool, step):
    reached = asyncio.Event()

    async def answer(method, headers):
        if method == step or step == "connecting":
            reached.set()
            await asyncio.sleep(1000)
        if method == "PLAY":
            reached.set()
        return camera(method, headers)

    before = asyncio.all_tasks()
    async with ScriptedRtsp(answer) as server:
        source = sources(pool)(request(server.url()))
        task = asyncio.create_task(take(source, 1))
        await reached.wait()

        task.cancel()
        await asyncio.wait({task}, timeout=5.0)

        assert task.cancelled()
        assert pool.open_feeds == 0
        await until(lambda: len(asyncio.all_tasks() - before) <= 1)
        for other in asyncio.all_tasks() - before:
            other.cancel()


async def test_a_session_is_kept_alive_and_taken_down(pool, monkeypatch):
    monkeypatch.setattr("freeroam.sources.rtsp_session.KEEP_ALIVE_LEAST_S", 0.05)

    def answer(method, headers):
        if method == "SETUP":
            transport = "RTP/AVP/TCP;unicast;interleaved=0-1"
            return response("200 OK", headers, Transport=transport, Session="42;timeout=1")
        return camera(method, headers)

    async with ScriptedRtsp(answer) as server:
        task = asyncio.create_task(take(sources(pool)(request(server.url())), 1))
        await until(lambda: sum(line.startswith("GET_PARAMETER") for line in server.requests) >= 2)
        task.cancel()
        await asyncio.wait({task})
        await until(lambda: server.requests[-1].startswith("TEARDOWN"))


def only(method_wanted, reply):
    """A camera that answers one method otherwise."""

    def answer(method, headers):
        return reply(headers) if method == method_wanted else camera(method, headers)

    return answer


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (lambda method, headers: b"HTTP/1.1 400 Bad Request\r\n\r\n", SourceErrorCode.BAD_DATA),
        (lambda method, headers: b"SSH-2.0-OpenSSH_9\r\n", SourceErrorCode.BAD_DATA),
        (lambda method, headers: b"RTSP/1.0 abc\r\n\r\n", SourceErrorCode.BAD_DATA),
        (lambda method, headers: b"RTSP/1.0 200 OK\r\nX: " + b"x" * 100_000, SourceErrorCode.BAD_DATA),
        (only("DESCRIBE", lambda h: response("200 OK", h, Content_Length="99999999999")), SourceErrorCode.BAD_DATA),
        (only("DESCRIBE", lambda h: response("500 Internal", h)), SourceErrorCode.SERVER),
        (only("DESCRIBE", lambda h: response("403 Forbidden", h)), SourceErrorCode.AUTH),
        (only("DESCRIBE", lambda h: response("200 OK", h)), SourceErrorCode.NO_VIDEO),
        (only("DESCRIBE", lambda h: response("200 OK", h, b"\x00\xff" * 500)), SourceErrorCode.NO_VIDEO),
        (
            only("DESCRIBE", lambda h: response("200 OK", h, SDP.replace(b"RTP/AVP", b"RTP/SAVP"))),
            SourceErrorCode.CODEC,
        ),
        (only("SETUP", lambda h: response("461 Unsupported Transport", h)), SourceErrorCode.UNAVAILABLE),
        (
            only("SETUP", lambda h: response("200 OK", h, Transport="RTP/AVP;unicast;client_port=1-2", Session="1")),
            SourceErrorCode.UNAVAILABLE,
        ),
        (only("PLAY", lambda h: response("455 Not Valid", h)), SourceErrorCode.SERVER),
        (only("PLAY", lambda h: b"$\0\0\0" * 5000), SourceErrorCode.BAD_DATA),
        (only("PLAY", lambda h: (b"$\0\xff\xff" + bytes(0xFFFF)) * 70), SourceErrorCode.BAD_DATA),
    ],
)
async def test_hostile_and_broken_answers_end_with_a_code(pool, answer, code):
    async with ScriptedRtsp(answer) as server:
        error = await failure(sources(pool, 5.0)(request(server.url())))

    assert error.source_code is code


@pytest.mark.parametrize("answer", [b"", b"R", b"RTSP/1.0 200 OK\r\n", b"$\x00\xff\xff"])
async def test_an_answer_that_never_ends_times_out(pool, answer):
    async with ScriptedRtsp(lambda method, headers: answer) as server:
        error = await failure(sources(pool, 0.5)(request(server.url())))

    assert error.source_code is SourceErrorCode.TIMEOUT


async def test_an_answer_that_drips_times_out(pool):
    async def drip(reader, writer):
        with contextlib.suppress(ConnectionError):
            for byte in response("200 OK", {"cseq": "1"}, X="y" * 1000):
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = await failure(sources(pool, 0.5)(request(f"rtsp://127.0.0.1:{port}/a")))

    assert error.source_code is SourceErrorCode.TIMEOUT


async def test_packets_that_come_before_they_are_asked_for_are_kept_in_order():
    def answer(method, headers):
        early = {"SETUP": b"$\0\0\1a", "PLAY": b"$\0\0\1b$\0\0\1c"}.get(method, b"")
        late = b"$\0\0\1d" if method == "PLAY" else b""
        return early + camera(method, headers) + late

    policy = UrlPolicy(("127.0.0.0/8",))
    async with ScriptedRtsp(answer) as server:
        target = policy.check_text(server.url(), SCHEMES)
        session = await open_session(target, Dialer(policy), CLOCK, verify_tls=True, timeout_s=10)
        async with contextlib.aclosing(session.records()) as records:
            came = b""
            while len(came) < 12:
                came += await anext(records)
        await session.aclose()

    assert came == b"\0\1a\0\1b\0\1c\0\1d"


async def test_a_server_that_asks_without_end_and_reads_nothing_is_left(pool, monkeypatch):
    monkeypatch.setattr("freeroam.sources.rtsp_session.PATIENCE_S", 0.2)

    async def ask(reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            for number, method in enumerate(["OPTIONS", "DESCRIBE", "SETUP", "PLAY"], start=1):
                await reader.readuntil(b"\r\n\r\n")
                writer.write(camera(method, {"cseq": str(number)}))
            while True:
                writer.write(b"OPTIONS * RTSP/1.0\r\n\r\n" * 1000)
                await writer.drain()
        writer.close()

    listener = socket.create_server(("127.0.0.1", 0))
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    async with await asyncio.start_server(ask, sock=listener):
        error = await failure(sources(pool)(request(f"rtsp://127.0.0.1:{listener.getsockname()[1]}/a")))

    assert error.source_code is SourceErrorCode.TIMEOUT


async def test_a_server_that_closes_after_play_has_ended_the_stream(pool):
    closing = []

    def answer(method, headers):
        if method == "PLAY":
            asyncio.get_running_loop().call_later(0.05, lambda: [w.close() for w in closing[0]._writers])
        return camera(method, headers)

    async with ScriptedRtsp(answer) as server:
        closing.append(server)
        error = await failure(sources(pool)(request(server.url())))

    assert error.source_code is SourceErrorCode.ENDED


async def test_certificates_are_checked_unless_the_job_says_otherwise(pool):
    import ssl

    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    asked = []

    async def serve(reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            asked.append(head.split()[0])
            writer.write(response("404 Not Found", {"cseq": "1"}))
            await reader.readuntil(b"\r\n\r\n")
            writer.write(response("404 Not Found", {"cseq": "2"}))
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        url = f"rtsps://127.0.0.1:{server.sockets[0].getsockname()[1]}/a"
        checked = await failure(sources(pool)(request(url)))
        unchecked = await failure(sources(pool)(request(url, options=SourceOptions(verify_tls=False))))

    assert checked.source_code is SourceErrorCode.TLS
    assert unchecked.source_code is SourceErrorCode.NOT_FOUND
    assert asked == [b"OPTIONS"]
