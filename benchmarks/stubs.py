"""Models that do no work, so that the server round them is measured; MODEL_TYPE=benchmarks.stubs:... names one."""

from __future__ import annotations

import math
import time

from freeroam.models.base import Question, Said, Speaker
from freeroam.models.fake import FakeModel

TOKENS = 50
PACE_S = 1.0 / 30.0
_PATIENCE_S = 0.015


class Silent(FakeModel):
    """Answers at once."""

    def __init__(self) -> None:
        super().__init__(latency_ms=0.0)


class Spoken(FakeModel):
    """Speaks ``TOKENS`` words as fast as they are taken."""

    def __init__(self) -> None:
        super().__init__(latency_ms=0.0, tokens=TOKENS)


class Slow(FakeModel):
    """Speaks ``TOKENS`` words, one each 5 ms, as a small model would."""

    def __init__(self) -> None:
        super().__init__(latency_ms=0.0, tokens=TOKENS, token_latency_ms=5.0)


class Endless(FakeModel):
    """Speaks up to ten thousand words, one each 2 ms."""

    def __init__(self) -> None:
        super().__init__(latency_ms=0.0, tokens=10_000, token_latency_ms=2.0)


class Paced(FakeModel):
    """Says one word to everybody each ``PACE_S``: the moment at which it was due, on the machine's monotonic clock."""

    def __init__(self) -> None:
        super().__init__(latency_ms=0.0, tokens=100_000)

    def open_speaker(self) -> Speaker:
        """Return what keeps the pace."""
        return _Metronome()


class _Metronome(Speaker):
    """Speaks at the whole multiples of ``PACE_S``, however many listen."""

    def __init__(self) -> None:
        self._left: dict[int, int] = {}
        self._due_s = 0.0

    def join(self, key: int, question: Question) -> None:
        """Begin to speak at the next beat."""
        if not self._left:
            self._due_s = (math.floor(time.monotonic() / PACE_S) + 1) * PACE_S
        self._left[key] = question.params.max_tokens or TOKENS

    def leave(self, key: int) -> None:
        """Fall silent for one."""
        self._left.pop(key, None)

    def step(self) -> list[Said]:
        """Wait for the beat, though not so long that joining is held up."""
        wait_s = self._due_s - time.monotonic()
        if wait_s > 0:
            time.sleep(min(wait_s, _PATIENCE_S))
            if wait_s > _PATIENCE_S:
                return []
        words = (f"{self._due_s:.6f} ",)
        self._due_s += PACE_S
        said = []
        for key in list(self._left):
            self._left[key] -= 1
            is_over = self._left[key] == 0
            if is_over:
                del self._left[key]
            said.append(Said(key, words, {"finish_reason": "length"} if is_over else None))
        return said
