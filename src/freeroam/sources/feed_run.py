"""One continuous run of a video on its way through a decoder: bytes go in here, frames come out into a queue."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from freeroam.sources.decoding.feed import Feed
from freeroam.sources.decoding.values import DecodedFrame
from freeroam.sources.source import SourceFacts
from freeroam.vocabulary.errors import SourceError, SourceErrorCode
from freeroam.vocabulary.frame import FrameWish

AHEAD_TOLERANCE_S = 10.0
AHEAD_TOLERANCE_SHARE = 0.1
"""A frame this far behind the end of the bytes given so far (and this share of the run, since durations are rounded)
means that the timestamps of the container have jumped."""
BACK_TOLERANCE_S = 0.5
KEPT_DATES = 64


@dataclass(frozen=True, slots=True)
class RunFrame:
    """A decoded frame with what its run knows of its wall time.

    Attributes:
        captured_epoch_s: None where the source does not say.
    """

    decoded: DecodedFrame
    captured_epoch_s: float | None


FrameQueue = asyncio.Queue[RunFrame | SourceError | None]
"""Frames in order; then None at the end of the video, or the error that ended it."""


class FeedRun:
    """A feed with the task that moves its frames into ``queue``; ``async with`` opens and closes it.

    A run may be opened while the one before it still gives frames: it decodes ahead, and its own frames come after.

    Args:
        feed: Not yet entered.
        queue: Bounded, so that decoding goes at the pace of whoever takes frames.
        facts: Of the source; filled in as the video becomes known.
        after: The run whose frames come first.
        container: What the feed carries.
        init: Init section that it begins with.

    Attributes:
        end_s: Stream time where the bytes given so far end; None where unknown.
        frames: How many frames came out.
        last_s: Stream time of the last one.
        failure: Why it ended before its bytes did.
    """

    def __init__(
        self,
        feed: Feed,
        queue: FrameQueue,
        facts: SourceFacts,
        *,
        after: FeedRun | None = None,
        container: str | None = None,
        init: bytes | None = None,
    ) -> None:
        self.container = container
        self.init = init
        self.end_s: float | None = None
        self.frames = 0
        self.last_s: float | None = None
        self.failure: SourceError | None = None
        self._feed = feed
        self._queue = queue
        self._facts = facts
        self._after = None if after is None else after._pump
        self._pump: asyncio.Task[None] | None = None
        self._began_s = 0.0
        self._jumped = False
        self._starts_s: list[float] = []
        self._dates_s: list[float | None] = []

    async def __aenter__(self) -> Self:
        """Open it."""
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        await self.aclose()

    async def open(self) -> None:
        """Take a decoder.

        Raises:
            SourceError: The pool is not running.
        """
        await self._feed.__aenter__()
        self._pump = asyncio.create_task(self._move_frames(), name="move frames")

    async def aclose(self) -> None:
        """End the decoder's work at once."""
        try:
            if self._pump is not None:
                self._pump.cancel()
                await asyncio.gather(self._pump, return_exceptions=True)
        finally:
            await self._feed.aclose()

    @property
    def reached_s(self) -> float | None:
        """Stream time up to which its bytes could be read, once it has ended; None where none could."""
        return self.last_s if self.failure is not None and self._jumped else self._feed.reached_s

    @property
    def next_due_s(self) -> float | None:
        """When the next sample is due, on the clock of stream time."""
        return self._feed.next_due_s

    async def write(self, data: bytes) -> bool:
        """Hand bytes to the decoder, waiting while it has enough; return whether it takes more."""
        try:
            await self._feed.write(data)
        except SourceError:
            return False  # ``finish`` tells, after the frames that came before
        return not self._feed.is_over

    def begin_segment(self, time_s: float, duration_s: float, captured_epoch_s: float | None) -> None:
        """Say where in the stream the bytes that follow belong."""
        if self.end_s is None:
            self._began_s = time_s
        self.end_s = time_s + duration_s
        self._starts_s.append(time_s)
        self._dates_s.append(captured_epoch_s)
        if len(self._starts_s) > KEPT_DATES:
            del self._starts_s[: KEPT_DATES // 2], self._dates_s[: KEPT_DATES // 2]

    def change_wish(self, wish: FrameWish) -> None:
        """Ask for another rate."""
        self._feed.change_wish(wish)

    def end(self) -> None:
        """Give no more bytes."""
        self._feed.end()

    async def finish(self) -> SourceError | None:
        """Give no more bytes, wait until every frame is in the queue and close; return what went wrong, if any did."""
        self._feed.end()
        return await self.wait()

    async def wait(self) -> SourceError | None:
        """Wait until every frame is in the queue and close; return what went wrong, if anything did."""
        if self._pump is not None:
            await self._pump
        self._feed.facts.show_bad(self._facts)
        await self._feed.aclose()
        return self.failure

    async def _move_frames(self) -> None:
        if self._after is not None:
            await asyncio.wait({self._after})
            self._after = None
        try:
            async for decoded in self._feed.decoded():
                if self._has_jumped(decoded.time_s):
                    self._jumped = True
                    message = "the timestamps of the video jump without a discontinuity"
                    raise SourceError(SourceErrorCode.BAD_DATA, message)
                self.frames += 1
                self.last_s = decoded.time_s
                self._note_facts(decoded)
                await self._queue.put(RunFrame(decoded, self._captured_epoch_s(decoded.time_s)))
        except SourceError as error:
            self.failure = error
            await self._feed.aclose()
            if error.source_code is SourceErrorCode.DECODER:
                # The process is gone; whoever opens the source again gets another one at once.
                await self._queue.put(error)

    def _has_jumped(self, time_s: float) -> bool:
        if self.last_s is not None and time_s < self.last_s - BACK_TOLERANCE_S:
            return True
        if self.end_s is None:
            return False
        return time_s > self.end_s + AHEAD_TOLERANCE_S + AHEAD_TOLERANCE_SHARE * (self.end_s - self._began_s)

    def _note_facts(self, decoded: DecodedFrame) -> None:
        known, facts = self._feed.facts, self._facts
        known.show_bad(facts)
        facts.codec, facts.decode = known.codec, known.decode
        facts.fps = known.fps if known.fps is not None else facts.fps
        facts.width_px, facts.height_px = decoded.source_width_px, decoded.source_height_px

    def _captured_epoch_s(self, time_s: float) -> float | None:
        index = bisect_right(self._starts_s, time_s + 0.001) - 1
        if index < 0 or (date_s := self._dates_s[index]) is None:
            return None
        return date_s + time_s - self._starts_s[index]
