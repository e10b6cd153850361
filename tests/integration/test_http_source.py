"""Plain HTTP from a real server on loopback: files, cameras, snapshots, and playlists by another name."""

import asyncio
import io
import ssl

import av
import pytest
import trustme
from pydantic import ValidationError

from freeroam.sources.fetching import FetchTimeouts
from freeroam.sources.http_files import TemporaryReader, TemporarySpace
from freeroam.vocabulary.errors import InvalidInput, SourceError
from freeroam.vocabulary.job import SourceOptions
from tests.clips import file_clip, hls_clip, picture, second_of
from tests.origins import HOST, LiveHls, Origin, Reply, Request, drip, redirect, running
from tests.servers import has_ipv6_loopback
from tests.waiting import until
from tests.workshop import take, workshop

FILES = {
    "mp4 with its index at the end": ("mp4", "", {}),
    "mp4 with its index in front": ("mp4", "faststart", {}),
    "mp4 in fragments": ("mp4", "frag_keyframe+empty_moov", {}),
    "mp4 from a server without ranges": ("mp4", "", {"Accept-Ranges": "none"}),
    "matroska": ("mkv", "", {}),
    "transport stream": ("ts", "", {}),
    "avi": ("avi", "", {}),
    "flv": ("flv", "", {}),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content_type", ["", "application/octet-stream", "text/plain"])
async def test_a_file_gives_every_sample_whatever_the_server_calls_it(name, content_type):
    form, flags, headers = FILES[name]
    async with workshop() as shop, Origin() as origin:
        reply = Reply(file_clip(form=form, flags=flags), headers={**headers, "Content-Type": content_type})
        source = shop.http(origin.on("/video", reply))
        frames = await take(source)

    assert [second_of(frame.pixels) for frame in frames[::2]] == [0, 1, 2, 3]
    assert [frame.stream_time_s for frame in frames] == pytest.approx([n / 2 for n in range(8)], abs=0.1)
    assert (source.facts.kind, source.facts.is_live) == ("http", False)


@pytest.mark.parametrize("headers", [{}, {"Accept-Ranges": "none"}])
async def test_a_file_goes_on_after_the_frame_that_is_stored(headers):
    async with workshop() as shop, Origin() as origin:
        reply = Reply(file_clip(), headers=headers)
        frames = await take(shop.http(origin.on("/video.mp4", reply), resume_after="1500", resume_due_s=2.0))

    assert [second_of(frame.pixels) for frame in frames] == [2, 2, 3, 3]


def without_its_first_keyframe():
    """A transport stream that was cut within a group of pictures."""
    made = io.BytesIO()
    with av.open(io.BytesIO(file_clip(form="ts"))) as whole, av.open(made, "w", format="mpegts") as cut:
        stream = cut.add_stream_from_template(whole.streams.video[0])
        for number, packet in enumerate(whole.demux(video=0)):
            if number > 0 and packet.size:
                packet.stream = stream
                cut.mux(packet)
    return made.getvalue()


@pytest.mark.parametrize("count", [1, 3, 5])
async def test_a_recording_that_begins_within_a_group_goes_on_with_the_same_names(count):
    async with workshop() as shop, Origin() as origin:
        url = origin.on("/cut.ts", Reply(without_its_first_keyframe()))
        whole = await take(shop.http(url))
        last = whole[count - 1]
        due_s = last.sample_time_s + 0.5
        rest = await take(shop.http(url, resume_after=last.frame_id, resume_due_s=due_s))

    def told(frames):
        return [(frame.frame_id, second_of(frame.pixels)) for frame in frames]

    assert len(whole) > 5
    assert told(rest) == told(whole[count:])


async def test_an_endless_transport_stream_is_live():
    clip = hls_clip()

    async def endless(request):
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: video/mp2t\r\nConnection: close\r\n\r\n")
        for segment in clip.segments:
            request.writer.write(segment)
            await request.writer.drain()
            await asyncio.sleep(0.3)

    async with workshop() as shop, Origin() as origin:
        source = shop.http(origin.on("/live", endless))
        frames = await take(source, 6)

    assert source.facts.is_live
    assert abs(frames[0].stream_time_s - shop.clock.epoch_s()) < 60
    assert [second_of(frame.pixels) for frame in frames] == sorted(second_of(frame.pixels) for frame in frames)


def part(body, boundary="--frame", length=True, line=b"\r\n"):
    head = [boundary.encode(), b"Content-Type: image/jpeg"]
    if length:
        head.append(b"Content-Length: " + str(len(body)).encode())
    return line.join(head) + line + line + body + line


CAMERAS = {
    "as it should be": ("multipart/x-mixed-replace; boundary=frame", {}),
    "quoted": ('multipart/x-mixed-replace; boundary="frame"', {}),
    "named with its dashes": ("multipart/x-mixed-replace;boundary=--frame", {}),
    "in capitals": ("Multipart/X-Mixed-Replace; Boundary=frame", {}),
    "without a boundary": ("multipart/x-mixed-replace", {}),
    "without lengths": ("multipart/x-mixed-replace; boundary=frame", {"length": False}),
    "with bare line feeds": ("multipart/x-mixed-replace; boundary=frame", {"line": b"\n"}),
    "with bare line feeds and no lengths": (
        "multipart/x-mixed-replace; boundary=frame",
        {"line": b"\n", "length": False},
    ),
}


def camera(content_type, pause_s=0.02, count=10_000, **form):
    async def answer(request):
        request.writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n".encode())
        for number in range(count):
            request.writer.write(part(picture(number % 8), **form))
            await request.writer.drain()
            await asyncio.sleep(pause_s)

    return answer


@pytest.mark.parametrize("name", CAMERAS)
async def test_an_mjpeg_camera_is_sampled_at_the_asked_rate(name):
    content_type, form = CAMERAS[name]
    async with workshop() as shop, Origin() as origin:
        source = shop.http(origin.on("/camera", camera(content_type, **form)), fps=10.0)
        frames = await take(source, 5)

    assert source.facts.kind == "mjpeg"
    assert source.facts.is_live
    assert {second_of(frame.pixels) for frame in frames} <= set(range(8))
    gaps = [later.sample_time_s - frames[0].sample_time_s for later in frames]
    assert all(gap * 10 == pytest.approx(round(gap * 10), abs=0.01) for gap in gaps)
    assert len({frame.frame_id for frame in frames}) == 5


async def test_broken_pictures_of_a_camera_are_counted_and_passed_over():
    async def answer(request):
        request.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        for number in range(1000):
            request.writer.write(part(picture(1) if number % 3 == 0 else b"\xff\xd8\xff no picture \xff\xd9"))
            await request.writer.drain()
            await asyncio.sleep(0.01)

    async with workshop() as shop, Origin() as origin:
        source = shop.http(origin.on("/camera", answer), fps=100.0)
        frames = await take(source, 5)

    assert len(frames) == 5
    assert source.facts.skipped["pictures_bad"] >= 4


async def test_a_camera_that_hangs_up_has_ended():
    async with workshop() as shop, Origin() as origin:
        answer = camera("multipart/x-mixed-replace; boundary=frame", count=3)
        with pytest.raises(SourceError) as caught:
            await take(shop.http(origin.on("/camera", answer)))

    assert caught.value.code == "ended"


async def test_a_part_without_an_end_is_bounded():
    async def answer(request):
        request.writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=x\r\n\r\n--x\r\n\r\n"
        )
        while True:
            request.writer.write(bytes(1 << 20))
            await request.writer.drain()

    async with workshop() as shop, Origin() as origin:
        with pytest.raises(SourceError) as caught:
            await take(shop.http(origin.on("/camera", answer)))

    assert caught.value.code == "bad_data"


@pytest.mark.parametrize("content_type", ["image/jpeg", "application/octet-stream", ""])
async def test_a_snapshot_is_fetched_again_at_the_asked_rate(content_type):
    count = 0

    def snapshot(_request):
        nonlocal count
        count += 1
        return Reply(picture(min(count, 8)), headers={"Content-Type": content_type})

    async with workshop() as shop, Origin() as origin:
        source = shop.http(origin.on("/snapshot", snapshot), fps=20.0)
        frames = await take(source, 5)

    assert source.facts.kind == "snapshot"
    assert [second_of(frame.pixels) for frame in frames] == [1, 2, 3, 4, 5]
    assert origin.connections == 1


async def test_the_same_snapshot_is_a_frame_each_time():
    async with workshop() as shop, Origin() as origin:
        frames = await take(shop.http(origin.on("/snapshot.jpg", picture(3)), fps=20.0), 4)

    assert len({frame.frame_id for frame in frames}) == 4


async def test_a_snapshot_that_fails_now_and_then_is_asked_again():
    count = 0

    def flaky(_request):
        nonlocal count
        count += 1
        return Reply(status=503) if count % 2 == 0 else Reply(picture(1))

    async with workshop() as shop, Origin() as origin:
        source = shop.http(origin.on("/snapshot.jpg", flaky), fps=20.0)
        frames = await take(source, 4)

    assert len(frames) == 4
    assert source.facts.skipped["pictures_not_fetched"] == 3


async def test_a_snapshot_that_is_gone_is_not_found():
    async with workshop() as shop, Origin() as origin:
        url = origin.on("/snapshot.jpg", picture(1))
        source = shop.http(url, fps=20.0)

        async def read():
            async for _ in source.frames():
                origin.drop("/snapshot.jpg")

        with pytest.raises(SourceError) as caught:
            await read()

    assert caught.value.code == "not_found"


async def test_a_playlist_by_another_name_is_hls():
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip(), window=100)
        live.publish(4)
        live.is_ended = True
        for content_type in ("application/vnd.apple.mpegurl", "text/plain"):
            url = origin.on(
                "/watch", lambda _r, t=content_type: Reply(live.text().encode(), headers={"Content-Type": t})
            )
            source = shop.http(url)
            frames = await take(source)

            assert source.facts.kind == "hls"
            assert [second_of(frame.pixels) for frame in frames[::2]] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Reply(b"<html>hello</html>", headers={"Content-Type": "text/html"}), "no_video"),
        (Reply(b""), "no_video"),
        (Reply(b"\x7fELF" + bytes(1000)), "no_video"),
        (Reply(status=401), "auth"),
        (Reply(status=404), "not_found"),
        (Reply(status=500), "server"),
        (redirect("/video"), "server"),
        (Reply(b"x", headers={"Content-Encoding": "br"}), "bad_data"),
        (Reply(b"\x1aE\xdf\xa3" + bytes(5000), headers={"Content-Length": "90000"}, cut_at=5004), "bad_data"),
        (drip(bytes(2000), every_s=5), "timeout"),
        (Reply(b"\xff\xd8\xff", headers={"Content-Length": str(10**11)}), "timeout"),
    ],
)
async def test_what_is_no_video_has_a_clear_code(answer, code):
    async with workshop(timeouts=FetchTimeouts(1.0, 0.5)) as shop, Origin() as origin:
        with pytest.raises(SourceError) as caught:
            await take(shop.http(origin.on("/video", answer)))

    assert caught.value.code == code


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "other"},
        {"Content-Length": "1"},
        {"Transfer-Encoding": "chunked"},
        {"Range": "bytes=0-1"},
        {"Proxy-Authorization": "x"},
        {"X": "a\r\nY: b"},
        {"X\r\nY": "a"},
        {"X Y": "a"},
        {"": "a"},
        {"X": "\u00e4"},
    ],
)
async def test_a_header_that_is_not_the_users_to_set_is_refused(headers):
    async with workshop(decodes=False) as shop:
        with pytest.raises(InvalidInput):
            shop.http("http://example.org/", options={"headers": headers})
        with pytest.raises(InvalidInput):
            shop.hls("http://example.org/", options={"headers": headers})


def test_a_header_that_is_too_long_is_refused_before_there_is_a_source():
    with pytest.raises(ValidationError, match=r"headers\.X"):
        SourceOptions(headers={"X": "a" * 9000})


async def test_a_dead_port_is_refused():
    async with Origin() as origin:
        url = origin.url("/video")
    async with workshop(decodes=False) as shop:
        with pytest.raises(SourceError) as caught:
            await take(shop.http(url))

    assert caught.value.code == "refused"


@pytest.mark.parametrize(("trusts", "verify", "ok"), [(True, True, True), (False, True, False), (False, False, True)])
async def test_certificates_are_checked_unless_the_user_says_otherwise(tmp_path, trusts, verify, ok):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    cafile = str(tmp_path / "ca.pem") if trusts else None
    async with workshop(cafile=cafile) as shop, Origin(tls=context) as origin:
        url = origin.on("/video.mp4", file_clip())
        source = shop.http(url, options={"verify_tls": verify})
        if ok:
            assert len(await take(source)) == 8
        else:
            with pytest.raises(SourceError) as caught:
                await take(source)
            assert caught.value.code == "tls"


async def test_the_certificate_must_be_of_the_name_that_was_asked_for(tmp_path):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example.org").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    async with workshop(cafile=str(tmp_path / "ca.pem"), decodes=False) as shop, Origin(tls=context) as origin:
        with pytest.raises(SourceError) as caught:
            await take(shop.http(origin.on("/video.mp4", b"")))

    assert caught.value.code == "tls"


@pytest.mark.skipif(not has_ipv6_loopback(), reason="this machine has no ::1")
async def test_the_certificate_of_an_ipv6_address_is_checked_as_any_other(tmp_path):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("::1").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    cafile = str(tmp_path / "ca.pem")
    async with (
        workshop(allow=("::1",), cafile=cafile, decodes=False) as shop,
        Origin("::1", tls=context) as origin,
    ):
        session = shop.fetcher.session(origin.on("/a", b"all of it"))
        body = await session.read(session.home.url, 100, 5)

    assert body.data == b"all of it"


async def test_closing_a_camera_lets_go_of_everything_at_once():
    async with workshop() as shop, Origin() as origin:
        before = asyncio.all_tasks()
        await take(shop.http(origin.on("/camera", camera("multipart/x-mixed-replace; boundary=frame"))), 2)

        await until(lambda: shop.pool.open_feeds == 0 and shop.fetcher.open_connections == 0)
        assert {task for task in asyncio.all_tasks() - before if task not in origin._tasks} == set()


async def test_a_connection_that_was_closed_meanwhile_is_opened_anew():
    async with workshop(decodes=False) as shop, Origin() as origin:
        session = shop.fetcher.session(origin.on("/a", b"first"))
        await session.read(session.home.url, 100, 5)
        for writer in list(origin._writers):
            writer.transport.abort()

        body = await session.read(session.home.url, 100, 5)

    assert body.data == b"first"
    assert origin.connections == 2


async def test_many_streams_share_the_pool_and_none_waits_for_another():
    async with workshop() as shop, Origin() as origin:
        url = origin.on("/camera", camera("multipart/x-mixed-replace; boundary=frame", pause_s=0.2))
        sources = [shop.http(url, fps=5.0) for _ in range(20)]
        async with running(asyncio.sleep(0)):
            taken = await asyncio.gather(*(take(source, 2) for source in sources))

    assert [len(frames) for frames in taken] == [2] * 20


async def test_a_camera_slower_than_a_server_may_be_silent_is_read_on():
    async with workshop(timeouts=FetchTimeouts(read_s=0.1)) as shop, Origin() as origin:
        url = origin.on("/camera", camera("multipart/x-mixed-replace; boundary=frame", pause_s=0.3))
        frames = await take(shop.http(url, fps=10.0), 3)

        assert len(frames) == 3
        assert origin.asked("/camera") == 1


async def test_a_recording_without_ranges_finds_no_room_when_others_fill_the_temporary_space():
    space = TemporarySpace(limit_bytes=len(file_clip()) + 1000)
    async with workshop() as shop, Origin() as origin:
        url = origin.on("/video.mp4", Reply(file_clip(), headers={"Accept-Ranges": "none"}))
        session = shop.fetcher.session(url)
        async with await session.open(url) as response:
            first = await TemporaryReader.fetch(response, space)
        async with await session.open(url) as response:
            with pytest.raises(SourceError) as caught:
                await TemporaryReader.fetch(response, space)
        assert caught.value.code == "unavailable"
        assert (space.used_bytes, space.refused) == (len(file_clip()), 1)

        await first.aclose()
        await first.aclose()
        assert space.used_bytes == 0


@pytest.mark.parametrize("is_announced", [True, False])
async def test_a_recording_without_ranges_that_is_longer_than_one_may_be_names_the_setting(is_announced: bool):
    space = TemporarySpace(file_bytes=len(file_clip()) - 1)
    async with workshop() as shop, Origin() as origin:

        async def unannounced(request: Request) -> None:
            request.writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + file_clip())

        url = origin.on("/video.mp4", Reply(file_clip()) if is_announced else unannounced)
        async with await shop.fetcher.session(url).open(url) as response:
            assert (response.length_bytes is not None) == is_announced
            with pytest.raises(SourceError, match="SOURCE_FILE_BYTES") as caught:
                await TemporaryReader.fetch(response, space)

    assert caught.value.code == "bad_data"
    assert (space.used_bytes, space.refused) == (0, 0)


async def test_connections_that_nobody_uses_any_more_are_closed_by_and_by(monkeypatch):
    monkeypatch.setattr("freeroam.sources.fetching.TIDY_REST_S", 0.02)
    monkeypatch.setattr("freeroam.security.dialing.KEPT_S", 0.2)
    async with workshop(decodes=False) as shop, Origin() as origin:
        session = shop.fetcher.session(origin.on("/text", b"text"))
        shop.fetcher.start()
        await session.read(session.home.url, 100, 5.0)
        assert shop.fetcher.open_connections == 1

        await until(lambda: shop.fetcher.open_connections == 0)

        await session.read(session.home.url, 100, 5.0)
        assert origin.connections == 2
