"""What a server sends is held to the operator's limits, and the error names the setting."""

from __future__ import annotations

import gzip
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from freeroam.sources.file import FileSource
from freeroam.sources.limits import SourceLimits
from freeroam.vocabulary.errors import SourceError
from tests.clips import hls_clip, picture
from tests.origins import LiveHls, Origin, Reply, Request
from tests.workshop import take, wanted, workshop

CAMERA = "multipart/x-mixed-replace; boundary=x"


def parts_of(jpeg: bytes, *, has_length: bool) -> bytes:
    length = f"Content-Length: {len(jpeg)}\r\n" if has_length else ""
    return b"".join(f"--x\r\n{length}\r\n".encode() + jpeg + b"\r\n" for _ in range(2))


@pytest.mark.parametrize(
    ("is_hls", "reply", "setting"),
    [
        pytest.param(True, None, "SOURCE_PLAYLIST_BYTES", id="playlist"),
        pytest.param(False, None, "SOURCE_PLAYLIST_BYTES", id="playlist by another name"),
        pytest.param(
            False, Reply(picture(), headers={"Content-Type": "image/jpeg"}), "SOURCE_PICTURE_BYTES", id="jpeg"
        ),
        *(
            pytest.param(
                False,
                Reply(parts_of(picture(), has_length=told), headers={"Content-Type": CAMERA}),
                "SOURCE_PICTURE_BYTES",
                id="mjpeg with lengths" if told else "mjpeg without lengths",
            )
            for told in (True, False)
        ),
    ],
)
async def test_what_is_larger_than_the_operator_allows_is_refused_by_name(
    is_hls: bool, reply: Reply | None, setting: str
) -> None:
    limits = SourceLimits(playlist_bytes=100, picture_bytes=200)
    async with workshop(limits=limits) as shop, Origin() as origin:
        if reply is None:
            live = LiveHls(origin, hls_clip())
            live.publish(6)
            url = live.url if is_hls else origin.on("/list", Reply(live.text().encode()))
        else:
            url = origin.on("/what", reply)
        with pytest.raises(SourceError, match=setting) as caught:
            await take((shop.hls if is_hls else shop.http)(url))

    assert caught.value.code == "bad_data"


@pytest.mark.parametrize(
    ("encoding", "head", "more"),
    [
        pytest.param("gzip", b"", gzip.compress(b""), id="members with nothing in them"),
        pytest.param("deflate", zlib.compress(b"#EXTM3U\n"), b"more", id="what follows the end"),
    ],
)
async def test_compressed_bytes_that_become_nothing_are_held_to_the_limit_too(
    encoding: str, head: bytes, more: bytes
) -> None:
    async def endless(request: Request) -> None:
        request.writer.write(f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\n\r\n".encode() + head)
        while not request.writer.is_closing():
            request.writer.write(more * 2000)
            await request.writer.drain()

    async with workshop(limits=SourceLimits(playlist_bytes=100)) as shop, Origin() as origin:
        with pytest.raises(SourceError, match="SOURCE_PLAYLIST_BYTES"):
            await take(shop.hls(origin.on("/list.m3u8", endless)))


async def test_a_segment_larger_than_the_operator_allows_is_counted_and_passed_over() -> None:
    clip = hls_clip()
    largest = max(range(6), key=lambda number: len(clip.segments[number]))
    limits = SourceLimits(segment_bytes=len(clip.segments[largest]) - 1)
    async with workshop(limits=limits) as shop, Origin() as origin:
        live = LiveHls(origin, clip)
        live.publish(6)
        live.is_ended = True
        source = shop.hls(live.url)
        await take(source)

    assert source.facts.skipped["segments_bad_data"] >= 1
    assert "SOURCE_SEGMENT_BYTES" in (source.facts.last_bad or "")


@pytest.mark.parametrize("fits", [True, False])
async def test_a_picture_file_is_held_to_the_limit(tmp_path: Path, fits: bool) -> None:
    jpeg = picture()
    (tmp_path / "a.jpg").write_bytes(jpeg)
    limits = replace(SourceLimits(), picture_bytes=len(jpeg) if fits else len(jpeg) - 1)
    async with workshop() as shop:
        source = FileSource(wanted("file:a.jpg"), root=tmp_path, pool=shop.pool, clock=shop.clock, limits=limits)
        if fits:
            assert len(await take(source)) == 1
        else:
            with pytest.raises(SourceError, match="SOURCE_PICTURE_BYTES"):
                await take(source)
