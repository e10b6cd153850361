"""Plain HTTP: asks once what an address gives, and reads it as a file, a camera's pictures, a snapshot or HLS."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from functools import partial

from freeroam.clock import Clock
from freeroam.observability.logs import get_logger
from freeroam.sources.decoding.pool import DecoderPool
from freeroam.sources.decoding.values import FeedShape
from freeroam.sources.feed_run import FeedRun, FrameQueue
from freeroam.sources.fetching import Body, Fetcher
from freeroam.sources.frame_queue import hand_out
from freeroam.sources.hls import HlsConfig, HlsSource
from freeroam.sources.http_answers import Response
from freeroam.sources.http_files import RangeReader, TemporaryReader, TemporarySpace, container_of_file, index_is_late
from freeroam.sources.http_grammar import ByteRange
from freeroam.sources.http_pictures import PictureReading, picture_form
from freeroam.sources.source import Source, SourceFactory, SourceFacts, SourceRequest
from freeroam.vocabulary.errors import SourceError, SourceErrorCode
from freeroam.vocabulary.frame import Frame, FrameWish

HEAD_BYTES = 64 * 1024
LIVE_HEAD_BYTES = 1024
PLAYLIST_TYPES = frozenset(
    {"application/vnd.apple.mpegurl", "application/x-mpegurl", "audio/mpegurl", "audio/x-mpegurl", "video/mpegurl"}
)

log = get_logger(__name__)


def http_factory(
    fetcher: Fetcher,
    decoders: DecoderPool,
    clock: Clock,
    hls_config: HlsConfig | None = None,
    space: TemporarySpace | None = None,
) -> SourceFactory:
    """Return what builds sources of plain HTTP addresses; all of them share ``space``."""
    return partial(_build, fetcher, decoders, clock, hls_config or HlsConfig(), space or TemporarySpace())


def _build(
    fetcher: Fetcher,
    decoders: DecoderPool,
    clock: Clock,
    hls_config: HlsConfig,
    space: TemporarySpace,
    request: SourceRequest,
) -> Source:
    return HttpSource(request, fetcher, decoders, clock, hls_config, space)


class HttpSource:
    """One address, opened once; ``facts.kind`` becomes ``http``, ``mjpeg``, ``snapshot`` or ``hls`` with the answer.

    A file whose length the server says is a recording, read as fast as it is decoded. An endless answer is live and
    handed out at the pace of its own time.

    Args:
        request: What is wanted.
        fetcher: Asks the server.
        decoders: Where bytes become frames.
        clock: Time.
        hls_config: For addresses that turn out to be playlists.
        space: For recordings that must be read anywhere and whose server does not give them in ranges.

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
        hls_config: HlsConfig,
        space: TemporarySpace,
    ) -> None:
        self.facts = SourceFacts("http", is_live=True)
        options = request.options
        self._session = fetcher.session(request.stream_ref, options.headers, verify_tls=options.verify_tls)
        self._request = request
        self._fetcher = fetcher
        self._decoders = decoders
        self._clock = clock
        self._hls_config = hls_config
        self._space = space
        self._wish = request.wish
        self._is_paced = False
        self._tell_wish: Callable[[FrameWish], None] = lambda _wish: None

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """Give sampled frames.

        Raises:
            SourceError: It could not be opened, is no video, or broke off.
        """
        async with AsyncExitStack() as stack:
            response = await stack.enter_async_context(await self._session.open(self._session.home.url))
            head, rest = await self._read_head(response, stack)
            produce = self._told_by(response, head, rest)
            if produce is None:
                playlist = await _playlist(response, head, rest, self._session.limits.playlist_bytes)
                await stack.aclose()
                given = self._hls(playlist).frames()
            else:
                log.info("http_opened", ref=self._session.home.shown, kind=self.facts.kind, live=self.facts.is_live)
                given = hand_out(produce, self._clock, lambda: self._is_paced)
            async with aclosing(given) as frames:
                async for frame in frames:
                    yield frame

    def change_wish(self, wish: FrameWish) -> None:
        """Ask for another rate."""
        self._wish = wish
        self._tell_wish(wish)

    async def _read_head(self, response: Response, stack: AsyncExitStack) -> tuple[bytes, AsyncIterator[bytes]]:
        """Return the first bytes and what gives the others."""
        pieces = await stack.enter_async_context(aclosing(response.pieces(name="video")))
        wanted = HEAD_BYTES if response.length_bytes is not None else LIVE_HEAD_BYTES
        if response.content_type.startswith("multipart/"):
            wanted = 0
        head = b""
        while len(head) < wanted and (piece := await anext(pieces, None)) is not None:
            head += piece
        return head, pieces

    def _told_by(
        self, response: Response, head: bytes, rest: AsyncIterator[bytes]
    ) -> Callable[[FrameQueue], Awaitable[None]] | None:
        """Return what reads this kind of answer; None for a playlist.

        Raises:
            SourceError: ``no_video``.
        """
        kind = response.content_type
        if kind in PLAYLIST_TYPES or head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(b"#EXTM3U"):
            return None
        if kind.startswith("multipart/"):
            self.facts.kind = "mjpeg"
            return partial(self._read_mjpeg, response, rest)
        if kind in {"image/jpeg", "image/jpg", "image/png", "image/webp"} or picture_form(head):
            self.facts.kind = "snapshot"
            return partial(self._read_snapshots, response, head, rest)
        container = container_of_file(head)
        if container is None:
            form = f" ({kind[:60]})" if kind else ""
            message = f"{response.target.shown} is no video, picture or playlist{form}"
            raise SourceError(SourceErrorCode.NO_VIDEO, message)
        self.facts.kind = "http"
        self.facts.is_live = response.length_bytes is None
        self._is_paced = self.facts.is_live
        return partial(self._read_file, response, head, rest, container)

    def _hls(self, playlist: Body) -> HlsSource:
        source = HlsSource(
            self._request,
            self._fetcher,
            self._decoders,
            self._clock,
            self._hls_config,
            facts=self.facts,
            first=playlist,
        )
        source.change_wish(self._wish)
        self._tell_wish = source.change_wish
        return source

    async def _read_mjpeg(self, response: Response, rest: AsyncIterator[bytes], queue: FrameQueue) -> None:
        async with self._decoders.open_pictures(self._wish, self._request.stream_ref) as pictures:
            reading = PictureReading(pictures, queue, self.facts, self._clock, wish=self._wish)
            self._tell_wish = reading.change_wish
            # A camera may send a picture a minute; whether it has fallen silent is for the stall timeout to say.
            stall_s = self._request.options.stall_timeout_s
            stall_s = self._hls_config.stall_timeout_s if stall_s is None else stall_s
            response.silence_s = max(stall_s, response.silence_s or 0.0) if stall_s > 0 else None
            await reading.follow(response, rest, self._session.limits.picture_bytes)

    async def _read_snapshots(
        self, response: Response, head: bytes, rest: AsyncIterator[bytes], queue: FrameQueue
    ) -> None:
        first = await _whole(response, head, rest, self._session.limits.picture_bytes, "SOURCE_PICTURE_BYTES")
        self.facts.plans_ahead = True
        await response.aclose()  # so that the next picture comes over the same connection
        async with self._decoders.open_pictures(self._wish, self._request.stream_ref) as pictures:
            reading = PictureReading(pictures, queue, self.facts, self._clock, wish=self._wish)
            self._tell_wish = reading.change_wish
            await reading.poll(self._session, first)

    async def _read_file(
        self, response: Response, head: bytes, rest: AsyncIterator[bytes], container: str, queue: FrameQueue
    ) -> None:
        resume_s = None if self.facts.is_live else _stream_time_s(self._request.resume_after)
        must_seek = (container == "mp4" and index_is_late(head)) or resume_s is not None
        if must_seek and not self.facts.is_live:
            await response.aclose()
            await self._read_anywhere(response.target.url, container, resume_s, queue)
            return
        shape = FeedShape(
            wish=self._wish,
            container=container,
            lookahead=not self.facts.is_live,
            starts_at_s=self._clock.epoch_s() if self.facts.is_live else 0.0,
            owner=self._request.stream_ref,
        )
        self.facts.plans_ahead = self.facts.is_live
        run = FeedRun(self._decoders.open_feed(shape), queue, self.facts)
        self._tell_wish = run.change_wish
        async with run:
            broke: SourceError | None = None
            try:
                takes_more = await run.write(head)
                while takes_more and (piece := await anext(aiter(rest), None)) is not None:
                    takes_more = await run.write(piece)
            except SourceError as error:
                broke = error
            # A picture that was cut off says less than the network about why the video ends here.
            failure = broke or await run.finish()
            if broke is not None:
                await run.finish()
            if failure is not None:
                raise failure
            if self.facts.is_live and not response.has_end:
                raise SourceError(SourceErrorCode.ENDED, "the server closed the stream")

    async def _read_anywhere(self, url: str, container: str, resume_s: float | None, queue: FrameQueue) -> None:
        """Read a recording whose demuxer must go back and forth."""
        response = await self._session.open(url, ByteRange(0))
        async with response:
            reader: RangeReader | TemporaryReader
            if response.status == 206 and response.total_bytes is not None:
                reader = RangeReader(self._session, url, response)
            else:
                reader = await TemporaryReader.fetch(response, self._space)
            shape = FeedShape(
                wish=self._wish,
                container=container,
                starts_at_s=0.0,
                skip_until_s=resume_s,
                next_due_s=self._request.resume_due_s,
                owner=self._request.stream_ref,
            )
            try:
                run = FeedRun(self._decoders.open_feed(shape, reader), queue, self.facts)
                self._tell_wish = run.change_wish
                async with run:
                    failure = await run.wait()
                    if failure is not None:
                        raise failure
            finally:
                await reader.aclose()


async def _playlist(response: Response, head: bytes, rest: AsyncIterator[bytes], max_bytes: int) -> Body:
    data = await _whole(response, head, rest, max_bytes, "SOURCE_PLAYLIST_BYTES")
    return Body(data, response.target.without_credentials(), response.content_type)


async def _whole(response: Response, head: bytes, rest: AsyncIterator[bytes], max_bytes: int, setting: str) -> bytes:
    """Return a whole body whose beginning was read."""
    data = bytearray(head)
    piece: bytes | None = b""
    while piece is not None:
        data += piece
        if len(data) > max_bytes:
            message = f"the answer of {response.target.shown} is longer than {max_bytes} bytes ({setting})"
            raise SourceError(SourceErrorCode.BAD_DATA, message)
        piece = await anext(rest, None)
    return bytes(data)


def _stream_time_s(frame_id: str | None) -> float | None:
    return int(frame_id) / 1000 if frame_id is not None and frame_id.isdigit() else None
