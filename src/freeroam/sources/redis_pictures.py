"""Pictures of Redis entries, decoded: a lost decoder costs no entry, and an entry that kills decoders only itself."""

from __future__ import annotations

import asyncio

from freeroam.sources.decoding.pictures import PictureFeed
from freeroam.sources.decoding.pool import DecoderPool
from freeroam.sources.decoding.values import DecodedFrame
from freeroam.sources.redis_entries import BadEntry, Entry
from freeroam.vocabulary.errors import SourceError, SourceErrorCode
from freeroam.vocabulary.frame import FrameWish

DECODER_TRIES = 3
"""A picture under which this many decoder processes died is a bad entry."""


class RedisPictures:
    """Decodes the pictures of entries, several at once; ``async with`` takes a decoder and gives it back.

    Args:
        pool: The decoders.
        wish: The box that pictures fit in.
        owner: Names the stream, see ``FeedShape.owner``.
    """

    def __init__(self, pool: DecoderPool, wish: FrameWish, owner: str = "") -> None:
        self._owner = owner
        self._pool = pool
        self._wish = wish
        self._feed: PictureFeed | None = None
        self._asked: set[asyncio.Task[DecodedFrame]] = set()

    async def __aenter__(self) -> RedisPictures:
        """Take a decoder.

        Raises:
            SourceError: The decoders are not running.
        """
        self._feed = await self._pool.open_pictures(self._wish, self._owner).__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Give the decoder back; pictures still asked for are dropped."""
        for task in self._asked:
            task.cancel()
        try:
            await asyncio.gather(*self._asked, return_exceptions=True)
        finally:
            if self._feed is not None:
                await self._feed.aclose()

    def ask(self, entry: Entry | None) -> asyncio.Task[DecodedFrame] | None:
        """Begin to decode the entry's picture."""
        if entry is None or entry.picture is None or self._feed is None:
            return None
        task = asyncio.create_task(self._feed.decode(entry.picture, entry.raw))
        self._asked.add(task)
        task.add_done_callback(self._note_done)
        return task

    async def answer(self, entry: Entry, asked: asyncio.Task[DecodedFrame]) -> DecodedFrame:
        """Return the picture that was asked for.

        Raises:
            BadEntry: It cannot be decoded, or decoder after decoder died of it.
            SourceError: The decoders are not running.
        """
        try:
            return await asked
        except SourceError as error:
            _refuse_bad(error)
        for _ in range(DECODER_TRIES - 1):
            await self._reopen()
            again = self.ask(entry)
            assert again is not None
            try:
                return await again
            except SourceError as error:
                _refuse_bad(error)
        raise BadEntry("decoder_lost", f"{DECODER_TRIES} decoders died of it")

    def _note_done(self, task: asyncio.Task[DecodedFrame]) -> None:
        self._asked.discard(task)
        if not task.cancelled():
            # Of pictures that nobody waits for any more, nobody else looks at what became of them.
            task.exception()

    async def _reopen(self) -> None:
        """Take another decoder, unless that was done for a picture which was lost together with this one."""
        if self._feed is not None:
            if not self._feed.is_lost:
                return
            await self._feed.aclose()
        self._feed = await self._pool.open_pictures(self._wish, self._owner).__aenter__()


def _refuse_bad(error: SourceError) -> None:
    """Raise BadEntry unless ``error`` says that the decoder was lost, which may be another picture's fault."""
    if error.source_code is not SourceErrorCode.DECODER:
        raise BadEntry(error.code, error.message) from None
