"""The decoder processes as the rest of the program sees them: open a feed, write bytes, iterate frames.

::

    async with pool.open_feed(FeedShape(wish=FrameWish(2.0, 512, 512), container="mpegts")) as feed:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(write_segments(feed))      # await feed.write(data) ...; feed.end()
            async for frame in feed.decoded():
                ...

A feed whose process died, hung or grew fat raises ``SourceError(DECODER)`` from ``write`` and ``decoded``; the process
is replaced by the pool and whoever opened the feed opens another. For one picture at a time (JPEG, PNG, WebP, raw
pixels) ``open_pictures`` gives a ``PictureFeed``.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter

from freeroam.clock import Clock
from freeroam.observability.logs import get_logger
from freeroam.processes.memory import give_memory_back
from freeroam.sources.decoding.feed import Feed
from freeroam.sources.decoding.pictures import PictureFeed
from freeroam.sources.decoding.slot import DecoderSlot
from freeroam.sources.decoding.suspects import Suspects
from freeroam.sources.decoding.values import ByteReader, DecoderConfig, FeedShape
from freeroam.vocabulary.errors import SourceError, SourceErrorCode
from freeroam.vocabulary.frame import FrameWish

PROOF_S = 0.25
"""A process that answers nothing for so long is passed over for another; one that is only slow is asked again."""


WARD_PROCESSES = 2
"""Processes beside the usual ones for videos that may be what ends them."""
WARD_REST_S = 30.0
TIDY_REST_S = 5.0

log = get_logger(__name__)


class DecoderPool:
    """A few decoder processes, many feeds each.

    Args:
        config: Bounds and deadlines.
        clock: Time of heartbeats and pauses.
    """

    def __init__(self, config: DecoderConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._numbers = itertools.count(1)
        self._slots: list[DecoderSlot] = []
        self._ward: list[DecoderSlot] = []
        self._keeper: asyncio.Task[None] | None = None
        self._suspects = Suspects(clock)
        self._closed_feeds = asyncio.Event()
        self._tidying: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._is_stopping = False
        self._replaced_before: Counter[str] = Counter()
        self._refused_before = 0

    async def start(self) -> None:
        """Start the processes; returns when each has been spawned once.

        Raises:
            OSError: The system gives no process.
        """
        self._is_stopping = False
        self._slots = [self._make_slot(index) for index in range(self._config.processes)]
        self._tidying = asyncio.create_task(self._tidy(), name="give memory back")
        try:
            for slot in self._slots:
                await slot.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End every process; feeds still open raise ``SourceError(DECODER)``."""
        self._is_stopping = True
        self._ready.set()
        keepers = [task for task in (self._keeper, self._tidying) if task is not None]
        self._keeper = self._tidying = None
        for task in keepers:
            task.cancel()
        await asyncio.gather(*keepers, return_exceptions=True)
        slots, self._slots, self._ward = self._all, [], []
        async with asyncio.TaskGroup() as tasks:
            for slot in slots:
                tasks.create_task(self._end(slot))

    def open_feed(self, shape: FeedShape, reader: ByteReader | None = None) -> Feed:
        """Return a feed for one continuous run of one video; use it with ``async with``, which takes a decoder.

        Args:
            shape: What it carries and which frames are wanted.
            reader: Where bytes can be read at any place; such a feed takes no ``write``, it reads by itself and seeks.
        """
        return Feed(next(self._numbers), shape, reader, self._config, self._take_slot)

    def open_pictures(self, wish: FrameWish, owner: str = "") -> PictureFeed:
        """Return a decoder of single pictures that fits each into the wish's box; use it with ``async with``.

        Args:
            wish: The box.
            owner: Names the video, see ``FeedShape.owner``.
        """
        return PictureFeed(next(self._numbers), wish, self._config, self._take_slot, owner)

    @property
    def pids(self) -> list[int]:
        """Process ids of the decoders that live now."""
        return [pid for slot in self._all if (pid := slot.pid) is not None]

    @property
    def open_feeds(self) -> int:
        """Feeds that hold a decoder now, pictures included."""
        return sum(slot.load for slot in self._all)

    @property
    def replaced(self) -> dict[str, int]:
        """How many processes were replaced, by reason: ``died``, ``silent``, ``stuck``, ``fat``, ``garbled``."""
        counts = self._replaced_before.copy()
        for slot in self._all:
            counts.update(slot.replaced)
        return dict(counts)

    @property
    def rss_bytes(self) -> int:
        """Resident memory of the decoder processes as they last reported it."""
        return sum(slot.rss_bytes for slot in self._all)

    @property
    def frame_bytes(self) -> int:
        """Memory of the frames that were made and not let go of, and of those that may come."""
        return sum(slot.ring.used_bytes for slot in self._all if slot.ring is not None)

    @property
    def refused_places(self) -> int:
        """Frames that travelled as bytes because the memory for them was full."""
        return self._refused_before + sum(slot.refused_places for slot in self._all)

    @property
    def _all(self) -> list[DecoderSlot]:
        return [*self._slots, *self._ward]

    def _make_slot(self, index: int) -> DecoderSlot:
        return DecoderSlot(index, self._config, self._clock, self._ready, self._suspects, self._closed_feeds)

    async def _take_slot(self, owner: str) -> DecoderSlot:
        """Return the living process with the fewest feeds, waiting while all are being replaced.

        One that was not heard for a while must answer first: an idle one may hang without anybody having noticed. A
        video that was aboard when processes were lost gets one where it can harm no other.
        """
        silent: set[DecoderSlot] = set()
        while not self._is_stopping and self._slots:
            slots = await self._apart(owner) if self._suspects.has(owner) else self._slots
            if self._is_stopping:
                break
            alive = [slot for slot in slots if slot.is_alive and (slot not in silent or slot.is_heard)]
            if not alive:
                silent.clear()
                self._ready.clear()
                await self._ready.wait()
                continue
            slot = min(alive, key=lambda slot: (slot.load, not slot.is_heard))
            if slot.is_heard or await slot.answers(PROOF_S):
                return slot
            silent.add(slot)
        raise SourceError(SourceErrorCode.DECODER, "the decoders are not running")

    async def _apart(self, owner: str) -> list[DecoderSlot]:
        """Return the processes in which a suspected video may be decoded: one of its own, as long as there are such."""
        free = [slot for slot in self._ward if not slot.others(owner)]
        if free:
            return free[:1]
        if len(self._ward) >= WARD_PROCESSES:
            return self._ward
        slot = self._make_slot(self._config.processes + len(self._ward))
        self._ward.append(slot)
        log.warning("decoder_apart", processes=len(self._ward))
        try:
            await slot.start()
        except BaseException as error:
            await self._dismiss(slot)
            if not isinstance(error, OSError):
                raise
            # Better among others than not at all.
            log.warning("decoder_not_started", decoder="apart", error=str(error))
            return self._slots
        if slot not in self._ward:
            # All were stopped while it started.
            await slot.stop()
            return self._slots
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep_ward(), name="decoders apart")
        return [slot]

    async def _dismiss(self, slot: DecoderSlot) -> None:
        """Forget a process that did not start; whoever waits for it looks for another."""
        if slot in self._ward:
            self._ward.remove(slot)
        await self._end(slot)
        self._ready.set()

    async def _tidy(self) -> None:
        """Give back what the bytes of closed feeds took of this process's heap; it lies between what is still used.

        The collector, which else runs after millions of new objects, runs when it holds up no frame.
        """
        while True:
            await self._closed_feeds.wait()
            await self._clock.sleep(TIDY_REST_S)
            self._closed_feeds.clear()
            await asyncio.to_thread(give_memory_back, collects=self.open_feeds == 0)

    async def _keep_ward(self) -> None:
        """End what was started for suspected videos once none is decoded there."""
        rested: set[DecoderSlot] = set()
        while True:
            await self._clock.sleep(WARD_REST_S)
            idle = {slot for slot in self._ward if not slot.load}
            for slot in idle & rested:
                self._ward.remove(slot)
                await self._end(slot)
            rested = idle

    async def _end(self, slot: DecoderSlot) -> None:
        """End a process that is among the others no more; what it counted stays counted."""
        self._replaced_before.update(slot.replaced)
        self._refused_before += slot.refused_places
        await slot.stop()
