"""Options of a far server: impossible ones are refused by name, and what it says of itself holds no key."""

from __future__ import annotations

from typing import Any

import pytest

from freeroam.models.openai_server import OpenAIServer
from freeroam.vocabulary.errors import ConfigurationError

KEY = "sk-a-key-that-nobody-may-see"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("concurrency", 0), ("concurrency", 65), ("concurrency", 2.5), ("concurrency", True), ("timeout_s", 0),
        ("answer_timeout_s", -1.0), ("retries", -1), ("max_answer_bytes", 1), ("size", -1), ("window", 0),
        ("detail", "fine"), ("choices_form", "regex"), ("box_scale", "inch"), ("extra", "x"), ("api_key", 5),
        ("extra", {"max_tokens": 0}),
    ],
)  # fmt: skip
def test_an_impossible_option_is_refused_by_its_name(option: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=option):
        OpenAIServer(**{option: value})


def test_what_it_wishes_and_says_of_itself() -> None:
    server = OpenAIServer(url="http://host/v1", api_key=KEY, concurrency=16, size=0, window=4)

    wishes = server.get_wishes()
    assert (wishes.width_px, wishes.height_px, wishes.window, wishes.max_batch) == (None, None, 4, 16)
    assert wishes.streams_text
    assert KEY not in str(server.get_model_info())
    assert server.get_model_info()["model_type"] == "openai_server"
