"""Playlists of one stream over time: the rendition chosen, the cadence of reloads, the one that froze."""

from __future__ import annotations

import asyncio

from freeroam.clock import Clock
from freeroam.observability.logs import get_logger
from freeroam.sources.fetching import Body, FetchSession
from freeroam.sources.hls_playlist import MediaPlaylist, Variant, order_variants, parse_playlist
from freeroam.vocabulary.errors import SourceError, SourceErrorCode
from freeroam.vocabulary.frame import FrameWish

LARGE_BYTES = 64 * 1024
"""Parsing more than this takes milliseconds, so it is done beside the event loop."""
LEAST_WAIT_S = 0.5
GREATEST_WAIT_S = 30.0
STALL_TARGETS = 3.0
TRIED_VARIANTS = 4
FAILED_RELOADS = 4
"""So many answers in a row that say the playlist is gone, and the stream is given up."""

_GONE = frozenset({SourceErrorCode.NOT_FOUND, SourceErrorCode.AUTH, SourceErrorCode.FORBIDDEN})
_NO_FALLBACK = frozenset({SourceErrorCode.FORBIDDEN})

log = get_logger(__name__)


class PlaylistReader:
    """Reads the playlists of one stream.

    Args:
        session: Fetches for the stream.
        clock: Time.
        budget_s: Time for a whole playlist.
        stall_timeout_s: How long a live playlist may stay the same (and three target durations); 0 for ever.

    Attributes:
        offered: The renditions of the master playlist, for people to read.
    """

    def __init__(self, session: FetchSession, clock: Clock, budget_s: float, stall_timeout_s: float) -> None:
        self.offered: list[str] = []
        self._session = session
        self._clock = clock
        self._budget_s = budget_s
        self._stall_timeout_s = stall_timeout_s
        self._url = ""
        self._text = b""
        self._playlist: MediaPlaylist | None = None
        self._loaded_s = 0.0
        self._changed_s = 0.0
        self._is_fresh = True
        self._failed_reloads = 0

    async def open(self, first: Body | None, wish: FrameWish) -> tuple[MediaPlaylist, Variant | None]:
        """Return the media playlist to follow, and the rendition it is of where there is a choice.

        Args:
            first: The stream's own playlist where somebody has fetched it.
            wish: The box that decides which rendition is large enough.

        Raises:
            SourceError: No playlist could be had (code as fetching gives it, of the rendition liked best);
                ``no_video``: there are only audio renditions, or no segments in a recording.
        """
        body = first or await self._fetch(self._session.home.url)
        parsed = await parse_body(body)
        if isinstance(parsed, MediaPlaylist):
            return self._accept(body, parsed), None
        if not parsed:
            raise SourceError(SourceErrorCode.NO_VIDEO, "the master playlist offers no rendition with video")
        self.offered = [variant.label for variant in parsed]
        failure: SourceError | None = None
        for variant in order_variants(parsed, wish)[:TRIED_VARIANTS]:
            try:
                return await self._open_variant(variant), variant
            except SourceError as error:
                failure = failure or error
                log.warning("hls_rendition_failed", variant=variant.label, code=error.code, error=error.message)
                if error.source_code in _NO_FALLBACK:
                    break
        assert failure is not None
        raise failure

    async def reload(self) -> MediaPlaylist:
        """Wait until the playlist may have changed (RFC 8216, 6.3.4), and return it.

        Raises:
            SourceError: ``stalled``: it has not changed for too long; else why it cannot be had any more.
        """
        assert self._playlist is not None
        wait_s = self._playlist.target_s * (1.0 if self._is_fresh else 0.5)
        wait_s = min(max(wait_s, LEAST_WAIT_S), GREATEST_WAIT_S)
        await self._clock.sleep(self._loaded_s + wait_s - self._clock.monotonic_s())
        try:
            body = await self._fetch(self._url)
            if body.data != self._text:
                parsed = await parse_body(body)
                if not isinstance(parsed, MediaPlaylist):
                    raise SourceError(SourceErrorCode.BAD_DATA, "the playlist of a rendition became a master playlist")
                self._accept(body, parsed)
                return self._playlist
            self._failed_reloads = 0
        except SourceError as error:
            self._note_failure(error)
        self._loaded_s = self._clock.monotonic_s()
        self._is_fresh = False
        self._check_stall()
        return self._playlist

    async def _open_variant(self, variant: Variant) -> MediaPlaylist:
        body = await self._fetch(variant.url)
        parsed = await parse_body(body)
        if not isinstance(parsed, MediaPlaylist):
            raise SourceError(SourceErrorCode.BAD_DATA, "a rendition of the master playlist is a master playlist again")
        return self._accept(body, parsed)

    def _accept(self, body: Body, playlist: MediaPlaylist) -> MediaPlaylist:
        if playlist.is_ended and not playlist.segments and self._playlist is None:
            raise SourceError(SourceErrorCode.NO_VIDEO, "the playlist is of a recording without segments")
        is_new = self._playlist is None or playlist.segments != self._playlist.segments or playlist.is_ended
        # Redirects lead to the same place again, so reloads ask there at once.
        self._url, self._text, self._playlist = body.target.url, body.data, playlist
        self._loaded_s = self._clock.monotonic_s()
        self._is_fresh = is_new
        self._failed_reloads = 0
        if is_new:
            self._changed_s = self._loaded_s
        else:
            self._check_stall()
        return playlist

    def _note_failure(self, error: SourceError) -> None:
        """Bear a reload that failed, unless the playlist seems gone."""
        self._failed_reloads += 1
        log.warning("hls_reload_failed", ref=self._session.home.shown, code=error.code, error=error.message)
        if error.source_code in _GONE and self._failed_reloads >= FAILED_RELOADS:
            raise error

    def _check_stall(self) -> None:
        assert self._playlist is not None
        if self._stall_timeout_s <= 0:
            return
        limit_s = max(self._stall_timeout_s, STALL_TARGETS * self._playlist.target_s)
        silent_s = self._clock.monotonic_s() - self._changed_s
        if silent_s >= limit_s:
            message = f"the playlist has not changed for {silent_s:.0f} s"
            raise SourceError(SourceErrorCode.STALLED, message)

    async def _fetch(self, url: str) -> Body:
        limit_bytes = self._session.limits.playlist_bytes
        return await self._session.read(
            url, limit_bytes, self._budget_s, name="playlist", setting="SOURCE_PLAYLIST_BYTES"
        )


async def parse_body(body: Body) -> MediaPlaylist | tuple[Variant, ...]:
    """Parse a playlist as fetched.

    Raises:
        SourceError: ``bad_data``: it is none.
    """
    try:
        text = body.data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SourceError(SourceErrorCode.BAD_DATA, "the playlist is not UTF-8 text") from None
    if len(body.data) > LARGE_BYTES:
        return await asyncio.to_thread(parse_playlist, text, body.target.url)
    return parse_playlist(text, body.target.url)
