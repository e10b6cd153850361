"""One opening of a source in a task of its own, one frame ahead of its reader, stoppable at any moment."""

from __future__ import annotations

import asyncio
import contextlib

from freeroam.clock import Clock
from freeroam.observability.logs import get_logger
from freeroam.sources.source import Source
from freeroam.vocabulary.errors import ForbiddenReference, FreeroamError, SourceError, SourceErrorCode
from freeroam.vocabulary.frame import Frame, FrameWish

CLOSE_LIMIT_S = 5.0
"""A source has a second to close; one that takes longer than this is left behind and logged as a defect."""

SilenceLimit = tuple[float | None, SourceErrorCode]
"""Seconds a source may take for a frame (None: any time), and the code of the error if it takes longer."""

log = get_logger(__name__)


class Reading:
    """Runs ``source.frames()`` and hands its frames on one by one.

    Silence is counted only while the source is asked for a frame, so a reader that takes its time is no stall.

    Args:
        source: Just built; its iterator runs from the first ``next`` on.
        clock: Time.
    """

    def __init__(self, source: Source, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._reader: asyncio.Task[None] | None = None
        self._watchdog: asyncio.Task[None] | None = None
        self._limit: SilenceLimit = (None, SourceErrorCode.STALLED)
        self._frame: Frame | None = None
        self._outcome: FreeroamError | None = None
        self._is_over = False
        self._is_closing = False
        self._asked_at_s = clock.monotonic_s()
        self._changed = asyncio.Event()
        self._taken = asyncio.Event()

    def change_wish(self, wish: FrameWish) -> None:
        """Pass another rate on to the open source."""
        self._source.change_wish(wish)

    def cut_short(self) -> bool:
        """End here, after the frame that is ready; returns whether that ended it, and not something before."""
        ends_now = not self._is_over
        self._finish(None)
        return ends_now

    async def next(self, limit: SilenceLimit) -> Frame | None:
        """Return the next frame, or None when the video ended.

        Raises:
            SourceError: The source broke, or was silent for too long.
            FreeroamError: The source cannot work at all.
        """
        if self._reader is None:
            self._asked_at_s = self._clock.monotonic_s()
            self._reader = asyncio.create_task(self._run(), name=f"read {self._source.facts.kind}")
        if limit != self._limit:
            self._watch_for(limit)
        if self._frame is None and not self._is_over:
            await self._changed.wait()
        if self._frame is not None:
            frame, self._frame = self._frame, None
            self._asked_at_s = self._clock.monotonic_s()
            if not self._is_over:
                self._changed.clear()
            self._taken.set()
            return frame
        if self._outcome is not None:
            raise self._outcome
        return None

    async def aclose(self) -> None:
        """Stop the source and wait until it let go of everything."""
        self._is_closing = True
        tasks = {task for task in (self._reader, self._watchdog) if task is not None}
        for task in tasks:
            task.cancel()
        if not tasks:
            return
        _, left = await asyncio.wait(tasks, timeout=CLOSE_LIMIT_S)
        if left:
            log.error("source_does_not_close", kind=self._source.facts.kind, after_s=CLOSE_LIMIT_S)

    def _watch_for(self, limit: SilenceLimit) -> None:
        self._limit = limit
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        limit_s, code = limit
        if limit_s is not None:
            self._watchdog = asyncio.create_task(self._watch(limit_s, code), name="watch source")

    async def _watch(self, limit_s: float, code: SourceErrorCode) -> None:
        """Stop a source that is silent for ``limit_s``; sleeps once a limit, not once a frame."""
        while not self._is_over:
            # A frame that waits to be taken means that the source is not even asked before now.
            asked_at_s = self._clock.monotonic_s() if self._frame is not None else self._asked_at_s
            left_s = asked_at_s + limit_s - self._clock.monotonic_s()
            if left_s <= 0:
                word = "opening" if code is SourceErrorCode.TIMEOUT else "the one before"
                self._finish(SourceError(code, f"no frame came within {limit_s:.0f} s of {word}"))
                assert self._reader is not None
                self._reader.cancel()
                return
            await self._clock.sleep(left_s)

    async def _run(self) -> None:
        try:
            await self._read()
        except asyncio.CancelledError:
            if not self._is_closing and not self._is_over:
                self._finish(SourceError(SourceErrorCode.UNAVAILABLE, "the source was cancelled from within"))
            raise
        except ForbiddenReference as error:
            self._finish(SourceError(SourceErrorCode.FORBIDDEN, error.message, detail=error.detail))
        except FreeroamError as error:
            self._finish(error)
        except Exception as error:
            log.exception("source_defect", kind=self._source.facts.kind)
            text = f"the source failed unexpectedly ({type(error).__name__})"
            self._finish(SourceError(SourceErrorCode.UNAVAILABLE, text))
        else:
            self._finish(None)

    async def _read(self) -> None:
        frames = self._source.frames()
        async with contextlib.AsyncExitStack() as stack:
            if close := getattr(frames, "aclose", None):
                stack.push_async_callback(close)
            async for frame in frames:
                self._taken.clear()
                self._frame = frame
                self._changed.set()
                await self._taken.wait()

    def _finish(self, outcome: FreeroamError | None) -> None:
        if not self._is_over:
            self._outcome = outcome
            self._is_over = True
            self._changed.set()
