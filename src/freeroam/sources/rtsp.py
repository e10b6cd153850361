"""RTSP source: the video of a camera or server over TCP, packets fetched here and decoded in a child.

Frames are handed out as they come. Stream time is the video's own, set on the wall clock once a connection, so that it
goes on across reconnects. Does not retry: see reconnecting.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing

from freeroam.clock import Clock
from freeroam.observability.logs import get_logger
from freeroam.security.dialing import Dialer
from freeroam.security.url_policy import ParsedTarget
from freeroam.sources.decoding.feed import Feed
from freeroam.sources.decoding.pool import DecoderPool
from freeroam.sources.decoding.values import FeedShape, milliseconds_id
from freeroam.sources.rtsp_relay import RtspRelay
from freeroam.sources.rtsp_session import SCHEMES, open_session
from freeroam.sources.source import SourceFacts, SourceRequest
from freeroam.vocabulary.errors import SourceError, SourceErrorCode
from freeroam.vocabulary.frame import Frame, FrameWish

END_SLACK_S = 2.0
"""A recording that broke off this near its announced end has ended."""
REST_S = 30.0
"""A decoder that is lost so soon after the one before, and had not worked, is told as a failure: it may be this stream
that kills them."""
WORKED_S = 3.0
"""A decoder that gave frames for so long has worked."""
GRID_GAP_S = 3600.0
"""After a break longer than this the sampling grid begins anew instead of being continued."""

log = get_logger(__name__)


class RtspSources:
    """Builds sources for ``rtsp(s)://`` references.

    Args:
        dialer: Opens connections.
        pool: Decodes.
        clock: Time.
        open_timeout_s: For everything from the connection to the first packet.
    """

    def __init__(self, dialer: Dialer, pool: DecoderPool, clock: Clock, open_timeout_s: float = 10.0) -> None:
        self.dialer = dialer
        self.pool = pool
        self.clock = clock
        self.open_timeout_s = open_timeout_s

    def __call__(self, request: SourceRequest) -> RtspSource:
        """Build the source of ``request``.

        Raises:
            InvalidInput: The reference is malformed.
            ForbiddenReference: Policy forbids it.
        """
        return RtspSource(request, self.dialer.policy.check_text(request.stream_ref, SCHEMES), self)


class RtspSource:
    """One connection to one camera; see ``Source``.

    Args:
        request: What is wanted.
        target: Where it is.
        parts: What made it.
    """

    def __init__(self, request: SourceRequest, target: ParsedTarget, parts: RtspSources) -> None:
        self.facts = SourceFacts("rtsp", is_live=True)
        self._request = request
        self._wish = request.wish
        self._target = target
        self._parts = parts
        self._feed: Feed | None = None
        self._last_pts_s = self._last_time_s = 0.0

    def change_wish(self, wish: FrameWish) -> None:
        """Ask for another rate from the next group of pictures on."""
        self._wish = wish
        if self._feed is not None:
            self._feed.change_wish(wish)

    async def frames(self) -> AsyncIterator[Frame]:
        """Give sampled frames as they come; ends only with a recording whose end was announced.

        Raises:
            SourceError: What ``rtsp_session.open_session`` raises; ``ended``: the server ended the stream; ``codec``,
                ``no_video``, ``bad_data``, ``decoder``: what came could not be decoded.
        """
        session = await open_session(
            self._target,
            self._parts.dialer,
            self._parts.clock,
            verify_tls=self._request.options.verify_tls,
            timeout_s=self._parts.open_timeout_s,
        )
        began_s = self._parts.clock.epoch_s()
        relay = RtspRelay(session, self._parts.clock)
        pump = asyncio.create_task(relay.run(), name="read rtsp")
        try:
            async with aclosing(self._through_decoders(relay, pump, began_s)) as frames:
                async for frame in frames:
                    yield frame
        finally:
            pump.cancel()
            async with AsyncExitStack() as stack:
                stack.push_async_callback(session.aclose)
                stack.push_async_callback(relay.aclose)
                await asyncio.gather(pump, return_exceptions=True)
        if not pump.cancelled() and (cause := pump.exception()) is not None:
            raise cause
        duration_s = session.description.duration_s if session.description else None
        if duration_s is None or self._last_time_s - began_s < duration_s - END_SLACK_S:
            raise SourceError(SourceErrorCode.ENDED, f"{self._target.shown} ended the stream")

    async def _through_decoders(
        self, relay: RtspRelay, pump: asyncio.Task[bool], began_s: float
    ) -> AsyncGenerator[Frame, None]:
        """Give frames; a decoder that is lost is followed by another, with the session going on."""
        clock = self._parts.clock
        due_s, lost_s = self._request.resume_due_s, -REST_S
        while True:
            began_at_s = gave_at_s = clock.monotonic_s()
            try:
                feed = self._feed = self._parts.pool.open_feed(self._shape(began_s + relay.elapsed_s, due_s))
                async with feed:
                    relay.turn_to(feed)
                    async for frame in self._decoded(feed):
                        gave_at_s = clock.monotonic_s()
                        yield frame
                return
            except SourceError as error:
                _prefer_cause(pump, error)
                is_again = clock.monotonic_s() - lost_s < REST_S and gave_at_s - began_at_s < WORKED_S
                if error.source_code is not SourceErrorCode.DECODER or relay.is_over or is_again:
                    raise
                lost_s, due_s = clock.monotonic_s(), feed.next_due_s
                self.facts.count_skipped("decoders_lost")
                log.warning("rtsp_decoder_lost", ref=self._target.shown, error=error.message)
            finally:
                self._feed = None

    def _shape(self, starts_at_s: float, due_s: float | None) -> FeedShape:
        """Return a run whose time is the wall clock's, on the grid of the run before it."""
        if due_s is not None and abs(due_s - starts_at_s) > GRID_GAP_S:
            due_s = None
        return FeedShape(
            self._wish,
            container="rtp",
            lookahead=False,
            next_due_s=due_s,
            # The group of pictures that a decoder was lost in comes to the next one from its beginning.
            skip_until_s=self._last_time_s if self._last_time_s and due_s is not None else None,
            starts_at_s=starts_at_s,
            follows=(self._last_pts_s, self._last_time_s) if self._last_time_s else None,
            owner=self._request.stream_ref,
        )

    async def _decoded(self, feed: Feed) -> AsyncIterator[Frame]:
        clock, facts = self._parts.clock, self.facts
        async for decoded in feed.decoded():
            feed.facts.show_bad(facts)
            facts.codec, facts.fps, facts.decode = feed.facts.codec, feed.facts.fps, feed.facts.decode
            facts.width_px, facts.height_px = decoded.source_width_px, decoded.source_height_px
            self._last_pts_s, self._last_time_s = decoded.pts_s, decoded.time_s
            yield decoded.named(
                milliseconds_id(decoded.time_s),
                captured_epoch_s=clock.epoch_s(),
                due_monotonic_s=clock.monotonic_s(),
            )


def _prefer_cause(pump: asyncio.Task[bool], error: SourceError) -> None:
    """Raise why no more bytes came, where that is why the decoder could make nothing of them."""
    if error.source_code is SourceErrorCode.DECODER or not pump.done() or pump.cancelled():
        return
    if (cause := pump.exception()) is not None:
        raise cause
    if pump.result():
        raise SourceError(SourceErrorCode.ENDED, "the server ended the stream before there was a picture") from error
