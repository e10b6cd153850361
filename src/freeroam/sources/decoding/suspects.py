"""Which videos have been aboard when decoder processes were lost: those that may be what ends them."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable

from freeroam.clock import Clock

LOSSES = 2
"""So many losses, and a video is decoded apart from all that are not suspected."""
MEMORY_S = 600.0
KEPT_OWNERS = 256


class Suspects:
    """Remembers, for a while, whose feeds were lost with their process.

    Neighbours are suspected with the culprit; decoded apart, they lose nothing more, and are trusted again.

    Args:
        clock: Time.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._losses: OrderedDict[str, deque[float]] = OrderedDict()

    def note(self, owners: Iterable[str]) -> None:
        """Note that a process was lost while it decoded these; those without a name are not remembered."""
        now_s = self._clock.monotonic_s()
        for owner in {owner for owner in owners if owner}:
            self._losses.setdefault(owner, deque(maxlen=LOSSES)).append(now_s)
            self._losses.move_to_end(owner)
        while len(self._losses) > KEPT_OWNERS:
            self._losses.popitem(last=False)

    def has(self, owner: str) -> bool:
        """Return whether a video is suspected."""
        losses = self._losses.get(owner)
        return losses is not None and len(losses) >= LOSSES and self._clock.monotonic_s() - losses[0] <= MEMORY_S
