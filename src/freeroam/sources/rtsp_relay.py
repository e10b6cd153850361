"""Packets of one RTSP session on their way to a decoder, and to its successor if that is lost."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress

from freeroam.clock import Clock
from freeroam.sources.decoding.feed import Feed
from freeroam.sources.rtp_groups import GroupFinder
from freeroam.sources.rtsp_session import RtspSession
from freeroam.vocabulary.errors import SourceError, SourceErrorCode

KEPT_BYTES = 4 * 1024 * 1024
"""Most that is kept of the present group of pictures; of a larger one nothing is kept."""


class RtspRelay:
    """Carries packets to the feed that is open now.

    Nothing is read before there is one, so that the video's first keyframe waits in the connection for a decoder. Then
    the packets since the last keyframe are kept, so that a new decoder need not wait for the next one, nor the camera
    be asked anew.

    Args:
        session: That plays.
        clock: Time.

    Attributes:
        is_over: Whether the session has ended; no packet comes any more.
    """

    def __init__(self, session: RtspSession, clock: Clock) -> None:
        assert session.description is not None
        text = session.description.text
        self._session = session
        self._clock = clock
        self._description = len(text).to_bytes(2, "big") + text
        self._finder = GroupFinder(text)
        self._group: list[bytes] = []
        self._group_bytes = 0
        self._group_began_s: float | None = None
        self._opened_s = clock.monotonic_s()
        self._feed: Feed | None = None
        self._unsent: list[bytes] = []
        self._has_feed = asyncio.Event()
        self._endings: set[asyncio.Task[None]] = set()
        self.is_over = False

    @property
    def elapsed_s(self) -> float:
        """Seconds from the session's beginning to the keyframe that a new feed begins with, as near as is known now."""
        began_s = self._clock.monotonic_s() if self._group_began_s is None else self._group_began_s
        return began_s - self._opened_s

    def turn_to(self, feed: Feed) -> None:
        """Let packets go to ``feed`` from now on, those of the present group of pictures first.

        Of a session that has ended it gets those, and ends.
        """
        self._feed = feed
        # Without a kept group the decoder looks for a keyframe itself.
        self._unsent = [self._description, *self._group]
        self._has_feed.set()
        if self.is_over:
            self._end(feed)

    async def run(self) -> bool:
        """Carry packets until the session ends, which is when it returns True.

        Raises:
            SourceError: Why the connection broke.
        """
        await self._has_feed.wait()
        try:
            async with aclosing(self._session.records()) as records:
                async for data in records:
                    self._keep(data)
                    await self._pass_on(data)
            return True
        finally:
            self.is_over = True
            if self._feed is not None:
                self._end(self._feed)

    async def aclose(self) -> None:
        """Give up what the last feed has not taken yet."""
        for task in self._endings:
            task.cancel()
        await asyncio.gather(*self._endings, return_exceptions=True)

    def _keep(self, data: bytes) -> None:
        start = self._finder.last_start(data)
        if start is not None:
            self._group, self._group_bytes, self._group_began_s = [], 0, self._clock.monotonic_s()
            data = data[start:]
        if self._group_began_s is None:
            return
        self._group.append(data)
        self._group_bytes += len(data)
        if self._group_bytes > KEPT_BYTES:
            self._group, self._group_began_s = [], None

    async def _pass_on(self, data: bytes) -> None:
        feed = self._feed
        if feed is None:
            return
        unsent, self._unsent = self._unsent, []
        try:
            await feed.write(b"".join([*unsent, data]))
        except SourceError as error:
            if error.source_code is not SourceErrorCode.DECODER:
                raise
            # Whoever takes its frames hears of it too, and turns to another.
            if self._feed is feed:
                self._feed = None

    def _end(self, feed: Feed) -> None:
        unsent, self._unsent = self._unsent, []
        task = asyncio.create_task(_write_last(feed, b"".join(unsent)), name="end rtsp")
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)


async def _write_last(feed: Feed, data: bytes) -> None:
    # Whoever takes its frames hears of it too.
    with suppress(SourceError):
        await feed.write(data)
    feed.end()
