"""Which videos have been aboard when decoder processes were lost: those that may be what ends them."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable

from freeroam.clock import Clock

LOSSES = 2
"""So many losses, and a video is decoded apart from all that are not suspected."""
TOGETHER_S = 1.0
"""Processes that are killed or stand still within this time of each other do so for a reason that is no video."""
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
        self._chances: dict[str, tuple[float, set[str]]] = {}

    def note(self, owners: Iterable[str], place: str = "", *, may_be_chance: bool = False) -> None:
        """Note that a process was lost while it decoded these; those without a name are not remembered.

        What takes several processes at once (memory that ran out, a suspended machine, an operator) is nobody's fault:
        only a video that was aboard more than one of them is suspected for it.

        Args:
            owners: The videos.
            place: Names the process among its siblings.
            may_be_chance: Whether it was killed or stood still, and did not crash.
        """
        now_s = self._clock.monotonic_s()
        lost = {owner for owner in owners if owner}
        if may_be_chance:
            self._chances[place] = (now_s, lost)
            lost = self._not_by_chance(place, now_s, lost)
        for owner in lost:
            self._losses.setdefault(owner, deque(maxlen=LOSSES)).append(now_s)
            self._losses.move_to_end(owner)
        while len(self._losses) > KEPT_OWNERS:
            self._losses.popitem(last=False)

    def has(self, owner: str) -> bool:
        """Return whether a video is suspected."""
        losses = self._losses.get(owner)
        return losses is not None and len(losses) >= LOSSES and self._clock.monotonic_s() - losses[0] <= MEMORY_S

    def _not_by_chance(self, place: str, now_s: float, lost: set[str]) -> set[str]:
        """Return whom of ``lost`` to blame, and take back what others were blamed for a moment ago."""
        others = [
            chance for other, chance in self._chances.items() if other != place and now_s - chance[0] <= TOGETHER_S
        ]
        for moment_s, owners in others:
            for owner in owners - lost:
                losses = self._losses.get(owner)
                if losses is not None and moment_s in losses:
                    losses.remove(moment_s)
        return lost.intersection(*(owners for _, owners in others)) if others else lost
