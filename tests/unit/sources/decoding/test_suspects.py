"""A video is suspected after two losses within a while."""

from __future__ import annotations

from freeroam.sources.decoding.suspects import KEPT_OWNERS, MEMORY_S, Suspects
from freeroam.testing import FakeClock


async def test_two_losses_make_a_suspect_for_a_while() -> None:
    clock = FakeClock()
    suspects = Suspects(clock)

    suspects.note(["a", "b", "a"])
    assert not suspects.has("a")
    await clock.advance(MEMORY_S - 1)
    suspects.note(["a"])
    assert suspects.has("a")
    assert not suspects.has("b")

    await clock.advance(2)
    assert not suspects.has("a")


async def test_what_has_no_name_is_not_suspected_and_only_so_many_are_remembered() -> None:
    suspects = Suspects(FakeClock())

    for _ in range(2):
        suspects.note([""])
        suspects.note(["first"])
    for number in range(KEPT_OWNERS):
        suspects.note([str(number)])

    assert not suspects.has("")
    assert not suspects.has("first")
