"""Pictures by HTTP: a camera's endless multipart answer (MJPEG), and one picture fetched again at the asked rate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from freeroam.clock import Clock
from freeroam.sources.decoding.pictures import PictureFeed
from freeroam.sources.decoding.values import DecodedFrame
from freeroam.sources.feed_run import FrameQueue, RunFrame
from freeroam.sources.fetching import FetchSession
from freeroam.sources.http_answers import Response
from freeroam.sources.multipart import MultipartParser
from freeroam.sources.source import SourceFacts
from freeroam.vocabulary.cadence import Cadence
from freeroam.vocabulary.errors import SourceError, SourceErrorCode
from freeroam.vocabulary.frame import FrameWish

BAD_PICTURES = 30
"""So many broken pictures in a row, and an MJPEG stream is given up."""
FAILED_FETCHES = 3
FETCH_BUDGET_S = 10.0


class PictureReading:
    """Decodes pictures as they come and puts those that are due into a queue.

    Stream time is the wall clock at arrival, kept from going backwards.

    Args:
        pictures: An open decoder.
        queue: Where frames go.
        facts: Of the source.
        clock: Time.
        wish: Rate and box.
        next_due_s: Where the sampling grid goes on.
    """

    def __init__(
        self,
        pictures: PictureFeed,
        queue: FrameQueue,
        facts: SourceFacts,
        clock: Clock,
        *,
        wish: FrameWish,
        next_due_s: float | None = None,
    ) -> None:
        self._pictures = pictures
        self._queue = queue
        self._facts = facts
        self._clock = clock
        self._cadence = Cadence.of_fps(wish.fps, next_due_s)
        self._offset_s = clock.epoch_s() - clock.monotonic_s()
        self._bad_in_row = 0
        self._last: tuple[bytes, DecodedFrame] | None = None

    def change_wish(self, wish: FrameWish) -> None:
        """Ask for another rate."""
        self._cadence = Cadence.of_fps(wish.fps)

    @property
    def interval_s(self) -> float:
        """Seconds between samples."""
        return self._cadence.interval_s

    async def follow(self, response: Response, pieces: AsyncIterator[bytes], max_bytes: int) -> None:
        """Read an MJPEG stream, whose pictures have at most ``max_bytes``, until it breaks.

        Raises:
            SourceError: ``ended``: the server closed it; ``bad_data``: nothing of it is a picture; else as it broke.
        """
        parser = MultipartParser(response.header("content-type"), max_bytes)
        async for piece in pieces:
            for part in parser.feed(piece):
                due_s = self._due_s()
                if due_s is not None:
                    await self._give(part, *due_s)
        raise SourceError(SourceErrorCode.ENDED, "the server closed the stream of pictures")

    async def poll(self, session: FetchSession, first: bytes) -> None:
        """Fetch one picture again and again, at the asked rate.

        Raises:
            SourceError: It could not be had three times in a row.
        """
        data, failed = first, 0
        while True:
            began_s = self._clock.monotonic_s()
            due_s = self._due_s(must=True)
            assert due_s is not None
            await self._give(data, *due_s)
            while True:
                interval_s = max(self.interval_s, 0.01)
                passed = (self._clock.monotonic_s() - began_s) // interval_s + 1
                began_s += passed * interval_s
                await self._clock.sleep(began_s - self._clock.monotonic_s())
                try:
                    data = await self._fetch(session)
                except SourceError as error:
                    failed += 1
                    self._facts.count_skipped("pictures_not_fetched")
                    self._facts.last_bad = error.message
                    if failed >= FAILED_FETCHES:
                        raise
                else:
                    failed = 0
                    break

    async def _fetch(self, session: FetchSession) -> bytes:
        limit_bytes = session.limits.picture_bytes
        body = await session.read(
            session.home.url, limit_bytes, FETCH_BUDGET_S, name="picture", setting="SOURCE_PICTURE_BYTES"
        )
        return body.data

    def _due_s(self, *, must: bool = False) -> tuple[float, float] | None:
        """Return time and due time of a picture that arrives now, or None if none is wanted now."""
        time_s = self._clock.monotonic_s() + self._offset_s
        due_s, cadence = self._cadence.offer(time_s)
        if due_s is None and not must:
            return None
        self._cadence = cadence
        return time_s, time_s if due_s is None else due_s

    async def _give(self, data: bytes, time_s: float, due_s: float) -> None:
        try:
            decoded = await self._decode(data)
        except SourceError as error:
            if error.source_code is SourceErrorCode.DECODER:
                raise
            self._bad_in_row += 1
            self._facts.count_skipped("pictures_bad")
            self._facts.last_bad = error.message
            if self._bad_in_row >= BAD_PICTURES:
                raise
            return
        self._bad_in_row = 0
        facts = self._facts
        facts.width_px, facts.height_px = decoded.source_width_px, decoded.source_height_px
        facts.codec, facts.decode = picture_form(data), "all"
        frame = replace(decoded, pts_s=time_s, time_s=time_s, due_s=due_s)
        await self._queue.put(RunFrame(frame, time_s))

    async def _decode(self, data: bytes) -> DecodedFrame:
        """Decode, unless it is the very picture of last time."""
        if self._last is not None and self._last[0] == data:
            return self._last[1]
        decoded = await self._pictures.decode(data)
        self._last = (data, decoded)
        return decoded


def picture_form(head: bytes) -> str | None:
    """Return ``mjpeg``, ``png`` or ``webp``, told by the first bytes; None for anything else."""
    if head.startswith(b"\xff\xd8\xff"):
        return "mjpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    return None
