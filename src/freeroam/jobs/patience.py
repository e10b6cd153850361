"""How many frames of a `latest` job may wait while its model is exchanged for one that does not fit beside it."""

from __future__ import annotations

from contextlib import suppress

from freeroam.clock import Clock
from freeroam.engines.engine import Engine
from freeroam.vocabulary.errors import NotFound

CATCH_UP_S = 15.0
"""How long after an exchange frames that waited for it may still be asked about; a model that is slower than the video
would else never be up with it again."""


class Patience:
    """Tells for one job how much may wait.

    Args:
        engine: Knows whether a version is on its way.
        clock: Tells the time.
        room_bytes: What the pixels of waiting frames may take meanwhile.
    """

    def __init__(self, engine: Engine, clock: Clock, room_bytes: int) -> None:
        self._engine = engine
        self._clock = clock
        self._room_bytes = room_bytes
        self._ends_s = float("-inf")

    def room_bytes(self, model: str | None) -> int:
        """Return what the pixels of frames may take that wait behind the newest; 0 unless ``model`` is exchanged."""
        now_s = self._clock.monotonic_s()
        with suppress(NotFound):
            if self._engine.awaits_successor(model):
                self._ends_s = now_s + CATCH_UP_S
        return self._room_bytes if now_s < self._ends_s else 0
