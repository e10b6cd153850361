"""Redis source: entries of a stream, in order, sampled by their own time.

Reads with a cursor, so that after a break, a crash or a restart of Redis the same entries are sampled as without one.
A bad entry is counted, named and passed over. Does not retry: see reconnecting.py.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from freeroam.clock import Clock
from freeroam.observability.logs import get_logger
from freeroam.security.dialing import Dialer
from freeroam.security.url_policy import ParsedTarget, parse_target
from freeroam.sources.decoding.pool import DecoderPool
from freeroam.sources.decoding.values import MAX_PIXELS, DecodedFrame
from freeroam.sources.redis_connection import RawEntry, RedisAddress, StreamConnection, Streams, connect, dial_trusted
from freeroam.sources.redis_entries import BadEntry, Entry, EntryId, parse_entry, parse_start
from freeroam.sources.redis_pictures import RedisPictures
from freeroam.sources.redis_place import Place
from freeroam.sources.references import check_key
from freeroam.sources.source import SourceFacts, SourceRequest
from freeroam.vocabulary.cadence import Cadence
from freeroam.vocabulary.errors import ConfigurationError, InvalidInput
from freeroam.vocabulary.frame import Frame, FrameWish

PICTURES_IN_FLIGHT = 8
"""Pictures asked of the decoder at once, so that its work and the reading overlap."""
READ_BYTES = 8 * 1024 * 1024
"""What one read aims to bring; the count of entries follows from the size of those before."""
MAX_COUNT = 256
LOOK_EVERY_S = 2.0
"""How often a reader that lags behind looks whether entries were trimmed away before it read them."""
QUIET_LOOKS = 5
"""A quiet stream of unchanged length is looked at every so many waits; a look brings two whole entries."""
PLAUSIBLE_EPOCH_S = 1e9
"""Times below it (2001) are counters, not when a picture was taken."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RedisConfig:
    """The operator's own Redis and how patient its readers are.

    Attributes:
        url: Where bare keys are: ``redis[s]://[user:password@]host:port/db``.
        connect_timeout_s: For a connection.
        read_timeout_s: For an answer.
        max_pixels: Raw pictures of more pixels are bad entries.
    """

    url: str = field(default="redis://localhost:6379/0", repr=False)
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 5.0
    max_pixels: int = MAX_PIXELS


class RedisSources:
    """Builds sources for bare keys on the configured Redis, and for ``redis(s)://`` references elsewhere.

    Args:
        config: The configured Redis.
        dialer: Opens connections to references; bare keys do not pass its policy, they are the operator's own.
        pool: Decodes pictures.
        clock: Time.

    Raises:
        ConfigurationError: ``config.url`` cannot be understood.
    """

    def __init__(self, config: RedisConfig, dialer: Dialer, pool: DecoderPool, clock: Clock) -> None:
        self._config = config
        self._dialer = dialer
        self._pool = pool
        self._clock = clock
        try:
            target = parse_target(config.url, frozenset({"redis", "rediss"}))
            db = target.path.partition("?")[0].strip("/") or "0"
            self._own = _address(target, int(db), key="", is_trusted=True)
        except (InvalidInput, ValueError) as error:
            reason = error.message if isinstance(error, InvalidInput) else "its path is the number of a database"
            raise ConfigurationError(f"REDIS_URL is not usable: {reason}") from None

    def __call__(self, request: SourceRequest) -> RedisSource:
        """Build the source of ``request``.

        Raises:
            InvalidInput: The reference or its ``start`` is malformed, or the key is the service's own.
            ForbiddenReference: Policy forbids the address.
        """
        return RedisSource(request, self._address_of(request.stream_ref), self)

    def _address_of(self, stream_ref: str) -> RedisAddress:
        if "://" not in stream_ref:
            check_key(stream_ref)
            return replace(self._own, key=stream_ref)
        target = self._dialer.policy.check_text(stream_ref, frozenset({"redis", "rediss"}))
        db, _, key = target.path.partition("?")[0].lstrip("/").partition("/")
        if not db.isascii() or not db.isdigit() or len(db) > 6 or not key:
            raise InvalidInput("a Redis reference is redis://host:port/db/key, with the number of the database")
        check_key(unquote(key))
        return _address(target, int(db), unquote(key), is_trusted=False)

    async def dial(self, address: RedisAddress, *, verify_tls: bool) -> Streams:
        """Connect to ``address``.

        Raises:
            SourceError: ``dns``, ``forbidden``, ``refused``, ``timeout`` or ``tls``.
        """
        if address.is_trusted:
            return await dial_trusted(address, self._config.connect_timeout_s)
        tls = self._dialer.tls.get(verify_tls) if address.tls else None
        return await self._dialer.connect(address.host, address.port, tls=tls)

    @property
    def config(self) -> RedisConfig:
        """The configured Redis."""
        return self._config

    @property
    def pool(self) -> DecoderPool:
        """The decoders."""
        return self._pool

    @property
    def clock(self) -> Clock:
        """Time."""
        return self._clock


@dataclass(frozen=True, slots=True)
class _Sample:
    """An entry that the grid wants, or the end (``entry`` is None)."""

    entry: Entry | None
    due_s: float = 0.0


class RedisSource:
    """One reader of one stream; see ``Source``.

    Args:
        request: What is wanted; ``resume_after`` is an entry id.
        address: Where the stream is.
        parts: What made it.

    Raises:
        InvalidInput: ``options.start`` is malformed.
    """

    def __init__(self, request: SourceRequest, address: RedisAddress, parts: RedisSources) -> None:
        self.facts = SourceFacts("redis", is_live=True, may_be_quiet=True)
        self._request = request
        self._address = address
        self._parts = parts
        self._clock = parts.clock
        self._start = parse_start(request.options.start)
        self._cadence = Cadence.of_fps(request.wish.fps, request.resume_due_s)
        self._last_due_s: float | None = None
        self._entry_bytes = 0.0

    def change_wish(self, wish: FrameWish) -> None:
        """Ask for another rate from the next entry on."""
        interval_s = 1.0 / wish.fps
        next_due_s = None if self._last_due_s is None else self._last_due_s + interval_s
        self._cadence = Cadence(interval_s, next_due_s)

    async def frames(self) -> AsyncIterator[Frame]:
        """Give sampled entries as frames, oldest first; ends with an entry that has ``eof`` set.

        Raises:
            SourceError: The server cannot be reached or read, see ``redis_connection.connect``; ``decoder``: the
                decoders are not running.
        """
        samples: asyncio.Queue[_Sample] = asyncio.Queue(PICTURES_IN_FLIGHT)
        reader = asyncio.create_task(self._read_all(samples), name="read redis")
        async with AsyncExitStack() as stack:
            stack.push_async_callback(_stop, reader)
            pictures = await stack.enter_async_context(
                RedisPictures(self._parts.pool, self._request.wish, self._request.stream_ref)
            )
            waiting: deque[tuple[_Sample, asyncio.Task[DecodedFrame] | None]] = deque()
            while True:
                while not waiting or (len(waiting) < PICTURES_IN_FLIGHT and not samples.empty()):
                    sample = await _next_of(samples, reader)
                    waiting.append((sample, pictures.ask(sample.entry)))
                sample, asked = waiting.popleft()
                if sample.entry is None:
                    return
                if asked is None:
                    continue
                try:
                    picture = await pictures.answer(sample.entry, asked)
                except BadEntry as error:
                    self._pass_over(sample.entry.entry_id, error)
                    continue
                yield self._frame(sample.entry, sample.due_s, picture)

    async def _read_all(self, samples: asyncio.Queue[_Sample]) -> None:
        """Read the stream and hand on what the grid wants."""
        verify_tls = self._request.options.verify_tls

        async def dial() -> Streams:
            return await self._parts.dial(self._address, verify_tls=verify_tls)

        async with connect(self._address, dial, self._parts.config.read_timeout_s) as stream:
            place = await self._begin(stream)
            looked_at_s = self._clock.monotonic_s()
            quiet_reads, quiet_length = 0, -1
            while True:
                count = max(1, min(MAX_COUNT, int(READ_BYTES / self._entry_bytes))) if self._entry_bytes else 1
                entries = await stream.read(place.cursor, count)
                for raw in entries:
                    place.advance(raw[0])
                    if await self._take(raw, samples):
                        await self._look(stream, place)
                        await samples.put(_Sample(None))
                        return
                is_behind = len(entries) >= count and self._clock.monotonic_s() - looked_at_s >= LOOK_EVERY_S
                if entries:
                    quiet_reads = 0
                else:
                    length = await stream.length()
                    must_look = length != quiet_length or quiet_reads % QUIET_LOOKS == 0
                    quiet_reads, quiet_length = quiet_reads + 1, length
                if is_behind or (not entries and must_look):
                    await self._look(stream, place)
                    looked_at_s = self._clock.monotonic_s()

    async def _begin(self, stream: StreamConnection) -> Place:
        """Return the place that reading begins at."""
        resumed = EntryId.parse(self._request.resume_after) if self._request.resume_after else None
        cursor = resumed or self._start
        if cursor is None:
            info = await stream.info()
            cursor = info.last_id if info is not None else EntryId(0, 0)
        place = Place(cursor, is_new=resumed is None)
        await self._look(stream, place)
        return place

    async def _look(self, stream: StreamConnection, place: Place) -> None:
        """Notice a stream that was trimmed before it was read, or made anew."""
        finding = place.look(await stream.info())
        if finding.was_recreated:
            self.facts.count_skipped("stream_recreated")
            self._cadence = Cadence(self._cadence.interval_s)
            log.warning("redis_stream_recreated", key=self._address.key, server=self._address.shown)
        if finding.missed:
            self.facts.count_skipped("trimmed", finding.missed)
            log.warning("redis_stream_trimmed", key=self._address.key, missed=finding.missed, at=str(place.cursor))

    async def _take(self, raw: RawEntry, samples: asyncio.Queue[_Sample]) -> bool:
        """Hand one entry on if the grid wants it; returns whether the stream ends with it."""
        entry_id, fields = raw
        size_bytes = 64 + sum(len(text) for text in fields or ())
        # The greatest lately seen, fading: a run of small entries must not hide that large ones occur.
        self._entry_bytes = max(float(size_bytes), self._entry_bytes * 0.98)
        try:
            entry = parse_entry(entry_id, fields, self._parts.config.max_pixels)
        except BadEntry as error:
            self._pass_over(entry_id, error)
            return error.ends
        if entry.picture is not None:
            due_s, self._cadence = self._cadence.offer(entry.time_s)
            if due_s is not None:
                self._last_due_s = due_s
                await samples.put(_Sample(entry, due_s))
        return entry.ends

    def _pass_over(self, entry_id: EntryId, error: BadEntry) -> None:
        self.facts.count_skipped(error.reason)
        self.facts.last_bad = f"{entry_id}: {error}"
        log.warning(
            "redis_entry_bad", key=self._address.key, entry=str(entry_id), reason=error.reason, error=str(error)
        )

    def _frame(self, entry: Entry, due_s: float, picture: DecodedFrame) -> Frame:
        self.facts.codec = _codec(entry)
        self.facts.width_px, self.facts.height_px = picture.source_width_px, picture.source_height_px
        return Frame(
            pixels=picture.pixels,
            width_px=picture.width_px,
            height_px=picture.height_px,
            frame_id=str(entry.entry_id),
            stream_time_s=entry.time_s,
            sample_time_s=due_s,
            captured_epoch_s=entry.time_s if entry.time_s >= PLAUSIBLE_EPOCH_S else self._clock.epoch_s(),
            due_monotonic_s=self._clock.monotonic_s(),
            source_width_px=picture.source_width_px,
            source_height_px=picture.source_height_px,
            decode_ms=picture.decode_ms,
        )


def _address(target: ParsedTarget, db: int, key: str, *, is_trusted: bool) -> RedisAddress:
    return RedisAddress(
        host=target.host,
        port=target.port,
        db=db,
        key=key,
        username=target.username or None,
        password=target.password,
        tls=target.scheme == "rediss",
        is_trusted=is_trusted,
    )


def _codec(entry: Entry) -> str:
    if entry.raw is not None:
        return "rawvideo"
    start = (entry.picture or b"")[:4]
    return {b"\x89PNG": "png", b"RIFF": "webp"}.get(start, "mjpeg")


async def _next_of(samples: asyncio.Queue[_Sample], reader: asyncio.Task[None]) -> _Sample:
    """Return the next sample, or raise what ended the reader."""
    if not samples.empty():
        return samples.get_nowait()
    getter = asyncio.ensure_future(samples.get())
    try:
        await asyncio.wait({getter, reader}, return_when=asyncio.FIRST_COMPLETED)
        if getter.done():
            return getter.result()
    finally:
        getter.cancel()
    if not samples.empty():
        return samples.get_nowait()
    reader.result()
    return _Sample(None)


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
