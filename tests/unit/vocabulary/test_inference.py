"""What a caller may tune in a question."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from freeroam.vocabulary.inference import InferenceParams

TURN = {"role": "user", "content": "hi"}


def test_a_conversation_survives_the_way_to_a_replica() -> None:
    params = InferenceParams(messages=[{"role": "system", "content": ""}, TURN], chat=False)

    sent = params.model_dump(exclude_none=True)

    assert sent == {"messages": [{"role": "system", "content": ""}, TURN], "chat": False}
    assert InferenceParams(**sent) == params


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [TURN] * 1025,
        ["hi"],
        [{"role": "user"}],
        [{"role": "wizard", "content": "hi"}],
        [{**TURN, "name": "more"}],
        [{"role": "user", "content": "x" * 1_000_001}],
        [{"role": "user", "content": "\ud800"}],
        [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
    ],
)
def test_a_conversation_is_bounded_and_of_plain_text(messages: list[Any]) -> None:
    with pytest.raises(ValidationError, match="messages"):
        InferenceParams(messages=messages)
