"""Pictures that several processes see without passing them on: memory that one maps and others fill or read.

This process is the only one that says where a picture may lie. It leases a place, names it to the process that makes
the picture, gets it back filled, and hands out a ``memoryview`` of it. The place is free again when nobody here refers
to that view any more, slices and arrays made of it included, so an owner cannot forget to let go, nor do so too early.
Whoever asks another process to read a picture keeps the view until that process has answered or is gone.

A ring belongs to one maker, so that no maker can change another's pictures; readers get a descriptor that cannot write.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import mmap
import os
import sys
import tempfile
import weakref
from bisect import bisect_left
from collections import deque
from pathlib import Path
from typing import Any

PAGE_BYTES = mmap.PAGESIZE
KEPT_TRIMS = 5
"""Memory that was not needed between so many trims goes back to the system."""

REUSED_BYTES = 32 * 1024 * 1024
"""A reader keeps no more than this for copies to come."""

REUSED_TRIMS = 32
"""A block that was not needed between so many trims is given up, so that a burst of pictures keeps nothing for good."""

_numbers = itertools.count(1)


class FrameRing:
    """The allocator's end of a ring.

    Args:
        size_bytes: Most it can hold. Memory is taken as pictures are written, not before.

    Attributes:
        number: Names it among the rings of this process.
        refused: Leases that found no room.

    Raises:
        OSError: The system gives no memory or descriptor.
    """

    def __init__(self, size_bytes: int) -> None:
        self.number = next(_numbers)
        self.size_bytes = _in_pages(size_bytes)
        self.refused = 0
        self.write_fd, self.read_fd = _make_file(self.size_bytes)
        self._map = mmap.mmap(self.write_fd, self.size_bytes)
        self._free: list[tuple[int, int]] = [(0, self.size_bytes)]
        self._returned: deque[tuple[int, int]] = deque()
        self._peak = 0
        self._peaks: deque[int] = deque(maxlen=KEPT_TRIMS)
        self._dirty_end = 0

    @property
    def is_closed(self) -> bool:
        """Whether no further process can be shown this ring, and no further place be leased."""
        return self.read_fd < 0

    @property
    def used_bytes(self) -> int:
        """Bytes that are leased or held."""
        self._take_back()
        return self.size_bytes - sum(end - start for start, end in self._free)

    def lease(self, size_bytes: int) -> Lease | None:
        """Return a place for a picture of up to ``size_bytes``, the lowest there is; None if there is no room."""
        self._take_back()
        if self.is_closed:
            return None
        wanted = _in_pages(size_bytes)
        for index, (start, end) in enumerate(self._free):
            if end - start >= wanted:
                if end - start == wanted:
                    del self._free[index]
                else:
                    self._free[index] = (start + wanted, end)
                self._peak = max(self._peak, start + wanted)
                return Lease(self, start, wanted)
        self.refused += 1
        return None

    def trim(self) -> None:
        """Give the system back what lies beyond all that was in use lately; called from time to time."""
        self._take_back()
        self._peaks.append(self._peak)
        self._dirty_end = max(self._dirty_end, self._peak)
        self._peak = self._used_end()
        keep = max(self._peaks)
        if self._dirty_end > keep and hasattr(mmap, "MADV_REMOVE"):
            self._map.madvise(mmap.MADV_REMOVE, keep, self._dirty_end - keep)
            self._dirty_end = keep

    def close(self) -> None:
        """Close it; views that are still held stay good until they are let go, and the memory goes with the last."""
        with contextlib.suppress(BufferError):
            self._map.close()
        for descriptor in {self.write_fd, self.read_fd}:
            os.close(descriptor)
        self.write_fd = self.read_fd = -1

    def _view(self, at: int, size_bytes: int, room_bytes: int) -> memoryview:
        pixels: Any = (ctypes.c_ubyte * size_bytes).from_buffer(self._map, at)
        pixels.place = (self, at)
        # The last reference may go in any thread; a deque takes it without a lock.
        weakref.finalize(pixels, self._returned.append, (at, room_bytes)).atexit = False
        return memoryview(pixels).cast("B").toreadonly()

    def _give_back(self, at: int, size_bytes: int) -> None:
        self._returned.append((at, size_bytes))

    def _take_back(self) -> None:
        while self._returned:
            at, size_bytes = self._returned.popleft()
            start, end = at, at + size_bytes
            index = bisect_left(self._free, (start, end))
            if index < len(self._free) and self._free[index][0] == end:
                end = self._free.pop(index)[1]
            if index and self._free[index - 1][1] == start:
                start = self._free[index - 1][0]
                self._free[index - 1] = (start, end)
            else:
                self._free.insert(index, (start, end))

    def _used_end(self) -> int:
        if self._free and self._free[-1][1] == self.size_bytes:
            return self._free[-1][0]
        return self.size_bytes


class Lease:
    """A place in a ring that nobody else writes; ends as a view by ``filled`` or unused by ``give_back``.

    Attributes:
        at: Where it begins, bytes.
        room_bytes: How much fits.
    """

    __slots__ = ("_ring", "at", "room_bytes")

    def __init__(self, ring: FrameRing, at: int, room_bytes: int) -> None:
        self._ring = ring
        self.at = at
        self.room_bytes = room_bytes

    def filled(self, size_bytes: int) -> memoryview:
        """Return the picture that was written here, read-only; what it leaves of the place is free at once.

        Raises:
            ValueError: It is said to be larger than the place.
        """
        used = _in_pages(size_bytes)
        if not 0 < size_bytes <= self.room_bytes:
            raise ValueError(f"a picture of {size_bytes} bytes is not in a place of {self.room_bytes}")
        if used < self.room_bytes:
            self._ring._give_back(self.at + used, self.room_bytes - used)
        return self._ring._view(self.at, size_bytes, used)

    def give_back(self) -> None:
        """Free it; whoever was told of it must have said that it writes here no more, or be gone."""
        self._ring._give_back(self.at, self.room_bytes)


def place_of(pixels: object) -> tuple[FrameRing, int] | None:
    """Return the ring and the place of a picture that lies whole in one; None for any other."""
    if not isinstance(pixels, memoryview):
        return None
    owner: Any = pixels.obj
    place: tuple[FrameRing, int] | None = getattr(owner, "place", None)
    return place if place is not None and pixels.nbytes == ctypes.sizeof(owner) else None


class RingWriter:
    """The maker's end.

    Args:
        descriptor: As inherited; owned.
    """

    def __init__(self, descriptor: int) -> None:
        self._map = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        self._view = memoryview(self._map)
        os.close(descriptor)

    def write(self, at: int, pixels: bytes | memoryview) -> None:
        """Copy a picture to its place."""
        self._view[at : at + len(pixels)] = pixels


class RingReader:
    """The reader's end, of several rings: gives private copies, in blocks that are used again once they are let go."""

    def __init__(self) -> None:
        self._maps: dict[int, _ReadOnlyMap] = {}
        self._blocks: deque[bytearray] = deque()
        self._last_used: deque[int] = deque()
        self._trims = 0
        self._kept_bytes = 0

    def attach(self, number: int, descriptor: int) -> None:
        """Map ring ``number``; the descriptor is owned."""
        try:
            self._maps[number] = _ReadOnlyMap(descriptor)
        finally:
            os.close(descriptor)

    def detach(self, number: int) -> None:
        """Let go of ring ``number``, which is closed, and with it of its memory."""
        self._maps.pop(number).close()

    def copy(self, number: int, at: int, size_bytes: int) -> memoryview:
        """Return a copy of a picture, so that it may be kept for as long as anybody likes."""
        block = self._block(size_bytes)
        copied = memoryview(block)
        copied[:] = self._maps[number].view[at : at + size_bytes]
        return copied

    def trim(self) -> bool:
        """Give up blocks that were not needed lately, and return whether there were any; for after each batch."""
        self._trims += 1
        had = len(self._blocks)
        while self._last_used and self._trims - self._last_used[0] > REUSED_TRIMS:
            self._give_up_oldest()
        return len(self._blocks) < had

    def _block(self, size_bytes: int) -> bytearray:
        """Return a block that nobody refers to: the one used last, so that those which are too many grow old."""
        for index in reversed(range(len(self._blocks))):
            # The queue and the argument: nothing else refers to it, no view either.
            if len(self._blocks[index]) == size_bytes and sys.getrefcount(self._blocks[index]) == 2:
                block = self._blocks[index]
                del self._blocks[index], self._last_used[index]
                break
        else:
            block = bytearray(size_bytes)
            self._kept_bytes += size_bytes
        self._blocks.append(block)
        self._last_used.append(self._trims)
        while self._kept_bytes > REUSED_BYTES:
            self._give_up_oldest()
        return block

    def _give_up_oldest(self) -> None:
        self._kept_bytes -= len(self._blocks.popleft())
        self._last_used.popleft()


class _ReadOnlyMap:
    """A file's memory, mapped without a descriptor: ``mmap.mmap`` keeps one open for as long as it lives.

    Args:
        descriptor: Of the file; may be closed afterwards.

    Attributes:
        view: All of it. Nothing may refer to it any more when the map is closed.

    Raises:
        OSError: The system does not map it.
    """

    def __init__(self, descriptor: int) -> None:
        self._size = os.fstat(descriptor).st_size
        library = ctypes.CDLL(None, use_errno=True)
        library.mmap.restype = ctypes.c_void_p
        library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        self._library = library
        self._at = library.mmap(None, self._size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
        if self._at == ctypes.c_void_p(-1).value:
            raise OSError(ctypes.get_errno(), "a ring of frames could not be mapped")
        self.view = memoryview((ctypes.c_ubyte * self._size).from_address(self._at)).cast("B").toreadonly()

    def close(self) -> None:
        self.view.release()
        self._library.munmap(self._at, self._size)


def _in_pages(size_bytes: int) -> int:
    return max(1, -(-size_bytes // PAGE_BYTES)) * PAGE_BYTES


def _make_file(size_bytes: int) -> tuple[int, int]:
    """Return a descriptor that reads and writes and one that only reads, of memory that has no name."""
    if sys.platform == "linux":
        return _make_memory(size_bytes)
    writable, name = tempfile.mkstemp(prefix="freeroam-frames-")
    try:
        os.ftruncate(writable, size_bytes)
        return writable, os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except BaseException:
        os.close(writable)
        raise
    finally:
        Path(name).unlink()


def _make_memory(size_bytes: int) -> tuple[int, int]:
    import fcntl

    descriptor = os.memfd_create("freeroam-frames", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size_bytes)
        # A maker that was taken over must not shrink it: reading beyond its end would end the reader.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        try:
            return descriptor, os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # no /proc; the readers are processes of ours
            return descriptor, descriptor
    except BaseException:
        os.close(descriptor)
        raise
