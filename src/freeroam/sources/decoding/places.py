"""Places in a decoder's ring that a feed has lent to it, one a frame that may come."""

from __future__ import annotations

from freeroam.processes.ring import FrameRing, Lease
from freeroam.processes.wire import Message

RGB_BYTES = 3

Offer = list[int] | None
"""Where a frame may be written and how much room there is, as told on the wire; None: it travels as bytes."""


class Places:
    """What one feed has lent to its decoder process.

    Args:
        ring: Of the process; None where frames travel as bytes.
        box: Greatest width and height of the frames; None where there is no bound.
    """

    def __init__(self, ring: FrameRing | None, box: tuple[int | None, int | None]) -> None:
        self._ring = ring
        # The first frame tells how large they really are.
        self._expected_bytes = 0 if box[0] is None or box[1] is None else box[0] * box[1] * RGB_BYTES
        self._lent: dict[int, Lease] = {}

    def lend(self) -> Offer:
        """Lend a place for one more frame, if its size is known and there is room."""
        if self._ring is None or not self._expected_bytes:
            return None
        lease = self._ring.lease(self._expected_bytes)
        if lease is None:
            return None
        self._lent[lease.at] = lease
        return [lease.at, lease.room_bytes]

    def pixels_of(self, message: Message) -> memoryview:
        """Return the frame that a message is about: written where it says, or beside the message as bytes.

        Raises:
            KeyError: Nothing was lent there.
            ValueError: It is larger than what was lent.
        """
        self._expected_bytes = message["width_px"] * message["height_px"] * RGB_BYTES
        lease = self.take_back(message)
        if lease is not None and not message.get("blobs"):
            return lease.filled(self._expected_bytes)
        if lease is not None:
            lease.give_back()
        pixels: memoryview = message["blobs"][0]
        return pixels

    def take_back(self, message: Message) -> Lease | None:
        """Take back the place that the decoder was given for what a message is about; None if it was given none.

        Raises:
            KeyError: Nothing was lent there.
        """
        at = message.get("at")
        return None if at is None else self._lent.pop(at)

    def give_up(self) -> list[Lease]:
        """Return what is still lent; it may be freed once the decoder writes there no more."""
        lent, self._lent = list(self._lent.values()), {}
        return lent
