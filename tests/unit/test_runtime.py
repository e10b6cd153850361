"""What the composition root gives to its parts, and what it shows of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from freeroam.runtime import Runtime
from freeroam.settings import Settings
from freeroam.sources.decoding.pool import DecoderPool
from freeroam.sources.source import SourceRequest
from freeroam.vocabulary.errors import SourceError
from freeroam.vocabulary.frame import FrameWish
from freeroam.vocabulary.job import SourceOptions


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    """Built, not started."""
    return Runtime(Settings(_env_file=None, data_dir=tmp_path, model_type="fake", source_disk_bytes=2**20))


async def test_the_memory_of_frames_and_the_disk_of_recordings_are_shown(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given decoders that hold frames and have copied others, and a recording that fills the disk that may be taken
    counted = {"died": 2}
    monkeypatch.setattr(DecoderPool, "frame_bytes", 4096)
    monkeypatch.setattr(DecoderPool, "refused_places", 3)
    monkeypatch.setattr(DecoderPool, "replaced", counted)
    space = runtime._temporary
    space.take(2**20)
    with pytest.raises(SourceError, match="SOURCE_DISK_BYTES"):
        space.take(1)

    # When metrics are read twice, and a decoder is lost in between
    runtime._show_video()
    counted["died"] = 5
    runtime._show_video()

    # Then they say so, each thing once
    seen = runtime.metrics.snapshot()
    assert (seen["freeroam_frame_memory_bytes"], seen["freeroam_temporary_bytes"]) == (4096.0, 2.0**20)
    assert (seen["freeroam_frames_copied_total"], seen["freeroam_temporary_refused_total"]) == (3.0, 1.0)
    assert seen["freeroam_decoder_restarts_total"] == {"reason=died": 5.0}


def test_sources_of_the_runtime_share_the_disk_that_is_shown(runtime: Runtime) -> None:
    # Given two recordings by HTTP, when their sources are built, then both take from the space that is shown

    build = runtime._source_factories()["http"]
    sources = [
        build(SourceRequest(f"http://example.com/{name}.mp4", FrameWish(1.0), SourceOptions())) for name in ("a", "b")
    ]
    assert {id(source._space) for source in sources} == {id(runtime._temporary)}
