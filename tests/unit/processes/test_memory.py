"""Memory returns to the system, where the allocator can be asked."""

from __future__ import annotations

import gc
import sys
import weakref

import pytest

from freeroam.processes import memory


class Knot:
    """Refers to itself, as a demuxer and its file object refer to each other."""

    def __init__(self) -> None:
        self.itself = self


def test_what_refers_to_itself_is_freed_at_once() -> None:
    gc.disable()
    try:
        knot = weakref.ref(Knot())
        assert knot() is not None

        memory.give_memory_back()

        assert knot() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("thresholds", [None, (5_000, 7, 9)])
def test_what_is_loaded_is_spared_and_what_comes_later_is_not(thresholds: tuple[int, int, int] | None) -> None:
    before = gc.get_threshold()
    try:
        memory.leave_what_is_loaded(thresholds)
        knot = weakref.ref(Knot())

        assert gc.get_freeze_count() > 0
        assert gc.get_threshold() == (thresholds or before)
        gc.collect()
        assert knot() is None
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)


@pytest.mark.parametrize("deed", [memory.keep_large_blocks_apart, memory.give_memory_back])
def test_a_system_without_glibc_is_left_alone(deed, monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")

    deed()
