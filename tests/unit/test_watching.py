"""What ``watch`` refuses before it starts anything."""

from __future__ import annotations

import pytest

from freeroam import watch
from freeroam.vocabulary.errors import InvalidInput


@pytest.mark.parametrize(
    ("wish", "words"),
    [({"fps": 0}, "^fps: "), ({"windo": 3}, "^windo: "), ({"params": {"seed": "x"}}, "^params.seed: ")],
)
async def test_a_wish_that_cannot_be_is_an_error_of_ours(wish: dict, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        await anext(aiter(watch("demo:", "Detect all people", **wish)))
