"""Memory that returns to the system: pictures are large and short-lived, and a heap that keeps their places only grows.

Both functions speak to glibc's allocator and do nothing elsewhere.
"""

from __future__ import annotations

import ctypes
import gc
import sys

LARGE_BLOCK_BYTES = 128 * 1024
"""glibc's first value; left alone it rises to 32 MiB when large blocks are freed, and pictures join the heap."""

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


def keep_large_blocks_apart() -> None:
    """Have every block of ``LARGE_BLOCK_BYTES`` or more be mapped on its own and unmapped when it is freed."""
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * LARGE_BLOCK_BYTES)


def give_memory_back() -> None:
    """Collect what is unreachable and return to the system what the heap keeps for later."""
    gc.collect()
    malloc_trim = _of_glibc("malloc_trim")
    if malloc_trim is not None:
        malloc_trim(0)


def _of_glibc(name: str) -> ctypes._NamedFuncPointer | None:
    """Return a function of the C library; None where there is no glibc."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
