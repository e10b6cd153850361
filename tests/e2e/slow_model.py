"""A model that takes two seconds a call, named by MODEL_TYPE=tests.e2e.slow_model:SlowModel."""

from __future__ import annotations

from freeroam.models.fake import FakeModel


class SlowModel(FakeModel):
    """Long enough for a test to act while a question is in flight."""

    def __init__(self) -> None:
        super().__init__(latency_ms=2000.0)
