"""A video is suspected after two losses within a while."""

from __future__ import annotations

import pytest

from freeroam.sources.decoding.suspects import KEPT_OWNERS, MEMORY_S, TOGETHER_S, Suspects
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


@pytest.mark.parametrize("is_crash", [False, True])
async def test_processes_that_are_killed_together_blame_no_video_unless_they_crashed(is_crash: bool) -> None:
    clock = FakeClock()
    suspects = Suspects(clock)

    for _ in range(3):
        suspects.note(["a", "b"], "one", may_be_chance=not is_crash)
        await clock.advance(TOGETHER_S / 2)
        suspects.note(["c"], "two", may_be_chance=not is_crash)
        await clock.advance(60)

    assert [suspects.has(owner) for owner in "abc"] == [is_crash] * 3


async def test_a_video_that_gets_one_process_killed_again_and_again_is_suspected() -> None:
    clock = FakeClock()
    suspects = Suspects(clock)

    for _ in range(2):
        suspects.note(["a"], "one", may_be_chance=True)
        await clock.advance(TOGETHER_S / 2)

    assert suspects.has("a")


async def test_a_video_that_was_aboard_two_processes_that_were_killed_is_suspected_and_its_neighbours_are_not() -> None:
    suspects = Suspects(FakeClock())

    suspects.note(["bad"], "one", may_be_chance=True)
    suspects.note(["bad", "good"], "two", may_be_chance=True)

    assert suspects.has("bad")
    assert not suspects.has("good")
