"""glibc's allocator, told to give large blocks back to the system."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD = -3
"""Of malloc.h."""
LARGE_BYTES = 8 << 20
"""Pillow keeps an image in blocks of 16 MiB."""


def give_back_large_blocks() -> bool:
    """Have every block of `LARGE_BYTES` or more mapped by itself; False where the C library has no such word.

    By itself glibc raises that bound with the first large block that is freed, and keeps the next ones for the thread
    that freed them: of two threads that decode one large image after the other, both would keep its memory.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGE_BYTES))
