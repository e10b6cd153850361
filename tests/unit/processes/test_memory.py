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


@pytest.mark.parametrize("deed", [memory.keep_large_blocks_apart, memory.give_memory_back])
def test_a_system_without_glibc_is_left_alone(deed, monkeypatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")

    deed()
