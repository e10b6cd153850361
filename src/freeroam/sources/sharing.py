"""One decode, many jobs: subscriptions to a reference share one reconnecting source where their wishes allow it.

Jobs whose frames may be dropped (policy ``latest``) on the same reference, with the same options and picture size,
share. Jobs that wait, and references that can be read again from a named frame on, each get a source of their own. A
source that is shared and turns out to end (a recording, known with its first frame) is given to the first job alone;
the others get their own, so that each sees it from its beginning.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Self

from freeroam.clock import Clock
from freeroam.observability.logs import get_logger
from freeroam.security.redaction import redact_url
from freeroam.sources.reconnecting import PERMANENT_TRIES, ReconnectingSource, SourceConfig
from freeroam.sources.source import SourceFactory, SourceFacts, SourceRequest
from freeroam.vocabulary.cadence import Cadence
from freeroam.vocabulary.errors import FreeroamError, SourceError, SourceErrorCode
from freeroam.vocabulary.frame import Frame, FrameWish
from freeroam.vocabulary.job import SourceStatus

SLOTS = 4
"""Frames kept for a subscriber that is busy; enough for one late turn of the loop, few enough to stay fresh."""

CONSUMER_BUSY = "consumer_busy"

log = get_logger(__name__)

_Key = tuple[str, str, int | None, int | None]


class SharedSources:
    """Hands out subscriptions, and opens and closes the sources behind them.

    Args:
        open_source: Builds a source, see ``opening.Opener.open``.
        can_go_back: Whether a reference resumes after a named frame, see ``opening.Opener.can_go_back``.
        config: Patience of reconnecting.
        clock: Time.
    """

    def __init__(
        self,
        open_source: SourceFactory,
        can_go_back: Callable[[str], bool],
        config: SourceConfig,
        clock: Clock,
    ) -> None:
        self._open_source = open_source
        self._can_go_back = can_go_back
        self._config = config
        self._clock = clock
        self._shared: dict[_Key, _Decode] = {}
        self._open_decodes = 0

    @property
    def open_sources(self) -> int:
        """How many sources are open, shared ones once."""
        return self._open_decodes

    def subscribe(self, request: SourceRequest) -> Subscription:
        """Return a subscription to ``request``; enter it to open its source, leave it to let go."""
        return Subscription(self, request)

    def _join(self, subscription: Subscription, *, alone: bool) -> _Decode:
        """Add ``subscription`` to the decode that fits it, a new one if there is none."""
        request = subscription.request
        if alone or request.waits or self._can_go_back(request.stream_ref):
            return self._begin(subscription, None)
        key = (request.stream_ref, request.options.model_dump_json(), request.wish.width_px, request.wish.height_px)
        decode = self._shared.get(key)
        if decode is None:
            return self._begin(subscription, key)
        decode.add(subscription)
        return decode

    def _begin(self, subscription: Subscription, key: _Key | None) -> _Decode:
        source = ReconnectingSource(self._open_source, subscription.request, self._config, self._clock)
        decode = _Decode(source, subscription, is_shareable=key is not None, forget=lambda: self._forget(key, decode))
        if key is not None:
            self._shared[key] = decode
        self._open_decodes += 1
        decode.start()
        return decode

    def _forget(self, key: _Key | None, decode: _Decode) -> None:
        """Let nobody join ``decode`` any more."""
        if key is not None and self._shared.get(key) is decode:
            del self._shared[key]

    def _closed(self) -> None:
        self._open_decodes -= 1


class Subscription:
    """One job's view of a source: its own rate, its own bounded slots, its own counts.

    Use as ``async with shared.subscribe(request) as subscription: async for frame in subscription.frames(): ...``.
    Leaving the block ends what only this subscription needed, within a second, also while the source is connecting.

    Attributes:
        request: What was asked for; its rate follows ``change_wish``.
        dropped: Frames that were decoded for this job but not taken in time, by reason (``consumer_busy``).
    """

    def __init__(self, sources: SharedSources, request: SourceRequest) -> None:
        self.request = request
        self.dropped: dict[str, int] = {}
        self._sources = sources
        self._decode: _Decode | None = None
        self._cadence = Cadence.of_fps(request.wish.fps)
        self._opening = 0
        self._slots: deque[Frame] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._has_had_frame = False
        self._permanent_failures = 0
        self._is_over = False
        self._must_move = False
        self._error: FreeroamError | None = None

    async def __aenter__(self) -> Self:
        """Join or open the source."""
        self._decode = self._sources._join(self, alone=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leave; the last one closes the source."""
        await self._leave()

    @property
    def waits(self) -> bool:
        """Whether frames wait for this job instead of being dropped.

        True when the job asked so, and once the source is known to end (a recording): then it is read only as fast as
        this job takes its frames.
        """
        return self.request.waits or (self._decode is not None and self._decode.is_recording)

    @property
    def facts(self) -> SourceFacts | None:
        """What is known of the open source."""
        return self._decode.source.facts if self._decode else None

    @property
    def status(self) -> SourceStatus:
        """How the source is."""
        return self._decode.source.status if self._decode else SourceStatus()

    def change_wish(self, wish: FrameWish) -> None:
        """Ask for another rate from the next frame on; the size stays."""
        kept = replace(self.request.wish, fps=wish.fps)
        self.request = replace(self.request, wish=kept)
        self._cadence = Cadence.of_fps(wish.fps)
        if self._decode is not None:
            self._decode.fit_wish()

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Give this job's samples, oldest first; returns when the video ended for good.

        Raises:
            SourceError: The source failed for good, see ``ReconnectingSource.frames``. A job that joined a source
                while it was broken, and never had a frame, sees its permanent failure after three tries too.
            FreeroamError: The request cannot be met at all.
        """
        while True:
            while self._slots:
                frame = self._slots.popleft()
                self._room.set()
                yield frame
            if self._must_move:
                self._must_move = False
                self._decode = self._sources._join(self, alone=True)
            elif self._error is not None:
                raise self._error
            elif self._is_over:
                return
            self._changed.clear()
            await self._changed.wait()

    async def _leave(self) -> None:
        decode, self._decode = self._decode, None
        if decode is not None and await decode.remove(self):
            self._sources._closed()

    async def _offer(self, frame: Frame) -> None:
        """Take ``frame`` as it is; waits for a free slot, or drops the oldest frame for it."""
        while self.waits and len(self._slots) >= SLOTS:
            self._room.clear()
            await self._room.wait()
        if len(self._slots) >= SLOTS:
            self._slots.popleft()
            self.dropped[CONSUMER_BUSY] = self.dropped.get(CONSUMER_BUSY, 0) + 1
        self._has_had_frame = True
        self._slots.append(frame)
        self._changed.set()

    def _sampled(self, frame: Frame, opening: int) -> Frame | None:
        """Return ``frame`` placed on this job's own grid, or None; a new opening begins a new grid."""
        if opening != self._opening:
            self._opening, self._cadence = opening, Cadence.of_fps(self.request.wish.fps)
        due_s, self._cadence = self._cadence.offer(frame.sample_time_s)
        return None if due_s is None else replace(frame, sample_time_s=due_s)

    def _note_failure(self, error: SourceError) -> None:
        """Fail this job if it never had a frame and the source, shared with luckier ones, fails for good."""
        self._permanent_failures = self._permanent_failures + 1 if error.is_permanent else 0
        had_frames = self._has_had_frame or self.request.resume_after is not None
        if not had_frames and self._permanent_failures >= PERMANENT_TRIES:
            self._end(error)

    def _move(self) -> None:
        self._must_move = True
        self._changed.set()

    def _end(self, error: FreeroamError | None) -> None:
        self._error = error
        self._is_over = True
        self._changed.set()


class _Decode:
    """A reconnecting source with the task that deals its frames out.

    Attributes:
        is_recording: Whether the source is known to end; settled with its first frame.
    """

    def __init__(
        self, source: ReconnectingSource, first: Subscription, *, is_shareable: bool, forget: Callable[[], None]
    ) -> None:
        self.source = source
        self.source.on_failure = self._tell_failure
        self.is_recording = False
        self._readers = [first]
        self._is_shareable = is_shareable
        self._has_begun = False
        self._forget = forget
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Open the source."""
        self._task = asyncio.create_task(self._deal(), name="deal frames")

    def add(self, subscription: Subscription) -> None:
        """Let ``subscription`` have frames from the next one on."""
        self._readers.append(subscription)
        self.fit_wish()
        log.debug("source_shared", ref=redact_url(subscription.request.stream_ref), jobs=len(self._readers))

    async def remove(self, subscription: Subscription) -> bool:
        """Take ``subscription`` out; returns whether it was the last, and the source is closed now."""
        if subscription not in self._readers:
            return False
        self._readers.remove(subscription)
        if self._readers:
            self.fit_wish()
            return False
        self._forget()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        return True

    def fit_wish(self) -> None:
        """Decode at the greatest rate that is asked for."""
        fps = max(reader.request.wish.fps for reader in self._readers)
        self.source.change_wish(replace(self._readers[0].request.wish, fps=fps))

    def _tell_failure(self, error: SourceError) -> None:
        """Tell every job of a failed opening."""
        for reader in list(self._readers):
            reader._note_failure(error)

    async def _deal(self) -> None:
        """Give each frame to each subscription that wants it, until the source ends or fails."""
        outcome: FreeroamError | None = None
        try:
            async with aclosing(self.source.frames()) as frames:
                async for frame in frames:
                    await self._deal_one(frame)
        except FreeroamError as error:
            outcome = error
        except Exception as error:
            log.exception("source_defect")
            outcome = _defect(error)
        finally:
            self._forget()
        for reader in self._readers:
            reader._end(outcome)

    async def _deal_one(self, frame: Frame) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._settle()
        if not self._is_shareable:
            await self._readers[0]._offer(frame)
            return
        for reader in list(self._readers):
            try:
                sampled = reader._sampled(frame, self.source.openings)
                if sampled is not None:
                    await reader._offer(sampled)
            except Exception as error:  # what is wrong with one reader must not end the others
                log.exception("reader_defect")
                self._readers.remove(reader)
                reader._end(_defect(error))
        if not self._readers:
            raise SourceError(SourceErrorCode.UNAVAILABLE, "nobody takes frames any more")

    def _settle(self) -> None:
        """With the first frame it is known whether this is a recording; then only the first job stays."""
        facts = self.source.facts
        self.is_recording = facts is not None and not facts.is_live
        if self.is_recording and self._is_shareable:
            self._is_shareable = False
            self._forget()
            others, self._readers = self._readers[1:], self._readers[:1]
            self.fit_wish()
            for reader in others:
                reader._move()


def _defect(error: Exception) -> SourceError:
    return SourceError(SourceErrorCode.UNAVAILABLE, f"dealing frames failed ({type(error).__name__})")
