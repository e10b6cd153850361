"""Servers that lie, stall and break: no crash, no hang, a clear code, and the stream goes on where it is good."""

import asyncio
import os
import random
import signal

import pytest

from freeroam.sources.fetching import FetchTimeouts
from freeroam.sources.hls import HlsConfig
from freeroam.vocabulary.errors import SourceError
from tests.clips import hls_clip, huge_segment, second_of
from tests.origins import Canary, LiveHls, Origin, Reply, drip, redirect, running
from tests.workshop import take, workshop

IMPATIENT = FetchTimeouts(answer_s=2.0, read_s=1.0)
BAD = 3
"""The number of the segment that is broken; all others are good."""


def flipped(data, seed=1):
    """The same bytes with one bit in two hundred turned over."""
    chance = random.Random(seed)
    broken = bytearray(data)
    for _ in range(len(data) // 25):
        broken[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(broken)


async def silence(_request):
    await asyncio.Event().wait()


def late(body, after_s):
    """Answer with those bytes, but not at once."""

    async def answer(_request):
        await asyncio.sleep(after_s)
        return Reply(body)

    return answer


def hang_up(request):
    request.writer.transport.abort()


def no_http(request):
    request.writer.write(b"SSH-2.0-OpenSSH_9.6\r\n")


async def take_until_error(source, do=None):
    """The frames that came, and the error after them."""
    frames = []
    try:
        async for frame in source.frames():
            frames.append(frame)
            if do is not None:
                do(frame)
    except SourceError as error:
        return frames, error
    raise AssertionError("the source ended without an error")


FAULTS = {
    "not found": (Reply(status=404), "segments_not_found"),
    "gone": (Reply(status=410), "segments_not_found"),
    "forbidden by the server": (Reply(status=403), "segments_unavailable"),
    "server error": (Reply(status=500), "segments_server_error"),
    "unavailable": (Reply(status=503), "segments_server_error"),
    "too many requests": (Reply(status=429), "segments_unavailable"),
    "teapot": (Reply(status=418), "segments_server_error"),
    "no content": (Reply(status=204), "segments_server_error"),
    "silence": (silence, "segments_too_slow"),
    "hang-up": (hang_up, "segments_server_error"),
    "another protocol": (no_http, "segments_server_error"),
    "empty": (Reply(b""), "segments_bad_data"),
    "a page": (Reply(b"<html>Sorry</html>", headers={"Content-Type": "text/html"}), "segments_bad_data"),
    "json": (Reply(b'{"error": "no"}'), "segments_bad_data"),
    "a playlist": (Reply(b"#EXTM3U\n"), "segments_bad_data"),
    "packed audio": (Reply(b"ID3" + bytes(4000)), "segments_bad_data"),
    "subtitles": (Reply(b"WEBVTT\n\n"), "segments_bad_data"),
    "noise": (Reply(random.Random(7).randbytes(30_000)), "segments_bad_data"),
    "compressed": (Reply(b"\x1f\x8b" + bytes(100), headers={"Content-Encoding": "gzip"}), "segments_bad_data"),
    "too long": (Reply(b"G", headers={"Content-Length": str(10**12)}), "segments_bad_data"),
    "a lie about its length": (Reply(b"G" * 500, headers={"Content-Length": "5000"}, cut_at=500), "segments_bad_data"),
    "redirect to loopback": (redirect("http://127.0.0.1:{canary}/x.ts"), "segments_forbidden"),
    "redirect to a file": (redirect("file:///etc/passwd"), "segments_forbidden"),
    "redirect to nowhere": (Reply(status=302), "segments_server_error"),
    "redirect in a circle": (redirect("/live-3.ts"), "segments_server_error"),
    "malformed redirect": (redirect("http://[oops/"), "segments_bad_data"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_segment_that_cannot_be_had_is_counted_and_passed_over(fault):
    answer, reason = FAULTS[fault]
    async with workshop(timeouts=IMPATIENT) as shop, Origin() as origin, Canary() as canary:
        if isinstance(answer, Reply) and "Location" in answer.headers:
            answer = redirect(answer.headers["Location"].replace("{canary}", str(canary.port)))
        live = LiveHls(origin, hls_clip(), window=100)
        for number in range(6):
            live.publish(1, answer=answer if number == BAD else None)
        live.is_ended = True
        source = shop.hls(live.url)
        frames = await take(source)

    assert [second_of(frame.pixels) for frame in frames[::2]] == [0, 1, 2, 4, 5]
    assert source.facts.skipped == {reason: 1}
    assert source.facts.last_bad
    assert str(BAD) in source.facts.last_bad
    assert frames[6].stream_time_s == pytest.approx(4.0, abs=0.05)
    assert canary.calls == 0


@pytest.mark.parametrize("form", ["mpegts", "fmp4"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
async def test_the_stream_goes_on_after_a_segment_that_was_cut_short(form, share):
    clip = hls_clip(form=form)
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, clip, window=100)
        for number in range(7):
            body = clip.segments[number]
            live.publish(1, answer=body[: max(1, int(len(body) * share))] if number == BAD else None)
        live.is_ended = True
        frames = await take(shop.hls(live.url))

    seconds = [second_of(frame.pixels) for frame in frames]
    assert {0, 1, 2, 5, 6} <= set(seconds)


@pytest.mark.parametrize("form", ["mpegts", "fmp4"])
@pytest.mark.parametrize("seed", range(6))
async def test_the_stream_goes_on_after_a_segment_with_turned_bits(form, seed):
    clip = hls_clip(seconds=10, form=form)
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, clip, window=100)
        for number in range(10):
            live.publish(1, answer=flipped(clip.segments[number], seed) if number == BAD else None)
        live.is_ended = True
        frames = await take(shop.hls(live.url))

    seconds = {second_of(frame.pixels) for frame in frames}
    assert {0, 1, 2} <= seconds
    assert {8, 9} <= seconds


@pytest.mark.parametrize("slow", range(BAD + 1, 10))
@pytest.mark.parametrize("seed", [1, 4])
async def test_segments_that_a_failed_run_swallowed_come_before_the_one_being_fetched_meanwhile(seed, slow):
    clip = hls_clip(seconds=10, form="fmp4")
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, clip, window=100)
        for number in range(10):
            answer = flipped(clip.segments[number], seed) if number == BAD else None
            live.publish(1, answer=late(clip.segments[number], 0.4) if number == slow else answer)
        live.is_ended = True
        frames = await take(shop.hls(live.url))

    seconds = [second_of(frame.pixels) for frame in frames]
    assert {0, 1, 2, 5, 6, 7, 8, 9} <= set(seconds)
    assert [frame.stream_time_s for frame in frames] == sorted(frame.stream_time_s for frame in frames)


@pytest.mark.parametrize("side", [8_000, 12_000, 16_000, 20_000])
async def test_pictures_of_hostile_size_cost_their_own_segment_only(side):
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip(), window=100)
        for number in range(7):
            tags = "#EXT-X-DISCONTINUITY\n" if number in {BAD, BAD + 1} else ""
            live.publish(1, tags=tags, answer=huge_segment(side) if number == BAD else None)
        live.is_ended = True
        source = shop.hls(live.url)
        frames = await take(source)

    seconds = [second_of(frame.pixels) for frame in frames if frame.source_width_px == 160]
    assert {0, 1, 2, 4, 5, 6} <= set(seconds)
    assert all(frame.source_width_px == 160 for frame in frames)


@pytest.mark.parametrize("side", [12_000, 20_000])
async def test_a_stream_of_nothing_but_pictures_of_hostile_size_fails_with_a_code(side):
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip(), window=100)
        live.publish(4, tags="#EXT-X-DISCONTINUITY\n", answer=huge_segment(side))
        live.is_ended = True
        with pytest.raises(SourceError) as caught:
            await take(shop.hls(live.url))

    assert caught.value.code in {"codec", "no_video", "bad_data"}


@pytest.mark.parametrize("has_tag", [True, False])
@pytest.mark.parametrize("form", ["mpegts", "fmp4"])
async def test_a_change_of_size_is_followed(form, has_tag):
    small, large = hls_clip(seconds=4, form=form), hls_clip(seconds=4, form=form, width=320, height=180)
    async with workshop() as shop, Origin() as origin:
        lines = []
        for name, clip in (("small", small), ("large", large)):
            if clip.init is not None:
                origin.on(f"/{name}.mp4", clip.init)
                lines.append(f'#EXT-X-MAP:URI="{name}.mp4"\n')
            for number in range(4):
                origin.on(f"/{name}{number}.x", clip.segments[number])
                tag = "#EXT-X-DISCONTINUITY\n" if has_tag and name == "large" and number == 0 else ""
                lines.append(f"{tag}#EXTINF:1,\n{name}{number}.x\n")
        text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n{''.join(lines)}#EXT-X-ENDLIST\n"
        frames = await take(shop.hls(origin.on("/a.m3u8", text.encode())))

    assert {frame.source_width_px for frame in frames} == {160, 320} or not has_tag
    assert {frame.width_px for frame in frames} == {80}
    assert [frame.stream_time_s for frame in frames] == sorted(frame.stream_time_s for frame in frames)


async def test_a_segment_that_drips_is_given_up_and_the_stream_goes_on():
    config = HlsConfig(segment_budget_s=1.0)
    async with workshop(timeouts=IMPATIENT, config=config) as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip())
        for number in range(5):
            dripping = drip(hls_clip().segments[number], every_s=0.05)
            live.publish(1, answer=dripping if number == BAD else None)
        source = shop.hls(live.url)
        async with running(live.go_on()):
            frames = await take(source, 8)

    assert source.facts.skipped["segments_too_slow"] == 1
    assert BAD not in {second_of(frame.pixels) for frame in frames}
    assert max(second_of(frame.pixels) for frame in frames) > BAD


async def test_a_playlist_that_drips_is_a_timeout():
    config = HlsConfig(playlist_budget_s=1.0)
    async with workshop(timeouts=IMPATIENT, config=config, decodes=False) as shop, Origin() as origin:
        url = origin.on("/a.m3u8", drip(b"#EXTM3U\n" * 1000, content_type="application/x-mpegurl"))
        with pytest.raises(SourceError) as caught:
            await take(shop.hls(url))

    assert caught.value.code == "timeout"


async def test_a_frozen_playlist_is_a_stall_after_the_frames_that_it_had():
    async with workshop(config=HlsConfig(stall_timeout_s=1.0)) as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip())
        live.publish(3)
        source = shop.hls(live.url)
        frames, error = await take_until_error(source)

    assert error.code == "stalled"
    assert [second_of(frame.pixels) for frame in frames[::2]] == [0, 1, 2]


@pytest.mark.parametrize("announces", [True, False])
async def test_an_endless_playlist_is_bad_data(announces):
    async def endless(request):
        length = "Content-Length: 99999999999\r\n" if announces else ""
        request.writer.write(f"HTTP/1.1 200 OK\r\n{length}\r\n#EXTM3U\n#EXT-X-TARGETDURATION:1\n".encode())
        while True:
            request.writer.write(b"#EXTINF:1,\na.ts\n" * 5000)
            await request.writer.drain()

    async with workshop(decodes=False) as shop, Origin() as origin:
        with pytest.raises(SourceError) as caught:
            await take(shop.hls(origin.on("/a.m3u8", endless)))

    assert caught.value.code == "bad_data"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "<html></html>",
        "#EXTM3U\n#EXT-X-TARGETDURATION:nan\n#EXTINF:1,\na.ts\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:nan,\na.ts\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:-1,\na.ts\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1e400,\na.ts\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:-5\n#EXTINF:1,\na.ts\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:" + "9" * 500 + "\n#EXTINF:1,\na.ts\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n#EXT-X-BYTERANGE:-4@-9\na.ts\n",
        '#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-KEY:METHOD=AES-128,URI="k",IV=0x' + "f" * 80 + "\n#EXTINF:1,\na.ts\n",
        "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=x\na.m3u8\n",
        "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1,RESOLUTION=axb\na.m3u8\n",
        "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\na.m3u8\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-I-FRAMES-ONLY\n#EXTINF:1,\na.ts\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n\xff\xfe",
    ],
)
async def test_a_playlist_that_makes_no_sense_has_a_clear_code(text):
    async with workshop(decodes=False) as shop, Origin() as origin:
        url = origin.on("/a.m3u8", text.encode("latin-1"))
        with pytest.raises(SourceError) as caught:
            await take(shop.hls(url))

    assert caught.value.code in {"bad_data", "no_video"}


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, "auth"),
        (403, "auth"),
        (404, "not_found"),
        (410, "not_found"),
        (500, "server"),
        (503, "server"),
        (429, "unavailable"),
    ],
)
async def test_a_playlist_that_is_refused_says_why(status, code):
    async with workshop(decodes=False) as shop, Origin() as origin:
        with pytest.raises(SourceError) as caught:
            await take(shop.hls(origin.on("/a.m3u8", Reply(status=status))))

    assert caught.value.code == code


@pytest.mark.parametrize("status", [404, 500])
async def test_a_stream_whose_every_segment_fails_is_given_up_with_the_code(status):
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip(), window=100)
        live.publish(7, answer=Reply(status=status))
        live.is_ended = True
        with pytest.raises(SourceError) as caught:
            await take(shop.hls(live.url))

    assert caught.value.code == {404: "not_found", 500: "server"}[status]


async def test_a_segment_that_fails_once_is_asked_again_and_nothing_is_lost():
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip(), window=100)
        answers = [
            Reply(status=503),
            Reply(hls_clip().segments[BAD][:700], headers={"Content-Length": "9000"}, cut_at=700),
        ]

        def flaky(_request):
            return answers.pop(0) if answers else Reply(hls_clip().segments[BAD])

        for number in range(6):
            live.publish(1, answer=flaky if number == BAD else None)
        live.is_ended = True
        source = shop.hls(live.url)
        frames = await take(source)

    assert [second_of(frame.pixels) for frame in frames[::2]] == [0, 1, 2, 3, 4, 5]
    assert source.facts.skipped == {}


@pytest.mark.parametrize("key", [bytes(16), b"short", b"far too long for a key", Reply(status=404), Reply(status=500)])
async def test_a_wrong_key_costs_the_segments_that_need_it(key):
    async with workshop() as shop, Origin() as origin:
        origin.on("/the.key", key)
        live = LiveHls(origin, hls_clip(), window=100)
        live.publish(2)
        live.publish(2, tags='#EXT-X-KEY:METHOD=AES-128,URI="the.key"\n', answer=bytes(range(256)) * 16)
        live.publish(2, tags="#EXT-X-KEY:METHOD=NONE\n")
        live.is_ended = True
        source = shop.hls(live.url)
        frames = await take(source)

    assert [second_of(frame.pixels) for frame in frames[::2]] == [0, 1, 4, 5]
    assert sum(source.facts.skipped.values()) == 2


async def test_a_server_that_begins_anew_is_followed():
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip())
        live.published = live.dropped = 5000
        live.publish(3)
        source = shop.hls(live.url)
        again = LiveHls(origin, hls_clip(), name="/again")
        again.publish(3)

        async def restart():
            while origin.asked("/live.m3u8") < 2:
                await asyncio.sleep(0.02)
            origin.on("/live.m3u8", lambda _request: Reply(again.text().encode()))

        async with running(restart()), running(again.go_on()):
            frames = await take(source, 12)

    assert source.facts.skipped["playlist_rewinds"] == 1
    assert len(frames) == 12
    assert [frame.stream_time_s for frame in frames] == sorted(frame.stream_time_s for frame in frames)


async def test_an_old_copy_of_the_playlist_changes_nothing():
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip(seconds=10))
        live.publish(4)
        old = Reply(live.text().encode())
        live.publish(1)
        count = 0

        def cached(_request):
            nonlocal count
            count += 1
            return old if count % 2 == 0 else Reply(live.text().encode())

        origin.on("/live.m3u8", cached)
        source = shop.hls(live.url)
        async with running(live.go_on(0.7)):
            frames = await take(source, 8)

    seconds = [second_of(frame.pixels) for frame in frames[::2]]
    assert seconds == list(range(seconds[0], seconds[0] + 4))
    assert source.facts.skipped == {}


async def test_timestamps_that_jump_without_a_word_do_not_stop_the_stream():
    # The clip begins again without a discontinuity tag: its timestamps fall back by three seconds.
    clip = hls_clip(seconds=3)
    async with workshop() as shop, Origin() as origin:
        lines = []
        for number in range(9):
            origin.on(f"/{number}.ts", clip.segments[number % 3])
            lines.append(f"#EXTINF:1,\n{number}.ts\n")
        text = f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n{''.join(lines)}#EXT-X-ENDLIST\n"
        frames = await take(shop.hls(origin.on("/a.m3u8", text.encode())))

    assert len(frames) >= 6


async def test_a_decoder_that_is_killed_is_told_at_once():
    async with workshop() as shop, Origin() as origin:
        live = LiveHls(origin, hls_clip())
        live.publish(6)
        source = shop.hls(live.url)

        def kill(_frame):
            for pid in shop.pool.pids:
                os.kill(pid, signal.SIGKILL)

        _, error = await take_until_error(source, kill)

    assert error.code == "decoder"
