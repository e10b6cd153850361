"""HLS, live or recorded: follows a playlist, feeds its segments to a decoder, outlives those missing or broken.

A continuous run of segments goes through one demuxer; a discontinuity, another init section, a segment that could not
be had, and an hour begin a new run. Only one rendition is fetched, the smallest that is large enough.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncGenerator, Collection
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass
from functools import partial

from freeroam.clock import Clock
from freeroam.observability.logs import get_logger
from freeroam.sources.decoding.pool import DecoderPool
from freeroam.sources.decoding.values import FeedShape
from freeroam.sources.feed_run import FeedRun, FrameQueue
from freeroam.sources.fetching import Body, Fetcher
from freeroam.sources.frame_queue import hand_out
from freeroam.sources.hls_reloading import PlaylistReader
from freeroam.sources.hls_schedule import Planned, Schedule
from freeroam.sources.hls_segments import SegmentBytes, SegmentReader
from freeroam.sources.source import Source, SourceFactory, SourceFacts, SourceRequest
from freeroam.vocabulary.cadence import TOLERANCE_SHARE
from freeroam.vocabulary.errors import SourceError, SourceErrorCode
from freeroam.vocabulary.frame import Frame, FrameWish

BAD_SEGMENTS = 5
"""So many segments in a row that could not be had, and the stream is given up."""
BAD_RUNS = 3
"""So many runs in a row that the decoder gave up without a frame, and the stream is given up."""
RUN_S = 3600.0
KEPT_PLAN = 256
"""Segments of a run that are remembered, to be played again if the decoder gives up in an earlier one."""
SWALLOWED_SEGMENTS = 2.5
SWALLOWED_SHARE = 0.4
GREATEST_BUDGET_S = 60.0

_REASONS = {
    SourceErrorCode.NOT_FOUND: "segments_not_found",
    SourceErrorCode.SERVER: "segments_server_error",
    SourceErrorCode.TIMEOUT: "segments_too_slow",
    SourceErrorCode.FORBIDDEN: "segments_forbidden",
    SourceErrorCode.BAD_DATA: "segments_bad_data",
    SourceErrorCode.CODEC: "segments_undecipherable",
}

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HlsConfig:
    """How patient reading HLS is.

    Attributes:
        stall_timeout_s: A live playlist that does not change for so long (and three target durations) is frozen; 0
            waits for ever.
        playlist_budget_s: Time for a whole playlist.
        segment_budget_s: Least time for a segment of a live stream; two target durations if that is more.
        recording_budget_s: Time for a segment of a recording.
    """

    stall_timeout_s: float = 20.0
    playlist_budget_s: float = 10.0
    segment_budget_s: float = 8.0
    recording_budget_s: float = 120.0


def hls_factory(
    fetcher: Fetcher, decoders: DecoderPool, clock: Clock, config: HlsConfig | None = None
) -> SourceFactory:
    """Return what builds HLS sources."""
    return partial(_build, fetcher, decoders, clock, config or HlsConfig())


def _build(fetcher: Fetcher, decoders: DecoderPool, clock: Clock, config: HlsConfig, request: SourceRequest) -> Source:
    return HlsSource(request, fetcher, decoders, clock, config)


class HlsSource:
    """One HLS stream, opened once.

    Args:
        request: What is wanted.
        fetcher: For playlists, segments and keys.
        decoders: Where segments become frames.
        clock: Time.
        config: Patience.
        facts: Of the source that found out that this is HLS.

    Raises:
        InvalidInput: The address or a header is malformed.
        ForbiddenReference: Policy forbids the address, as far as its text tells.
    """

    def __init__(
        self,
        request: SourceRequest,
        fetcher: Fetcher,
        decoders: DecoderPool,
        clock: Clock,
        config: HlsConfig,
        *,
        facts: SourceFacts | None = None,
        first: Body | None = None,
    ) -> None:
        self.facts = facts or SourceFacts("hls", is_live=True)
        self.facts.kind = "hls"
        options = request.options
        self._session = fetcher.session(request.stream_ref, options.headers, verify_tls=options.verify_tls)
        stall_s = config.stall_timeout_s if options.stall_timeout_s is None else options.stall_timeout_s
        self._playlists = PlaylistReader(self._session, clock, config.playlist_budget_s, stall_s)
        self._segments = SegmentReader(self._session, clock)
        self._decoders = decoders
        self._clock = clock
        self._config = config
        self._request = request
        self._first = first
        self._wish = request.wish
        self._resume_s = _stream_time_s(request.resume_after)
        self._next_due_s = request.resume_due_s
        self._run: FeedRun | None = None
        self._ending_run: FeedRun | None = None
        self._run_began_s = 0.0
        self._plan: list[Planned] = []
        self._ended_plan: list[Planned] = []
        self._again: deque[Planned] = deque()
        self._bad_segments = 0
        self._bad_runs = 0
        self._must_break = False
        self._has_given_frames = False
        self._last_failure: SourceError | None = None

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Give sampled frames; a live stream's at the pace of stream time, a recording's as fast as they are read.

        Raises:
            SourceError: The stream could not be opened, froze, or had too many broken segments in a row.
        """
        async with aclosing(hand_out(self._produce, self._clock, lambda: self.facts.is_live)) as frames:
            async for frame in frames:
                yield frame

    def change_wish(self, wish: FrameWish) -> None:
        """Ask for another rate from the next group of pictures on."""
        self._wish = wish
        if self._run is not None:
            self._run.change_wish(wish)

    async def _produce(self, queue: FrameQueue) -> None:
        """Follow the playlist to its end and put frames into ``queue``."""
        playlist, variant = await self._playlists.open(self._first, self._wish)
        self.facts.variant = None if variant is None else variant.label
        self.facts.variants = self._playlists.offered
        self.facts.is_live = not playlist.is_ended
        schedule = Schedule(
            playlist,
            self._clock.epoch_s(),
            self.facts.count_skipped,
            waits=self._request.waits,
            resume_s=self._resume_s,
            known=_placed(self._request.resume_place),
        )
        self.facts.place = schedule.placed
        log.info("hls_opened", ref=self._session.home.shown, live=schedule.is_live, variant=self.facts.variant)
        try:
            await self._follow(schedule, queue)
            if not self._has_given_frames and self._last_failure is not None:
                raise self._last_failure
        except SourceError as error:
            if error.source_code is not SourceErrorCode.DECODER:
                await self._drain()
            raise
        finally:
            async with AsyncExitStack() as stack:
                for run in (self._run, self._ending_run):
                    if run is not None:
                        stack.push_async_callback(run.aclose)

    async def _follow(self, schedule: Schedule, queue: FrameQueue) -> None:
        """Play every segment, those that a failed run swallowed once more, until the video ends."""
        while True:
            planned = self._again.popleft() if self._again else schedule.next()
            if planned is not None:
                await self._play(planned, queue, schedule)
            elif schedule.is_over:
                await self._end_run()
                await self._settle_run()
                if not self._again:
                    return
            else:
                if self._run is not None and self._run.failure is not None:
                    await self._end_run()
                    await self._settle_run()
                if not self._again:
                    schedule.update(await self._playlists.reload(), self._clock.epoch_s())

    async def _drain(self) -> None:
        """Let the frames come out that were decoded before the stream broke."""
        with suppress(SourceError):
            await self._end_run()
            await self._settle_run()

    async def _play(self, planned: Planned, queue: FrameQueue, schedule: Schedule) -> None:
        """Fetch one segment and hand it to the decoder; a bad one is counted and passed over."""
        if await self._goes_back(planned):
            return
        try:
            data = await self._segments.open(planned.segment, self._budget_s(schedule))
        except SourceError as error:
            self._note_bad(planned, error)
            return
        try:
            if await self._goes_back(planned):
                return
            if self._must_begin(planned, data):
                await self._end_run()
                await self._begin_run(planned, data, queue)
            await self._write(planned, data)
        finally:
            await data.aclose()

    async def _goes_back(self, planned: Planned) -> bool:
        """Return whether the run has failed, so that what it swallowed is played before ``planned``, which waits."""
        if self._run is None or self._run.failure is None:
            return False
        self._again.appendleft(planned)
        await self._end_run()
        await self._settle_run()
        return True

    def _budget_s(self, schedule: Schedule) -> float:
        """Return how long a segment may take; one that takes longer than it plays makes a live stream fall behind."""
        if not schedule.is_live:
            return self._config.recording_budget_s
        return max(min(2 * schedule.target_s, GREATEST_BUDGET_S), self._config.segment_budget_s)

    def _must_begin(self, planned: Planned, data: SegmentBytes) -> bool:
        """Return whether a segment needs a demuxer of its own."""
        run = self._run
        return (
            run is None
            or planned.breaks_run
            or self._must_break
            or run.container != data.container
            or run.init != data.init
            or planned.time_s - self._run_began_s > RUN_S
        )

    async def _write(self, planned: Planned, data: SegmentBytes) -> None:
        run, segment = self._run, planned.segment
        assert run is not None
        self._plan.append(planned)
        if len(self._plan) > KEPT_PLAN:
            del self._plan[: KEPT_PLAN // 2]
        run.begin_segment(planned.time_s, segment.duration_s, segment.captured_epoch_s)
        takes_more = True
        try:
            async with aclosing(data.pieces()) as pieces:
                async for piece in pieces:
                    takes_more = takes_more and await run.write(piece)
        except SourceError as error:
            self._note_bad(planned, error)
            return
        self._bad_segments = 0
        if not takes_more:
            self._must_break = True
            await self._end_run()
            await self._settle_run()

    def _note_bad(self, planned: Planned, error: SourceError) -> None:
        """Count a segment that could not be had; the next good one begins a new run."""
        self._must_break = True
        self._bad_segments += 1
        self.facts.count_skipped(_REASONS.get(error.source_code, "segments_unavailable"))
        self.facts.last_bad = f"segment {planned.segment.sequence}: {error.message}"
        log.warning(
            "hls_segment_skipped",
            ref=self._session.home.shown,
            segment=planned.segment.sequence,
            code=error.code,
            error=error.message,
        )
        self._last_failure = error
        is_hopeless = error.source_code is SourceErrorCode.CODEC and self._run is None
        if is_hopeless or self._bad_segments >= BAD_SEGMENTS:
            raise error

    async def _begin_run(self, planned: Planned, data: SegmentBytes, queue: FrameQueue) -> None:
        """Open a demuxer, which decodes ahead while the run before it still gives frames."""
        before = self._ending_run
        if before is not None and before.next_due_s is not None:
            self._next_due_s = _next_on_grid(before.next_due_s, planned.time_s, self._wish.fps)
        elif self._next_due_s is not None and self._has_missed(self._next_due_s, planned):
            self._next_due_s = None
        # A clock that was set back must not make the stream wait until it is where it was.
        is_near = self._resume_s is not None and 0 <= self._resume_s - planned.time_s <= planned.segment.duration_s + 1
        shape = FeedShape(
            wish=self._wish,
            container=data.container,
            next_due_s=self._next_due_s,
            skip_until_s=self._resume_s if is_near else None,
            starts_at_s=planned.time_s,
            owner=self._request.stream_ref,
        )
        feed = self._decoders.open_feed(shape)
        run = FeedRun(feed, queue, self.facts, after=before, container=data.container, init=data.init)
        self.facts.plans_ahead = self.facts.is_live
        # A change of rate while a decoder is being taken must reach it.
        self._run = run
        await run.open()
        self._run_began_s = planned.time_s
        self._must_break = False
        if data.init is not None:
            await run.write(data.init)

    def _has_missed(self, due_s: float, planned: Planned) -> bool:
        """Return whether a live stream went on past a due time before this opening could answer it.

        A frame that answered it late would be followed by the next sample of the old grid too soon.
        """
        return self.facts.is_live and not self._has_given_frames and planned.time_s > due_s

    async def _end_run(self) -> None:
        """Give the present run no more bytes; the one before it must be done by now."""
        await self._settle_run()
        self._ending_run, self._run = self._run, None
        self._ended_plan, self._plan = self._plan, []
        if self._ending_run is not None:
            self._ending_run.end()

    async def _settle_run(self) -> None:
        """Wait for the run that is ending, and judge how it went.

        Raises:
            SourceError: The decoder process is gone, or gave up several runs in a row.
        """
        run = self._ending_run
        if run is None:
            return
        failure = await run.finish()
        self._ending_run = None
        self._next_due_s = run.next_due_s
        if run.frames:
            self._bad_runs = 0
            self._has_given_frames = True
        if failure is None and not self._swallowed(run):
            return
        failure = failure or SourceError(SourceErrorCode.BAD_DATA, "the decoder could not read on in a broken segment")
        if failure.source_code is SourceErrorCode.DECODER:
            raise failure
        self.facts.count_skipped("runs_given_up")
        self.facts.last_bad = failure.message
        log.warning("hls_run_given_up", ref=self._session.home.shown, code=failure.code, error=failure.message)
        self._last_failure = failure
        self._bad_runs += 1
        if self._bad_runs >= BAD_RUNS:
            raise failure
        if self._run is None:
            # Once a later run has begun, going back would turn stream time around.
            self._again.extendleft(reversed(self._after_failure(run)))

    def _swallowed(self, run: FeedRun) -> bool:
        """Return whether a demuxer lost its way and read whole segments as part of a broken one, without a word."""
        planned = self._ended_plan
        if not planned or run.end_s is None:
            return False
        reached_s = planned[0].time_s if run.reached_s is None else run.reached_s
        missing_s = run.end_s - reached_s
        longest_s = max(one.segment.duration_s for one in planned)
        # Announced durations are rounded, which adds up over a long run.
        return missing_s > max(SWALLOWED_SEGMENTS * longest_s, SWALLOWED_SHARE * (run.end_s - planned[0].time_s))

    def _after_failure(self, run: FeedRun) -> list[Planned]:
        """Return the segments of a failed run that lie behind the place where it failed; always fewer than it had."""
        planned, self._ended_plan = self._ended_plan, []
        reached_s = run.reached_s
        return [one for one in planned[1:] if reached_s is None or one.time_s > reached_s]


def _next_on_grid(due_s: float, time_s: float, fps: float) -> float:
    """Return the first due time at or after ``time_s`` of the grid that ``due_s`` is on."""
    return due_s + max(0, math.ceil((time_s - due_s) * fps - TOLERANCE_SHARE)) / fps


def _stream_time_s(frame_id: str | None) -> float | None:
    """Return the stream time that a frame's name says; None where there is none."""
    try:
        return None if frame_id is None else int(frame_id) / 1000
    except ValueError:
        return None


def _placed(place: object) -> Collection[Planned]:
    """Return what an earlier opening has placed, if it was one of HLS."""
    return place if isinstance(place, deque) else ()
