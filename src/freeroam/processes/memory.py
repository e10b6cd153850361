"""Memory that returns to the system: pictures are large and short-lived, and a heap that keeps their places only grows.

What speaks to glibc's allocator does nothing elsewhere.
"""

from __future__ import annotations

import ctypes
import gc
import sys

LARGE_BLOCK_BYTES = 1024 * 1024
"""glibc's value begins at 128 KiB, so that every piece of a video is mapped anew, page by page; left alone it rises to
32 MiB when large blocks are freed, and pictures join the heap."""
TRIM_BYTES = 8 * 1024 * 1024

COLLECTOR_THRESHOLDS = (10_000, 20, 20)
"""New objects before a young collection, young ones before a middle one, middle ones before a full one."""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep_large_blocks_apart() -> None:
    """Have every block of ``LARGE_BLOCK_BYTES`` or more be mapped on its own and unmapped when it is freed."""
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, TRIM_BYTES)


def give_memory_back(*, collects: bool = True) -> None:
    """Return to the system what the heap keeps for later; lets other threads run meanwhile.

    Args:
        collects: Whether what is unreachable is collected first, which holds up every thread.
    """
    if collects:
        gc.collect()
    malloc_trim = _of_glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def leave_what_is_loaded(thresholds: tuple[int, int, int] | None = None) -> None:
    """Spare the collector what the program consists of, which it else goes through again and again while it serves.

    A process keeps some hundred thousand objects for ever (modules, classes, schemas); a full collection of them stops
    every request for a tenth of a second. What is made from now on is collected as before.

    Args:
        thresholds: For a process whose objects hold no more than their own size: how often to collect, as
            ``gc.set_threshold`` takes it. None leaves that as it is: a model's objects may hold a device's memory.
    """
    gc.collect()
    gc.freeze()
    if thresholds is not None:
        gc.set_threshold(*thresholds)


def _of_glibc(name: str) -> ctypes._NamedFuncPointer | None:
    """Return a function of the C library; None where there is no glibc."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
