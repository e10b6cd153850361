"""A feed, seen from the parent: one continuous run of bytes of one video goes in, sampled frames come out."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from freeroam.processes.wire import Message
from freeroam.sources.decoding.places import Places
from freeroam.sources.decoding.values import ByteReader, DecodedFrame, DecoderConfig, FeedFacts, FeedShape
from freeroam.vocabulary.errors import SourceError, SourceErrorCode
from freeroam.vocabulary.frame import FrameWish

if TYPE_CHECKING:
    from freeroam.sources.decoding.slot import DecoderSlot

CHUNK_BYTES = 256 * 1024
"""Larger writes are cut, so that what a decoder holds stays near its bound."""


class Feed:
    """One continuous run of one video. ``async with`` takes a decoder and gives it back.

    One task writes, one iterates ``decoded``; they may be the same task only if what is written fits the bounds.

    Attributes:
        facts: What is known of the video so far.
        next_due_s: When the next sample is due, on the clock of ``time_s``; what the next run's
            ``FeedShape.next_due_s`` is, once this run has ended. None before the first frame.
        reached_s: Time of the last packet that could be read, once this run has ended, on the clock of ``time_s``; None
            where none could.
    """

    def __init__(
        self,
        number: int,
        shape: FeedShape,
        reader: ByteReader | None,
        config: DecoderConfig,
        take_slot: Callable[[str], Awaitable[DecoderSlot]],
    ) -> None:
        self.facts = FeedFacts()
        self.owner = shape.owner
        self._ahead = config.ahead_of(shape.wish.fps)
        self.next_due_s = shape.next_due_s
        self.reached_s: float | None = None
        self.number = number
        self._shape = shape
        self._wished: FrameWish | None = None
        self._reader = reader
        self._config = config
        self._take_slot = take_slot
        self._slot: DecoderSlot | None = None
        self._places = Places(None, (None, None))
        self._frames: deque[DecodedFrame] = deque()
        self._changed = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._unread_bytes = 0
        self._failure: SourceError | None = None
        self._is_over = False
        self._is_closed = False
        self._reads: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        """Take a decoder.

        Raises:
            SourceError: The pool is not running.
        """
        slot = await self._take_slot(self.owner)
        self._slot = slot
        slot.add(self.number, self)
        shape = self._shape
        self._places = Places(slot.ring, (shape.wish.width_px, shape.wish.height_px))
        slot.send(
            {
                "op": "open",
                "feed": self.number,
                "fps": shape.wish.fps,
                "width_px": shape.wish.width_px,
                "height_px": shape.wish.height_px,
                "container": shape.container,
                "lookahead": shape.lookahead,
                "next_due_s": shape.next_due_s,
                "skip_until_s": shape.skip_until_s,
                "starts_at_s": shape.starts_at_s,
                "follows": shape.follows,
                "size_bytes": None if self._reader is None else self._reader.size_bytes,
                "credit": [self._places.lend() for _ in range(self._ahead)],
            }
        )
        if self._wished is not None:
            self.change_wish(self._wished)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the decoder back."""
        await self.aclose()

    async def write(self, data: bytes) -> None:
        """Hand bytes to the decoder; wait while it holds more than it should.

        Returns at once when the decoder needs no more of this run.

        Raises:
            SourceError: The decoder gave up: ``codec``, ``no_video``, ``bad_data`` or ``decoder``.
        """
        view = memoryview(data)
        for start in range(0, len(view), CHUNK_BYTES):
            while self._unread_bytes >= self._config.unread_bytes and not self._is_over:
                self._has_room.clear()
                await self._has_room.wait()
            if self._failure is not None:
                raise self._failure
            if self._is_over or self._slot is None:
                return
            chunk = view[start : start + CHUNK_BYTES]
            self._unread_bytes += len(chunk)
            self._slot.send({"op": "data", "feed": self.number, "blobs": [chunk]})

    def end(self) -> None:
        """Say that no more bytes come; ``decoded`` ends after the last frame."""
        if self._slot is not None and not self._is_over:
            self._slot.send({"op": "end", "feed": self.number})

    async def decoded(self) -> AsyncIterator[DecodedFrame]:
        """Give the sampled frames in order of time; ends when the run has ended.

        Taking a frame lets the decoder make another; it stays at most ``ahead_frames`` ahead.

        Raises:
            SourceError: ``no_video`` (nothing to decode in it), ``codec`` (nothing here decodes it, or its pictures are
                too large), ``bad_data`` (not readable as any container), ``decoder`` (the process is gone), or what the
                ``ByteReader`` raised. Frames that were ready come first.
        """
        while True:
            while self._frames:
                frame = self._frames.popleft()
                if self._slot is not None and not self._is_over:
                    self._slot.send({"op": "credit", "feed": self.number, "place": self._places.lend()})
                yield frame
            if self._failure is not None:
                raise self._failure
            if self._is_over:
                return
            self._changed.clear()
            await self._changed.wait()

    @property
    def ready_frames(self) -> int:
        """Frames that are decoded and not yet taken."""
        return len(self._frames)

    @property
    def is_over(self) -> bool:
        """Whether the decoder has given all it will; frames may still wait to be taken."""
        return self._is_over

    def change_wish(self, wish: FrameWish) -> None:
        """Ask for another rate from the next group of pictures on; the box stays.

        While a decoder is still being taken, it is told as soon as it is there.
        """
        self._wished = wish
        if self._slot is not None and not self._is_over:
            self._slot.send({"op": "wish", "feed": self.number, "fps": wish.fps})
            while self._ahead < self._config.ahead_of(wish.fps):
                self._ahead += 1
                self._slot.send({"op": "credit", "feed": self.number, "place": self._places.lend()})

    async def aclose(self) -> None:
        """End the decoder's work on this feed at once and drop what is ready."""
        if self._is_closed:
            return
        self._is_closed = True
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.remove(self.number, self._places.give_up())
        self._frames.clear()
        closed = SourceError(SourceErrorCode.DECODER, "the feed is closed")
        self._finish(closed)
        if self._failure is not None:
            # What was raised holds on to whoever it passed, and so to the frames that they were looking at.
            self._failure = closed
        reads = list(self._reads)
        for task in reads:
            task.cancel()
        await asyncio.gather(*reads, return_exceptions=True)

    def take(self, message: Message) -> None:
        """Take what the decoder process says about this feed; called by its slot."""
        match message["op"]:
            case "frame":
                self._take_frame(message)
            case "read":
                self._unread_bytes -= message["bytes"]
                self._has_room.set()
            case "facts":
                self._take_facts(message)
            case "need":
                self._start_read(message["offset"], message["size"])
            case "over":
                self.next_due_s = message["next_due_s"]
                self.reached_s = message.get("reached_s")
                self._finish(None)
            case "error":
                self.reached_s = message.get("reached_s")
                self._finish(SourceError(SourceErrorCode(message["code"]), message["message"]))

    def lose(self, reason: str) -> None:
        """Fail because the decoder process is gone; called by its slot."""
        self._slot = None
        for lease in self._places.give_up():
            lease.give_back()
        self._finish(SourceError(SourceErrorCode.DECODER, f"the decoder process was replaced: {reason}"))

    def _take_frame(self, message: Message) -> None:
        self.next_due_s = message["next_due_s"]
        self._frames.append(
            DecodedFrame(
                pixels=self._places.pixels_of(message),
                width_px=message["width_px"],
                height_px=message["height_px"],
                pts_s=message["pts_s"],
                time_s=message["time_s"],
                due_s=message["due_s"],
                source_width_px=message["source_width_px"],
                source_height_px=message["source_height_px"],
                decode_ms=message["decode_ms"],
            )
        )
        self._changed.set()

    def _take_facts(self, message: Message) -> None:
        for name in FeedFacts.__slots__:
            if name in message:
                setattr(self.facts, name, message[name])

    def _finish(self, failure: SourceError | None) -> None:
        if self._is_over:
            return
        self._failure = failure
        self._is_over = True
        self._changed.set()
        self._has_room.set()

    def _start_read(self, offset: int, size: int) -> None:
        task = asyncio.get_running_loop().create_task(self._read(offset, size), name=f"feed-{self.number}-read")
        self._reads.add(task)
        task.add_done_callback(self._reads.discard)

    async def _read(self, offset: int, size: int) -> None:
        assert self._reader is not None
        try:
            data = await self._reader.read_at(offset, size)
        except SourceError as error:
            self._finish(error)
            return
        except Exception as error:  # a reader of an extension may raise anything; it costs this feed only
            self._finish(SourceError(SourceErrorCode.BAD_DATA, f"the bytes could not be read: {error}"))
            return
        if self._slot is not None:
            self._slot.send({"op": "chunk", "feed": self.number, "blobs": [data]})
