"""The clip that ships with the product, looped as a live stream whose time goes on across the loops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import cache
from importlib.resources import files

from freeroam.clock import Clock
from freeroam.sources.decoding.feed import Feed
from freeroam.sources.decoding.pacing import Pacer
from freeroam.sources.decoding.pool import DecoderPool
from freeroam.sources.decoding.values import FeedShape, milliseconds_id
from freeroam.sources.source import SourceFacts, SourceRequest
from freeroam.vocabulary.errors import InvalidInput
from freeroam.vocabulary.frame import Frame, FrameWish

REFERENCE = "demo:"
CLIP_S = 24.0
"""How long the clip is: scripts/make_demo_clip.py makes 600 pictures at 25 a second."""


@cache
def demo_clip() -> bytes:
    """Return the clip: H.264 in a transport stream."""
    return (files("freeroam.sources") / "data" / "demo.ts").read_bytes()


class DemoSource:
    """The clip at the pace of its own time, for ever.

    Args:
        request: ``demo:``; after ``resume_after`` stream time goes on, the picture begins anew.
        pool: Decodes.
        clock: Keeps the pace.

    Raises:
        InvalidInput: Something follows the colon.
    """

    def __init__(self, request: SourceRequest, *, pool: DecoderPool, clock: Clock) -> None:
        if request.stream_ref.lower() not in {REFERENCE, REFERENCE + "//"}:
            raise InvalidInput(f"there is one demo; write {REFERENCE} with nothing behind it")
        self.facts = SourceFacts(kind="demo", is_live=True)
        self._pool = pool
        self._clock = clock
        self._wish = request.wish
        self._feed: Feed | None = None
        self._pacer = Pacer()
        self._start_s = 0.0
        if request.resume_after is not None and request.resume_after.isdecimal():
            self._start_s = int(request.resume_after) / 1000.0 + 1.0 / request.wish.fps

    def change_wish(self, wish: FrameWish) -> None:
        """Ask for another rate; the size stays."""
        self._wish = wish
        if self._feed is not None:
            self._feed.change_wish(wish)

    async def frames(self) -> AsyncIterator[Frame]:
        """Give the sampled frames, each when it is due; never ends.

        Raises:
            SourceError: ``decoder``: the decoder process is gone.
        """
        clip = await asyncio.to_thread(demo_clip)
        due_s: float | None = None
        while True:
            self.facts.plans_ahead = True
            shape = FeedShape(self._wish, "mpegts", next_due_s=due_s, starts_at_s=self._start_s)
            feed = self._feed = self._pool.open_feed(shape)
            async with feed:
                writing = asyncio.create_task(_write_all(feed, clip), name="demo-clip")
                try:
                    async for decoded in feed.decoded():
                        feed.facts.show_in(self.facts)
                        self._pacer.interval_s = 1.0 / self._wish.fps
                        due_at_s = self._pacer.due_monotonic_s(decoded.time_s, self._clock.monotonic_s())
                        await self._clock.sleep(due_at_s - self._clock.monotonic_s())
                        yield decoded.named(
                            milliseconds_id(decoded.time_s),
                            captured_epoch_s=self._clock.epoch_s(),
                            due_monotonic_s=due_at_s,
                        )
                finally:
                    self._feed = None
                    writing.cancel()
                    await asyncio.gather(writing, return_exceptions=True)
                due_s = feed.next_due_s
            self._start_s += CLIP_S


async def _write_all(feed: Feed, clip: bytes) -> None:
    await feed.write(clip)
    feed.end()
