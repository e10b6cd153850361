"""A decoder of single pictures, seen from the parent: one picture in, one frame or one error back."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from freeroam.processes.wire import Message
from freeroam.sources.decoding.places import Places
from freeroam.sources.decoding.values import DecodedFrame, DecoderConfig, RawShape
from freeroam.vocabulary.errors import SourceError, SourceErrorCode, TooLarge
from freeroam.vocabulary.frame import FrameWish

if TYPE_CHECKING:
    from freeroam.sources.decoding.slot import DecoderSlot


class PictureFeed:
    """Decodes JPEG, PNG and WebP pictures and scales raw ones; ``async with`` takes a decoder and gives it back.

    Sampling is the caller's: every picture given is decoded. Several may be asked at once; they are done in order.
    """

    def __init__(
        self,
        number: int,
        wish: FrameWish,
        config: DecoderConfig,
        take_slot: Callable[[str], Awaitable[DecoderSlot]],
        owner: str = "",
    ) -> None:
        self.number = number
        self.owner = owner
        self._wish = wish
        self._config = config
        self._take_slot = take_slot
        self._slot: DecoderSlot | None = None
        self._places = Places(None, (None, None))
        self._failure: SourceError | None = None
        self._names = itertools.count()
        self._asked: dict[int, asyncio.Future[DecodedFrame]] = {}

    async def __aenter__(self) -> Self:
        """Take a decoder.

        Raises:
            SourceError: The pool is not running.
        """
        slot = await self._take_slot(self.owner)
        self._slot = slot
        slot.add(self.number, self)
        self._places = Places(slot.ring, (self._wish.width_px, self._wish.height_px))
        slot.send(
            {
                "op": "pictures",
                "feed": self.number,
                "width_px": self._wish.width_px,
                "height_px": self._wish.height_px,
            }
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the decoder back."""
        await self.aclose()

    async def decode(self, data: bytes | memoryview, raw: RawShape | None = None) -> DecodedFrame:
        """Return the picture, scaled to fit the wish's box; its times are 0.

        Args:
            data: A whole JPEG, PNG or WebP file, told apart by its first bytes; or raw pixels if ``raw`` says so.
            raw: How raw pixels lie in memory.

        Raises:
            SourceError: ``bad_data``: this picture is broken, of an unknown form, of the wrong length or too large; the
                next one may be good. ``decoder``: the process is gone; open another ``PictureFeed``.
        """
        if self._failure is not None:
            raise self._failure
        if self._slot is None:
            raise SourceError(SourceErrorCode.DECODER, "the feed is closed")
        name = next(self._names)
        answer: asyncio.Future[DecodedFrame] = asyncio.get_running_loop().create_future()
        self._asked[name] = answer
        shape = None if raw is None else [raw.width_px, raw.height_px, raw.channels]
        try:
            place = self._places.lend()
            asked = {"op": "picture", "feed": self.number, "name": name, "raw": shape, "place": place, "blobs": [data]}
            self._slot.send(asked)
            return await answer
        except TooLarge as error:
            raise SourceError(SourceErrorCode.BAD_DATA, f"the picture is too large: {error.message}") from None
        finally:
            self._asked.pop(name, None)

    @property
    def is_lost(self) -> bool:
        """Whether it decodes nothing any more: its process is gone, or it was closed."""
        return self._failure is not None

    async def aclose(self) -> None:
        """Give the decoder back; pictures still asked for fail."""
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.remove(self.number, self._places.give_up())
        self._fail(SourceError(SourceErrorCode.DECODER, "the feed is closed"))

    def take(self, message: Message) -> None:
        """Take what the decoder process says about a picture; called by its slot."""
        answer = self._asked.get(message.get("name", -1))
        if message["op"] == "error" and answer is None:
            self._fail(SourceError(SourceErrorCode(message["code"]), message["message"]))
        if answer is None or answer.done():
            if (lease := self._places.take_back(message)) is not None:
                lease.give_back()
            return
        if message["op"] == "error":
            if (lease := self._places.take_back(message)) is not None:
                lease.give_back()
            answer.set_exception(SourceError(SourceErrorCode(message["code"]), message["message"]))
        elif message["op"] == "frame":
            answer.set_result(
                DecodedFrame(
                    pixels=self._places.pixels_of(message),
                    width_px=message["width_px"],
                    height_px=message["height_px"],
                    pts_s=0.0,
                    time_s=0.0,
                    due_s=0.0,
                    source_width_px=message["source_width_px"],
                    source_height_px=message["source_height_px"],
                    decode_ms=message["decode_ms"],
                )
            )

    def lose(self, reason: str) -> None:
        """Fail because the decoder process is gone; called by its slot."""
        self._slot = None
        for lease in self._places.give_up():
            lease.give_back()
        self._fail(SourceError(SourceErrorCode.DECODER, f"the decoder process was replaced: {reason}"))

    def _fail(self, failure: SourceError) -> None:
        if self._failure is None:
            self._failure = failure
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(self._failure)
