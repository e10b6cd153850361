"""How long the next model call will take, from the last ones; errs on the short side."""

from __future__ import annotations

from collections import deque

_REMEMBERED = 8
_CAUTION = 0.9


class Forecast:
    """Remembers the last calls of each batch size.

    The shortest of the last eight, less a tenth: a batch that arrives early costs nothing, a late one leaves the model
    idle.
    """

    def __init__(self) -> None:
        self._calls: dict[int, deque[float]] = {}

    def record(self, batch_size: int, duration_s: float) -> None:
        """Take in a call that has ended."""
        self._calls.setdefault(batch_size, deque(maxlen=_REMEMBERED)).append(duration_s)

    def expect_s(self, batch_size: int) -> float | None:
        """Return the seconds that a call of this size will take at least; None if nothing is known.

        A size not seen yet is taken for as quick as the quickest call of a smaller one.
        """
        known = self._calls.get(batch_size)
        if known is None:
            smaller = [calls for size, calls in self._calls.items() if size < batch_size]
            if not smaller:
                return None
            known = min(smaller, key=min)
        return min(known) * _CAUTION
