"""The one place with back-off: keeps a source of any kind going, and says how it is.

Every opening of a source is a ``Reading``: a task of its own that runs the source's iterator, so that a frozen or hung
source can be stopped from outside while the reader of frames waits.
"""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from freeroam.clock import Clock
from freeroam.observability.logs import get_logger
from freeroam.security.redaction import redact_url
from freeroam.sources.reading import Reading, SilenceLimit
from freeroam.sources.source import SourceFactory, SourceFacts, SourceRequest
from freeroam.vocabulary.errors import ForbiddenReference, FreeroamError, SourceError, SourceErrorCode
from freeroam.vocabulary.frame import Frame, FrameWish
from freeroam.vocabulary.job import SourceState, SourceStatus

PERMANENT_TRIES = 3
"""Openings in a row that may fail for good before the first frame ever came (contract, "Status")."""

FIRST_FRAME_GRACE_S = 20.0
"""Beyond the open timeout, what a first frame may take where no stall time is set: keyframes may be far apart."""

AHEAD_FRAMES = 6
"""So many frames may be decoded before they are due: in the decoder's feed, in the queue behind it and in hand."""

GREATEST_LAG_S = 1.0
"""Where frames made at a slower rate would last longer than this, they give way to those of the rate asked for."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """How patient reconnecting is.

    Attributes:
        open_timeout_s: For a connection; with the stall time it bounds the wait for a first frame.
        stall_timeout_s: Silence after which a source is opened anew; 0 never.
        max_retries: Failures in a row after which it gives up; 0 never.
        first_pause_s: Before the second try.
        greatest_pause_s: Where the doubling of pauses ends.
        decoder_pause_s: After a decoder was lost under a stream that ran.
        good_run_s: A run of this length begins the pauses anew.
    """

    open_timeout_s: float = 10.0
    stall_timeout_s: float = 20.0
    max_retries: int = 0
    first_pause_s: float = 0.5
    greatest_pause_s: float = 30.0
    decoder_pause_s: float = 0.1
    good_run_s: float = 10.0


def pause_after(failures: int, config: SourceConfig, chance: float) -> float:
    """Return the seconds to wait after the ``failures``-th failure in a row (1 is the first).

    Doubles from ``first_pause_s`` to ``greatest_pause_s``; ``chance`` in [0, 1) takes off up to half of it, so that a
    server which comes back is not met by all its readers at once.
    """
    doubled_s = config.first_pause_s * 2.0 ** min(failures - 1, 30)
    return min(doubled_s, config.greatest_pause_s) * (1.0 - chance / 2.0)


class ReconnectingSource:
    """A source that is opened again whenever it breaks.

    Args:
        open_source: Builds a source; asked again at each opening.
        request: What is wanted; after the first frame, later openings resume after the last frame handed out.
        config: Patience.
        clock: Time.
        chance: Random numbers in [0, 1), for the jitter of pauses.

    Attributes:
        on_failure: Told of each failed or broken run, before the pause.
    """

    def __init__(
        self,
        open_source: SourceFactory,
        request: SourceRequest,
        config: SourceConfig,
        clock: Clock,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._open_source = open_source
        self._request = request
        self._config = config
        self._clock = clock
        self.on_failure: Callable[[SourceError], None] | None = None
        self._chance = chance
        self._ref = redact_url(request.stream_ref)
        self._state = SourceState.CONNECTING
        self._reading: Reading | None = None
        self._facts: SourceFacts | None = None
        self._skipped_before: dict[str, int] = {}
        self._reconnects = 0
        self._stalls = 0
        self._failures = 0
        self._permanent_failures = 0
        self._last_error: SourceError | None = None
        self._last_frame_s: float | None = None
        self._last_sample_s: float | None = None
        self._is_outpaced = False

    @property
    def facts(self) -> SourceFacts | None:
        """What is known of the latest opening; None before the first."""
        return self._facts

    @property
    def openings(self) -> int:
        """How often it was opened, the first time included; opening it for a faster wish counts as going on."""
        return self._reconnects + 1

    @property
    def status(self) -> SourceStatus:
        """How the source is, as a job's status shows it."""
        facts = self._facts
        error = self._last_error
        status = SourceStatus(
            state=self._state,
            reconnects=self._reconnects,
            stalls=self._stalls,
            last_error=error.code if error else None,
            last_error_message=error.message if error else None,
            seconds_since_frame=(
                None if self._last_frame_s is None else round(self._clock.monotonic_s() - self._last_frame_s, 3)
            ),
            skipped=self._all_skipped(),
        )
        if facts is None:
            return status
        return status.model_copy(
            update={
                "kind": facts.kind,
                "codec": facts.codec,
                "size": [facts.height_px, facts.width_px] if facts.width_px and facts.height_px else None,
                "fps": facts.fps,
                "variant": facts.variant,
                "decode": facts.decode,
                "last_bad": facts.last_bad,
            }
        )

    def change_wish(self, wish: FrameWish) -> None:
        """Ask for another rate from the next frame on.

        A source that has planned ahead at a much slower rate is opened anew at once: no failure, no pause, no change of
        state, and it goes on after the last frame handed out.
        """
        before_s, interval_s = _interval_s(self._request.wish), _interval_s(wish)
        last_s = self._last_sample_s
        due_s = self._request.resume_due_s if last_s is None else last_s + interval_s
        self._request = replace(self._request, wish=wish, resume_due_s=due_s)
        reading, facts = self._reading, self._facts
        if reading is None or facts is None:
            return
        reading.change_wish(wish)
        if facts.plans_ahead and interval_s < before_s and before_s * AHEAD_FRAMES > GREATEST_LAG_S:
            self._is_outpaced = reading.cut_short() or self._is_outpaced

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Give frames over all openings; returns when the video ended for good.

        To be run once. Closing it, or cancelling the task that waits for a frame, ends the source within a second.

        Raises:
            SourceError: It failed for good: a permanent error before the first frame, three times in a row, or more
                failures in a row than ``max_retries``.
            FreeroamError: The request cannot be met at all (malformed, an extra is missing).
        """
        try:
            while True:
                try:
                    async with aclosing(self._one_run()) as run:
                        async for frame in run:
                            yield frame
                except SourceError as error:
                    pause_s = self._pause_after_failure(error)
                else:
                    if self._is_outpaced:
                        log.debug("source_outpaced", ref=self._ref, fps=self._request.wish.fps)
                        continue
                    self._state = SourceState.ENDED
                    log.info("source_ended", ref=self._ref)
                    return
                await self._clock.sleep(pause_s)
                self._reconnects += 1
        except FreeroamError:
            self._state = SourceState.FAILED
            raise

    async def _one_run(self) -> AsyncGenerator[Frame, None]:
        """Open once and give frames until the video ends."""
        if self._facts is not None and self._facts.place is not None:
            self._request = replace(self._request, resume_place=self._facts.place)
        try:
            source = self._open_source(self._request)
        except ForbiddenReference as error:
            raise SourceError(SourceErrorCode.FORBIDDEN, error.message, detail=error.detail) from error
        self._keep_counts(source.facts)
        self._is_outpaced = False
        reading = Reading(source, self._clock)
        self._reading = reading
        began_s: float | None = None
        try:
            while (frame := await reading.next(self._silence_limit_s(began_s is not None))) is not None:
                now_s = self._clock.monotonic_s()
                began_s = now_s if began_s is None else began_s
                if now_s - began_s >= self._config.good_run_s:
                    self._failures = 0
                self._note_frame(frame, now_s)
                yield frame
        except SourceError as error:
            if error.source_code is SourceErrorCode.DECODER and began_s is not None:
                self._failures = 0
            raise
        finally:
            self._reading = None
            await reading.aclose()

    def _silence_limit_s(self, has_begun: bool) -> SilenceLimit:
        """Return how long the next frame may take, and the code of the error if it takes longer."""
        facts = self._facts
        own_s = self._request.options.stall_timeout_s
        stall_s = self._config.stall_timeout_s if own_s is None else own_s
        if facts is not None and facts.may_be_quiet:
            return None, SourceErrorCode.STALLED
        if not has_begun:
            return self._config.open_timeout_s + (stall_s or FIRST_FRAME_GRACE_S), SourceErrorCode.TIMEOUT
        if stall_s <= 0:
            return None, SourceErrorCode.STALLED
        # A slow grid is silent between its samples, and a sample may miss its keyframe by one interval more.
        return stall_s + 2.0 * _interval_s(self._request.wish), SourceErrorCode.STALLED

    def _note_frame(self, frame: Frame, now_s: float) -> None:
        if self._state is not SourceState.RUNNING:
            log.info("source_running", ref=self._ref, kind=self._facts.kind if self._facts else None)
        self._state = SourceState.RUNNING
        self._last_frame_s = now_s
        self._permanent_failures = 0
        self._last_sample_s = frame.sample_time_s
        due_s = frame.sample_time_s + _interval_s(self._request.wish)
        self._request = replace(self._request, resume_after=frame.frame_id, resume_due_s=due_s)

    def _pause_after_failure(self, error: SourceError) -> float:
        """Count ``error`` and return the pause before the next try, or raise it if there is none."""
        self._last_error = error
        self._state = SourceState.RECONNECTING
        self._failures += 1
        self._permanent_failures = self._permanent_failures + 1 if error.is_permanent else 0
        if error.source_code is SourceErrorCode.STALLED:
            self._stalls += 1
        if self.on_failure is not None:
            self.on_failure(error)
        # A request that resumes had its first frame in an earlier life of the process.
        has_had_frames = self._last_frame_s is not None or self._request.resume_after is not None
        gives_up = not has_had_frames and self._permanent_failures >= PERMANENT_TRIES
        if gives_up or 0 < self._config.max_retries < self._failures:
            log.warning("source_failed", ref=self._ref, code=error.code, error=error.message)
            raise error
        if error.source_code is SourceErrorCode.DECODER and self._failures == 1:
            pause_s = self._config.decoder_pause_s * (1.0 - self._chance() / 2.0)
        else:
            pause_s = pause_after(self._failures, self._config, self._chance())
        log.warning("source_broke", ref=self._ref, code=error.code, error=error.message, pause_s=round(pause_s, 2))
        return pause_s

    def _keep_counts(self, facts: SourceFacts) -> None:
        """Carry what earlier openings passed over into the status."""
        self._skipped_before = self._all_skipped()
        self._facts = facts

    def _all_skipped(self) -> dict[str, int]:
        skipped = dict(self._skipped_before)
        for reason, amount in (self._facts.skipped if self._facts else {}).items():
            skipped[reason] = skipped.get(reason, 0) + amount
        return skipped


def _interval_s(wish: FrameWish) -> float:
    """Return the seconds between the samples that ``wish`` asks for; 0 takes every frame."""
    return 1.0 / wish.fps if wish.fps > 0 else 0.0
