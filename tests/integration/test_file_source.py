"""Files under the media root: read to their end, resumed in the middle, and nothing outside is ever opened."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from freeroam.clock import SystemClock
from freeroam.sources.decoding.pool import DecoderPool
from freeroam.sources.decoding.values import DecoderConfig
from freeroam.sources.file import FileSource
from freeroam.sources.source import SourceRequest
from freeroam.vocabulary.errors import ForbiddenReference, InvalidInput, SourceError
from freeroam.vocabulary.frame import Frame, FrameWish
from tests.numbered_clips import clip, picture_bytes, read_number
from tests.waiting import until


@pytest.fixture
async def pool() -> AsyncIterator[DecoderPool]:
    running = DecoderPool(DecoderConfig(processes=1), SystemClock())
    await running.start()
    yield running
    await running.stop()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "media"
    folder.mkdir()
    (tmp_path / "secret.mp4").write_bytes(clip("mp4"))
    return folder


def source(root: Path | None, pool: DecoderPool, ref: str, fps: float = 1.0, **more) -> FileSource:
    request = SourceRequest(ref, FrameWish(fps, 200, 200), **more)
    return FileSource(request, root=root, pool=pool, clock=SystemClock())


async def frames_of(opened: FileSource) -> list[Frame]:
    return [frame async for frame in opened.frames()]


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("index-at-the-end.mp4", lambda: clip("mp4")),
        ("fragmented.mp4", lambda: clip("mp4", fragmented=True)),
        ("clip.mkv", lambda: clip("matroska")),
        ("clip.ts", lambda: clip("mpegts")),
        ("no name tells", lambda: clip("mp4")),
    ],
)
async def test_a_file_is_read_to_its_end(pool, root, name, data) -> None:
    (root / name).write_bytes(data())

    opened = source(root, pool, f"file:{name}")
    frames = await frames_of(opened)

    assert [round(frame.sample_time_s) for frame in frames] == [0, 1, 2, 3, 4, 5]
    assert all(int(frame.frame_id) == round(frame.stream_time_s * 1000) for frame in frames)
    assert [read_number(f.pixels, f.width_px, f.height_px) for f in frames] == [
        round(frame.stream_time_s * 25) for frame in frames
    ]
    assert opened.facts.codec == "h264"
    assert not opened.facts.is_live
    assert pool.open_feeds == 0


@pytest.mark.parametrize("form", ["mp4", "matroska", "mpegts"])
@pytest.mark.parametrize("stop", [1, 3, 5])
async def test_reading_goes_on_after_the_last_stored_frame(pool, root, form, stop) -> None:
    (root / "clip").write_bytes(clip(form, seconds=12))
    whole = await frames_of(source(root, pool, "file:clip"))
    last = whole[stop]

    rest = await frames_of(
        source(root, pool, "file:clip", resume_after=last.frame_id, resume_due_s=last.sample_time_s + 1.0)
    )

    assert [frame.frame_id for frame in rest] == [frame.frame_id for frame in whole[stop + 1 :]]
    assert [bytes(frame.pixels) for frame in rest] == [bytes(frame.pixels) for frame in whole[stop + 1 :]]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
async def test_a_picture_is_a_video_of_one_frame(pool, root, form) -> None:
    (root / "picture").write_bytes(picture_bytes(form, number=77))

    frames = await frames_of(source(root, pool, "file:picture"))
    after = await frames_of(source(root, pool, "file:picture", resume_after="0"))

    assert [frame.frame_id for frame in frames] == ["0"]
    assert read_number(frames[0].pixels, frames[0].width_px, frames[0].height_px) == 77
    assert after == []


async def test_a_turned_video_is_shown_upright(pool, root) -> None:
    import io

    import av

    buffer = io.BytesIO()
    with (
        av.open(io.BytesIO(clip("mp4", seconds=2))) as original,
        av.open(buffer, "w", format="mp4") as output,
    ):
        stream = output.add_stream_from_template(original.streams.video[0])
        try:
            stream.set_display_rotation(90)
        except AttributeError:
            pytest.skip("this PyAV cannot write a display matrix")
        for packet in original.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    (root / "turned.mp4").write_bytes(buffer.getvalue())

    frames = await frames_of(source(root, pool, "file:turned.mp4"))

    assert (frames[0].width_px, frames[0].height_px) == (112, 200)


@pytest.mark.parametrize(
    "ref",
    [
        "file:../secret.mp4",
        "file:a/../../secret.mp4",
        "file:%2e%2e/secret.mp4",
        "file:/etc/passwd",
        "file:///etc/passwd",
        "file://localhost/etc/passwd",
        "file:////etc/passwd",
        "file:.",
        "file:..",
    ],
)
def test_a_path_out_of_the_root_is_refused_by_its_text(root, ref) -> None:
    with pytest.raises(ForbiddenReference):
        source(root, None, ref)


@pytest.mark.parametrize("ref", ["file:", "file://", "file:///", "file://host/clip.mp4", "file:a%00b", "FILE:", "clip"])
def test_a_malformed_reference_is_refused(root, ref) -> None:
    with pytest.raises(InvalidInput):
        source(root, None, ref)


def test_without_a_root_no_file_is_opened() -> None:
    with pytest.raises(ForbiddenReference, match="MEDIA_ROOT"):
        source(None, None, "file:clip.mp4")


async def test_absolute_paths_and_links_below_the_root_are_fine(pool, root) -> None:
    (root / "folder").mkdir()
    (root / "folder" / "a clip.mp4").write_bytes(clip("mp4"))
    (root / "link.mp4").symlink_to(root / "folder" / "a clip.mp4")

    for ref in (f"file://{root}/folder/a%20clip.mp4", f"file:{root}/folder/a clip.mp4", "file:link.mp4"):
        assert len(await frames_of(source(root, pool, ref))) == 6


@pytest.mark.parametrize(
    ("make", "code"),
    [
        pytest.param(lambda root: (root / "x").symlink_to(root.parent / "secret.mp4"), "forbidden", id="link out"),
        pytest.param(lambda root: (root / "x").symlink_to("/dev/zero"), "forbidden", id="link to a device"),
        pytest.param(lambda root: os.mkfifo(root / "x"), "forbidden", id="named pipe"),
        pytest.param(lambda root: (root / "x").mkdir(), "forbidden", id="folder"),
        pytest.param(lambda root: (root / "x").symlink_to(root / "x"), "forbidden", id="link to itself"),
        pytest.param(lambda root: None, "not_found", id="nothing"),
        pytest.param(lambda root: (root / "x").write_bytes(b""), "bad_data", id="empty"),
        pytest.param(lambda root: (root / "x").write_text("#EXTM3U\n#EXTINF:2,\n/etc/passwd\n"), "bad_data", id="list"),
        pytest.param(lambda root: (root / "x").write_bytes(clip("mp4")[:3000]), "bad_data", id="without its index"),
    ],
)
async def test_what_cannot_be_read_says_why(pool, root, make, code) -> None:
    make(root)

    with pytest.raises(SourceError) as raised:
        await frames_of(source(root, pool, "file:x"))

    assert raised.value.code == code


async def test_a_link_in_the_middle_of_the_path_leads_nowhere(pool, root) -> None:
    (root / "out").symlink_to(root.parent)

    with pytest.raises(SourceError) as raised:
        await frames_of(source(root, pool, "file:out/secret.mp4"))

    assert raised.value.code == "forbidden"


async def test_a_slow_disk_leaves_nothing_open_when_the_job_is_cancelled(pool, root) -> None:
    (root / "a.mp4").write_bytes(clip("mp4"))
    is_asked, may_go_on = threading.Event(), threading.Event()

    class SlowRoot(type(root)):
        def resolve(self, strict: bool = False) -> Path:
            is_asked.set()
            may_go_on.wait()
            return Path(self).resolve(strict)

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
    open_before = psutil.Process().num_fds()
    reading = asyncio.create_task(frames_of(source(SlowRoot(root), pool, "file:a.mp4")))
    await until(is_asked.is_set)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    may_go_on.set()
    await asyncio.to_thread(is_asked.wait)  # comes after it on the only thread

    await until(lambda: psutil.Process().num_fds() == open_before)


async def test_a_reader_that_goes_away_leaves_nothing_open(pool, root) -> None:
    import psutil

    (root / "clip.mp4").write_bytes(clip("mp4", seconds=30))
    before = psutil.Process().num_fds()

    for _ in range(5):
        frames = source(root, pool, "file:clip.mp4", fps=25).frames()
        await anext(frames)
        await frames.aclose()

    assert psutil.Process().num_fds() == before
    assert pool.open_feeds == 0
