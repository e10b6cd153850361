"""Models that do no work, so that the server round them is measured; MODEL_TYPE=benchmarks.stubs:... names one."""

from __future__ import annotations

from freeroam.models.fake import FakeModel

TOKENS = 50


class Silent(FakeModel):
    """Answers at once."""

    def __init__(self) -> None:
        super().__init__(latency_ms=0.0)


class Spoken(FakeModel):
    """Speaks ``TOKENS`` words as fast as they are taken."""

    def __init__(self) -> None:
        super().__init__(latency_ms=0.0, tokens=TOKENS)
