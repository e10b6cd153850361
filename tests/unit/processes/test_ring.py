"""A place in shared memory is free exactly when nobody refers to its picture any more."""

from __future__ import annotations

import gc
import os
import sys

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from freeroam.processes.ring import (
    KEPT_TRIMS,
    PAGE_BYTES,
    REUSED_BYTES,
    REUSED_TRIMS,
    FrameRing,
    RingReader,
    RingWriter,
    place_of,
)


@pytest.fixture
def ring():
    made = FrameRing(64 * PAGE_BYTES)
    yield made
    if not made.is_closed:
        made.close()


def written(ring: FrameRing, pixels: bytes) -> memoryview:
    lease = ring.lease(len(pixels))
    assert lease is not None
    RingWriter(os.dup(ring.write_fd)).write(lease.at, pixels)
    return lease.filled(len(pixels))


def reader_of(ring: FrameRing) -> RingReader:
    reader = RingReader()
    reader.attach(ring.number, os.dup(ring.read_fd))
    return reader


def test_what_another_process_writes_is_seen_here_and_by_a_third(ring) -> None:
    pixels = written(ring, b"picture" * 1000)

    found = place_of(pixels)

    assert bytes(pixels) == b"picture" * 1000
    assert pixels.readonly
    assert found is not None
    assert found[0] is ring
    assert bytes(reader_of(ring).copy(ring.number, found[1], 7000)) == b"picture" * 1000


@pytest.mark.parametrize(
    "derive",
    [
        pytest.param(lambda pixels: pixels, id="itself"),
        pytest.param(lambda pixels: pixels[5:9], id="a slice"),
        pytest.param(memoryview, id="another view"),
        pytest.param(lambda pixels: np.frombuffer(pixels, np.uint8), id="an array"),
        pytest.param(lambda pixels: np.frombuffer(pixels, np.uint8)[10:].reshape(-1, 10), id="a view of an array"),
    ],
)
def test_a_place_is_free_when_the_last_that_was_made_of_its_picture_is_gone(ring, derive) -> None:
    held = derive(written(ring, bytes(10_000)))

    assert ring.used_bytes == 3 * PAGE_BYTES
    del held
    gc.collect()
    assert ring.used_bytes == 0


def test_only_a_picture_that_lies_whole_in_a_ring_has_a_place(ring) -> None:
    pixels = written(ring, bytes(100))

    assert place_of(pixels) is not None
    assert place_of(pixels[1:]) is None
    assert place_of(memoryview(b"elsewhere")) is None
    assert place_of(b"elsewhere") is None


def test_what_a_picture_leaves_of_its_place_is_free_at_once(ring) -> None:
    lease = ring.lease(40 * PAGE_BYTES)
    assert ring.lease(40 * PAGE_BYTES) is None

    pixels = lease.filled(10 * PAGE_BYTES)

    assert ring.used_bytes == 10 * PAGE_BYTES
    assert ring.lease(40 * PAGE_BYTES) is not None
    assert ring.refused == 1
    del pixels


@pytest.mark.parametrize("size_bytes", [0, -1, PAGE_BYTES + 1])
def test_a_picture_cannot_be_larger_than_its_place(ring, size_bytes) -> None:
    lease = ring.lease(PAGE_BYTES)

    with pytest.raises(ValueError, match="not in a place"):
        lease.filled(size_bytes)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9 * PAGE_BYTES), st.integers(0, 50)), max_size=80))
def test_no_two_places_overlap_and_none_is_lost(steps) -> None:
    ring = FrameRing(64 * PAGE_BYTES)
    held: list[tuple[memoryview, int]] = []

    for number, (takes, size, which) in enumerate(steps):
        if takes and (lease := ring.lease(size)) is not None:
            RingWriter(os.dup(ring.write_fd)).write(lease.at, bytes([number % 251]) * size)
            held.append((lease.filled(size), number % 251))
        elif held:
            del held[which % len(held)]
        if number % 7 == 0:
            ring.trim()
        assert all(set(bytes(pixels)) == {mark} for pixels, mark in held)

    assert ring.used_bytes == sum(-(-len(pixels) // PAGE_BYTES) * PAGE_BYTES for pixels, _ in held)
    held.clear()
    assert ring.used_bytes == 0
    assert ring.lease(64 * PAGE_BYTES) is not None
    ring.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep the memory of a file until it is closed")
def test_memory_that_is_not_needed_any_more_goes_back_to_the_system(ring) -> None:
    def resident_bytes() -> int:
        return os.fstat(ring.write_fd).st_blocks * 512

    kept = written(ring, b"k" * PAGE_BYTES)
    pixels = written(ring, bytes(20 * PAGE_BYTES))
    ring.trim()
    assert resident_bytes() == 21 * PAGE_BYTES

    del pixels
    for _ in range(KEPT_TRIMS):
        ring.trim()
        assert resident_bytes() == 21 * PAGE_BYTES
    ring.trim()

    assert resident_bytes() == PAGE_BYTES
    assert bytes(kept) == b"k" * PAGE_BYTES


@pytest.mark.skipif(sys.platform != "linux", reason="files of other systems cannot be sealed")
def test_a_process_that_was_taken_over_can_neither_shrink_a_ring_nor_write_with_a_readers_descriptor(ring) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(ring.write_fd, PAGE_BYTES)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(ring.read_fd, b"x")


def test_pictures_outlive_the_ring_that_they_lie_in(ring) -> None:
    pixels = written(ring, b"still here")

    ring.close()

    assert ring.is_closed
    assert ring.lease(1) is None
    assert bytes(pixels) == b"still here"


def test_a_ring_that_nobody_looks_at_leaves_nothing_open() -> None:
    before = psutil.Process().num_fds()
    ring = FrameRing(10 * PAGE_BYTES)
    held = written(ring, b"x")
    del held

    ring.close()

    assert psutil.Process().num_fds() == before


def test_a_copy_is_kept_unchanged_for_as_long_as_anybody_holds_it_and_its_block_is_used_again_after(ring) -> None:
    at = place_of(written(ring, b"a" * 100))[1]
    reader = reader_of(ring)
    kept = np.frombuffer(reader.copy(ring.number, at, 100), np.uint8)
    address = kept.ctypes.data
    RingWriter(os.dup(ring.write_fd)).write(at, b"b" * 100)

    second = np.frombuffer(reader.copy(ring.number, at, 100), np.uint8)
    assert bytes(kept) == b"a" * 100
    assert bytes(second) == b"b" * 100

    del kept
    third = np.frombuffer(reader.copy(ring.number, at, 100), np.uint8)
    assert third.ctypes.data == address


def test_a_reader_keeps_only_so_much_for_copies_to_come() -> None:
    half = REUSED_BYTES // 2
    ring = FrameRing(REUSED_BYTES)
    reader = reader_of(ring)

    held = [reader.copy(ring.number, 0, half) for _ in range(4)]

    assert sum(len(block) for block in reader._blocks) <= REUSED_BYTES
    assert len({np.frombuffer(copy, np.uint8).ctypes.data for copy in held}) == 4
    ring.close()


def test_a_reader_gives_up_what_only_a_burst_of_copies_needed(ring) -> None:
    # Given a burst of pictures that are looked at together
    reader = reader_of(ring)
    burst = [reader.copy(ring.number, 0, 100) for _ in range(20)]
    assert len(reader._blocks) == 20

    # When batches of two follow for long enough
    del burst
    gave_up = []
    for _ in range(REUSED_TRIMS + 1):
        gave_up.append(reader.trim())
        pair = [reader.copy(ring.number, 0, 100) for _ in range(2)]
        assert len({np.frombuffer(copy, np.uint8).ctypes.data for copy in pair}) == 2
        del pair

    # Then no more is kept than they need
    assert gave_up == [False] * REUSED_TRIMS + [True]
    assert len(reader._blocks) == 2
    assert reader._kept_bytes == 200


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists what is mapped")
def test_a_reader_keeps_no_descriptor_and_lets_go_of_what_is_gone(ring) -> None:
    def shown() -> int:
        return sum(part.path.startswith("/memfd:freeroam-frames") for part in process.memory_maps(grouped=False))

    process = psutil.Process()
    written(ring, b"picture")
    descriptors, parts = process.num_fds(), shown()

    reader = reader_of(ring)
    assert bytes(reader.copy(ring.number, 0, 7)) == b"picture"
    assert (process.num_fds(), shown()) == (descriptors, parts + 1)

    reader.detach(ring.number)
    assert shown() == parts


def test_what_cannot_be_mapped_is_an_error_and_leaves_no_descriptor(tmp_path) -> None:
    path = tmp_path / "written only"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.ftruncate(descriptor, PAGE_BYTES)

    with pytest.raises(OSError, match="could not be mapped"):
        RingReader().attach(1, descriptor)

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
