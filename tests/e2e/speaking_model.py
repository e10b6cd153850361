"""A model that speaks 40 words, named by MODEL_TYPE=tests.e2e.speaking_model:SpeakingModel."""

from __future__ import annotations

from freeroam.models.fake import FakeModel


class SpeakingModel(FakeModel):
    """Slow enough that an answer is heard in pieces."""

    def __init__(self) -> None:
        super().__init__(tokens=40, token_latency_ms=5.0)
