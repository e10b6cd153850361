"""How a live playlist is reloaded: what ends it, what it outlives."""

import asyncio

from freeroam.security.url_policy import parse_target
from freeroam.sources.fetching import Body
from freeroam.sources.hls_reloading import PlaylistReader
from freeroam.sources.limits import SourceLimits
from freeroam.testing import FakeClock
from freeroam.vocabulary.frame import FrameWish

HOME = parse_target("http://example.org/live.m3u8")
SEGMENTS = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:7\n#EXTINF:2,\na.ts\n"
NOTHING = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n"


class Session:
    """Answers each request with the next text."""

    home = HOME
    limits = SourceLimits()

    def __init__(self, *texts):
        self.texts = list(texts)

    async def read(self, url, *_, **__):
        return Body(self.texts.pop(0).encode(), parse_target(url), "")


async def test_a_stream_that_ends_with_nothing_listed_has_ended():
    clock = FakeClock()
    reader = PlaylistReader(Session(SEGMENTS, NOTHING + "#EXT-X-ENDLIST\n"), clock, 10.0, 20.0)
    await reader.open(None, FrameWish(2.0))

    reloading = asyncio.create_task(reader.reload())
    await clock.advance(3.0)
    playlist = await reloading

    assert playlist.is_ended
    assert playlist.segments == ()
