"""glibc's allocator, told to give large blocks back to the system."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
"""Of malloc.h."""
LARGE_BYTES = 8 << 20
"""Pillow keeps an image in blocks of 16 MiB."""
KEPT_BYTES = 4 << 20
"""At the end of each arena's heap; a photo and its tensor take less."""


def give_back_large_blocks() -> bool:
    """Have every block of `LARGE_BYTES` or more mapped by itself; False where the C library has no such word.

    By itself glibc raises that bound with the first large block that is freed, and keeps the next ones for the thread
    that freed them: of two threads that decode one large image after the other, both would keep its memory.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # Setting the one bound fixes the other at 128 KiB: what every request takes would be given back and fetched anew.
    return bool(mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
