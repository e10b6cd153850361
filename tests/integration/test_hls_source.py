"""HLS from a real server on loopback, through real decoders."""

import asyncio
import datetime
import gzip
import itertools
import zlib

import pytest
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from freeroam.vocabulary.errors import SourceError
from freeroam.vocabulary.frame import FrameWish
from tests.clips import hls_clip, second_of
from tests.origins import LiveHls, Origin, Reply, redirect, running
from tests.waiting import until
from tests.workshop import take, workshop


def recording(origin, clip, **kwargs):
    """A finished playlist of the whole clip."""
    live = LiveHls(origin, clip, window=100, **kwargs)
    live.publish(len(clip.segments))
    live.is_ended = True
    return live


def encrypted(data, key, iv):
    padder = padding.PKCS7(128).padder()
    cipher = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return cipher.update(padder.update(data) + padder.finalize()) + cipher.finalize()


@pytest.mark.parametrize("form", ["mpegts", "fmp4"])
async def test_a_recording_gives_every_sample_in_order(form):
    async with workshop() as shop, Origin() as origin:
        source = shop.hls(recording(origin, hls_clip(form=form)).url)
        frames = await take(source)

    assert [second_of(frame.pixels) for frame in frames] == [second for second in range(8) for _ in range(2)]
    assert [frame.stream_time_s for frame in frames] == pytest.approx([n / 2 for n in range(16)], abs=0.02)
    assert frames[3].frame_id == "1500"
    assert (frames[0].width_px, frames[0].source_width_px) == (80, 160)
    assert not source.facts.is_live
    assert source.facts.kind == "hls"
    assert source.facts.codec == "h264"
    assert source.facts.skipped == {}


async def test_a_live_stream_begins_near_its_end_and_keeps_the_pace_of_stream_time():
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip())
        live.publish(6)
        source = shop.hls(live.url, fps=4.0)
        async with running(live.go_on()):
            frames = await take(source, 24)

    times = [frame.stream_time_s for frame in frames]
    assert second_of(frames[0].pixels) == 3
    assert times == sorted(times)
    assert abs(times[0] - shop.clock.epoch_s()) < 60
    # A busy machine may move the mapping on, never back: due times are at least as far apart as stream times.
    gaps = [later.due_monotonic_s - frames[0].due_monotonic_s for later in frames]
    assert all(gap >= time - times[0] - 0.001 for gap, time in zip(gaps, times, strict=True))
    assert source.facts.is_live
    assert source.facts.skipped == {}


async def test_a_live_stream_that_ends_gives_its_last_frames_and_returns():
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip())
        live.publish(4)
        source = shop.hls(live.url)

        async def end():
            await until(lambda: origin.asked("/live.m3u8") > 1)
            live.publish(1)
            live.is_ended = True

        async with running(end()):
            frames = await take(source)

    assert second_of(frames[-1].pixels) == 4


def master(*variants):
    lines = "".join(
        f'#EXT-X-STREAM-INF:BANDWIDTH={bandwidth},{f"RESOLUTION={size}," if size else ""}CODECS="{codecs}"\n{uri}\n'
        for uri, size, bandwidth, codecs in variants
    )
    return f"#EXTM3U\n{lines}".encode()


LADDER = master(
    ("big.m3u8", "1920x1080", 4_000_000, "avc1.640028,mp4a.40.2"),
    ("audio.m3u8", None, 64_000, "mp4a.40.2"),
    ("middle.m3u8", "1280x720", 2_000_000, "avc1.64001f,mp4a.40.2"),
    ("small.m3u8", "640x360", 800_000, "avc1.64001e,mp4a.40.2"),
)


@pytest.mark.parametrize(
    ("box", "chosen"),
    [
        ((512, 512), "/small.m3u8"),
        ((640, 640), "/small.m3u8"),
        ((641, None), "/middle.m3u8"),
        ((800, 800), "/middle.m3u8"),
        ((None, 1000), "/big.m3u8"),
        ((3840, 2160), "/big.m3u8"),
        ((None, None), "/big.m3u8"),
    ],
)
async def test_the_smallest_rendition_that_is_not_below_the_wanted_box_is_fetched_alone(box, chosen):
    async with workshop() as shop, Origin() as origin:
        for name in ("/big", "/middle", "/small"):
            recording(origin, hls_clip(seconds=2), name=name)
        source = shop.hls(origin.on("/master.m3u8", LADDER), width_px=box[0], height_px=box[1])
        frames = await take(source)

    assert frames
    assert {r.path for r in origin.requests if r.path.endswith(".m3u8")} == {"/master.m3u8", chosen}
    assert source.facts.variant


@pytest.mark.parametrize("fault", [Reply(status=404), Reply(status=500), Reply(b"hello"), Reply(b"")])
async def test_another_rendition_is_tried_when_the_chosen_one_fails(fault):
    async with workshop() as shop, Origin() as origin:
        recording(origin, hls_clip(seconds=2), name="/middle")
        origin.on("/small.m3u8", fault)
        source = shop.hls(origin.on("/master.m3u8", LADDER), width_px=320, height_px=320)
        frames = await take(source)

    assert frames
    assert source.facts.variant == "1280x720 2000 kbit/s"


async def test_a_master_of_audio_only_is_no_video():
    async with workshop(decodes=False) as shop, Origin() as origin:
        body = master(("audio.m3u8", None, 64_000, "mp4a.40.2"))
        with pytest.raises(SourceError) as caught:
            await take(shop.hls(origin.on("/master.m3u8", body)))

    assert caught.value.code == "no_video"


@pytest.mark.parametrize("has_iv", [True, False])
async def test_aes_128_is_decrypted(has_iv):
    key, clip = bytes(range(16)), hls_clip()
    async with workshop() as shop, Origin() as origin:
        origin.on("/the.key", key)
        live = LiveHls(origin, clip, window=100)
        tag = '#EXT-X-KEY:METHOD=AES-128,URI="the.key"' + (f",IV=0x{'ab' * 16}" if has_iv else "")
        live.head_tags = tag + "\n"
        for number, segment in enumerate(clip.segments):
            iv = b"\xab" * 16 if has_iv else number.to_bytes(16, "big")
            live.publish(1, answer=encrypted(segment, key, iv))
        live.is_ended = True
        frames = await take(shop.hls(live.url))

    assert [second_of(frame.pixels) for frame in frames[::2]] == list(range(8))
    assert origin.asked("/the.key") == 1


@pytest.mark.parametrize("method", ["SAMPLE-AES", "SAMPLE-AES-CTR", "ODD"])
async def test_other_encryption_is_refused_with_a_clear_code(method):
    async with workshop(decodes=False) as shop, Origin() as origin:
        live = recording(origin, hls_clip(), head_tags=f'#EXT-X-KEY:METHOD={method},URI="k"\n')
        with pytest.raises(SourceError) as caught:
            await take(shop.hls(live.url))

    assert caught.value.code == "codec"


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("form", ["mpegts", "fmp4"])
async def test_byte_ranges_are_cut_also_when_the_server_sends_everything(form, ranges):
    clip = hls_clip(seconds=4, form=form)
    init = clip.init or b""
    whole = init + b"".join(clip.segments)
    async with workshop() as shop, Origin() as origin:
        headers = {} if ranges else {"Accept-Ranges": "none"}
        origin.on("/all.mp4", Reply(whole, headers=headers))
        lines = [f'#EXT-X-MAP:URI="all.mp4",BYTERANGE="{len(init)}@0"\n'] if init else []
        for number, segment in enumerate(clip.segments):
            # After the first one the offset is implied: it goes on where the last range ended.
            offset = f"@{len(init)}" if number == 0 else ""
            lines.append(f"#EXTINF:1,\n#EXT-X-BYTERANGE:{len(segment)}{offset}\nall.mp4\n")
        text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n{''.join(lines)}#EXT-X-ENDLIST\n"
        frames = await take(shop.hls(origin.on("/a.m3u8", text.encode())))

    assert [second_of(frame.pixels) for frame in frames[::2]] == [0, 1, 2, 3]


async def test_time_goes_on_across_discontinuities_whatever_the_timestamps_say():
    clip = hls_clip(seconds=3)
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, clip, window=100)
        live.publish(9)
        live.is_ended = True
        frames = await take(shop.hls(live.url))

    assert [frame.stream_time_s for frame in frames] == pytest.approx([n / 2 for n in range(18)], abs=0.05)
    assert [second_of(frame.pixels) for frame in frames[::2]] == [0, 1, 2] * 3


async def test_another_init_section_begins_another_run():
    small, large = hls_clip(seconds=2, form="fmp4"), hls_clip(seconds=2, form="fmp4", width=320, height=180)
    async with workshop() as shop, Origin() as origin:
        lines = []
        for name, clip in (("small", small), ("large", large)):
            origin.on(f"/{name}.mp4", clip.init)
            lines.append(f'#EXT-X-MAP:URI="{name}.mp4"\n')
            for number, segment in enumerate(clip.segments):
                origin.on(f"/{name}{number}.m4s", segment)
                lines.append(f"#EXTINF:1,\n{name}{number}.m4s\n")
        text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n{''.join(lines)}#EXT-X-ENDLIST\n"
        frames = await take(shop.hls(origin.on("/a.m3u8", text.encode()), width_px=None, height_px=None))

    assert [frame.source_width_px for frame in frames] == [160] * 4 + [320] * 4
    assert [frame.stream_time_s for frame in frames] == pytest.approx([n / 2 for n in range(8)], abs=0.05)


async def test_dates_give_the_stream_time_of_a_live_stream_and_the_time_of_capture():
    moment = datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC)
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip())
        live.publish(1, tags=f"#EXT-X-PROGRAM-DATE-TIME:{moment.isoformat()}\n")
        live.publish(2)
        source = shop.hls(live.url)
        frames = await take(source, 3)

    begin_s = moment.timestamp()
    assert [frame.stream_time_s - begin_s for frame in frames] == pytest.approx([0, 0.5, 1.0], abs=0.02)
    assert [frame.captured_epoch_s - begin_s for frame in frames] == pytest.approx([0, 0.5, 1.0], abs=0.02)


async def test_segments_that_left_the_playlist_unseen_are_counted():
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip(seconds=12), window=3)
        live.publish(3)
        source = shop.hls(live.url)

        async def jump():
            await until(lambda: origin.asked("/live.m3u8") > 1)
            live.publish(7)
            live.is_ended = True

        async with running(jump()):
            frames = await take(source)

    assert source.facts.skipped["segments_missed"] == 4
    assert [second_of(frame.pixels) for frame in frames[::2]] == [0, 1, 2, 7, 8, 9]
    assert frames[6].stream_time_s - frames[0].stream_time_s == pytest.approx(7.0, abs=0.1)


async def test_a_gap_is_not_asked_for():
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip(), window=100)
        live.publish(2)
        live.publish(1, tags="#EXT-X-GAP\n", answer=Reply(status=404))
        live.publish(2)
        live.is_ended = True
        source = shop.hls(live.url)
        frames = await take(source)

    assert [second_of(frame.pixels) for frame in frames[::2]] == [0, 1, 3, 4]
    assert source.facts.skipped == {"segments_gap": 1}
    assert origin.asked(live.path(2)) == 0


async def test_a_recording_goes_on_after_the_frame_that_is_stored():
    async with workshop() as shop, Origin() as origin:
        live = recording(origin, hls_clip())
        frames = await take(shop.hls(live.url, resume_after="4500", resume_due_s=5.0))

    assert [frame.frame_id for frame in frames] == ["5000", "5500", "6000", "6500", "7000", "7500"]
    assert origin.asked(live.path(2)) == 0


async def test_a_live_stream_that_went_on_meanwhile_begins_its_grid_anew_with_the_first_frame():
    # Given a sample that was due before the segment where reading begins again, off the grid of its frames
    begin_s = 1_700_000_000.0
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip())
        for second in range(6):
            date = datetime.datetime.fromtimestamp(begin_s + second, tz=datetime.UTC).isoformat()
            live.publish(tags=f"#EXT-X-PROGRAM-DATE-TIME:{date}\n")
        resumed = {"resume_after": str(round(begin_s * 1000)), "resume_due_s": begin_s + 0.05}

        frames = await take(shop.hls(live.url, fps=5.0, **resumed), 5)

    # Then no frame follows sooner than the rate asks
    times = [frame.stream_time_s for frame in frames]
    assert times[0] >= begin_s + 2
    assert [later - sooner for sooner, later in itertools.pairwise(times)] == pytest.approx([0.2] * 4, abs=0.05)
    assert [frame.sample_time_s for frame in frames] == pytest.approx(times, abs=0.01)


async def test_another_rate_takes_hold_while_the_stream_runs():
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip())
        live.publish(6)
        source = shop.hls(live.url, fps=1.0)
        frames = []
        async with running(live.go_on()):
            async for frame in source.frames():
                frames.append(frame)
                if len(frames) == 2:
                    source.change_wish(FrameWish(5.0, 80, 45))
                if len(frames) == 14:
                    break

    last = [frame.stream_time_s for frame in frames[-4:]]
    assert [later - sooner for sooner, later in itertools.pairwise(last)] == pytest.approx([0.2] * 3, abs=0.02)


async def test_closing_lets_go_of_everything_at_once():
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip())
        live.publish(6)
        before = asyncio.all_tasks()
        await take(shop.hls(live.url), 2)

        await until(lambda: shop.pool.open_feeds == 0)
        origin_tasks = origin._tasks
        assert {task for task in asyncio.all_tasks() - before if task not in origin_tasks} == set()


async def test_a_source_that_never_connected_can_be_closed():
    async with workshop(decodes=False) as shop, Origin() as origin:

        async def never(_request):
            await asyncio.Event().wait()

        source = shop.hls(origin.on("/a.m3u8", never))
        reading = asyncio.create_task(take(source))
        await until(lambda: origin.asked("/a.m3u8"))

        reading.cancel()
        await asyncio.wait({reading}, timeout=5)

        assert reading.cancelled()


async def test_connections_are_used_again():
    async with workshop() as shop, Origin() as origin:
        await take(shop.hls(recording(origin, hls_clip()).url))

    assert len(origin.requests) == 9
    assert origin.connections == 1


async def test_credentials_and_headers_go_to_the_streams_own_origin_only():
    clip = hls_clip(seconds=2)
    async with workshop(allow=("127.0.0.2", "127.0.0.3")) as shop, Origin() as origin, Origin("127.0.0.3") as other:
        other.on("/there.ts", clip.segments[0])
        origin.on("/here.ts", clip.segments[1])
        origin.on("/away.ts", redirect(other.url("/there.ts")))
        text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{other.url('/there.ts')}\n#EXTINF:1,\nhere.ts\n"
        text += "#EXT-X-DISCONTINUITY\n#EXTINF:1,\naway.ts\n#EXT-X-ENDLIST\n"
        url = origin.on("/a.m3u8", text.encode()).replace("://", "://user:pa%20ss@")
        frames = await take(shop.hls(url, options={"headers": {"X-Camera-Token": "tok"}}))

    assert len(frames) == 6
    assert len(origin.requests) == 3
    assert all(r.headers["authorization"] == "Basic dXNlcjpwYSBzcw==" for r in origin.requests)
    assert all(r.headers["x-camera-token"] == "tok" for r in origin.requests)
    assert len(other.requests) == 2
    assert not any({"authorization", "x-camera-token"} & r.headers.keys() for r in other.requests)


async def test_a_wrong_password_is_an_auth_error_without_the_password():
    async with workshop(decodes=False) as shop, Origin() as origin:
        url = origin.on("/a.m3u8", Reply(status=401)).replace("://", "://user:secret@")
        with pytest.raises(SourceError) as caught:
            await take(shop.hls(url + "?token=hidden"))

    assert caught.value.code == "auth"
    assert "secret" not in str(caught.value)
    assert "hidden" not in str(caught.value)


def rewritten(live, change):
    """The playlist of a stream at its address, its answer changed."""

    def answer(request):
        return change(live._playlist(request))

    return answer


async def test_a_server_that_tells_viewers_apart_by_a_cookie_gets_it_back_with_every_segment():
    async with workshop() as shop, Origin() as origin:
        clip = hls_clip()
        live = recording(origin, clip)

        def with_cookie(reply):
            reply.headers["Set-Cookie"] = "viewer=7; Path=/; HttpOnly"
            return reply

        def gated(segment):
            def answer(request):
                return Reply(segment) if request.headers.get("cookie") == "viewer=7" else Reply(status=403)

            return answer

        url = origin.on("/gated.m3u8", rewritten(live, with_cookie))
        for number, segment in enumerate(clip.segments):
            origin.on(live.path(number), gated(segment))
        frames = await take(shop.hls(url))

    assert len(frames) == 16


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_playlist_that_comes_compressed_all_the_same_is_read(encoding):
    squeeze = {"gzip": gzip.compress, "deflate": zlib.compress}[encoding]

    def compressed(reply):
        return Reply(squeeze(reply.body), headers={**reply.headers, "Content-Encoding": encoding})

    async with workshop() as shop, Origin() as origin:
        url = origin.on("/small.m3u8", rewritten(recording(origin, hls_clip()), compressed))
        frames = await take(shop.hls(url))

    assert len(frames) == 16
    assert {request.headers["accept-encoding"] for request in origin.requests} == {"identity"}
