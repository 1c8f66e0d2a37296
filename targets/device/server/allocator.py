"""Configure glibc's allocator to return large blocks to the system."""

from __future__ import annotations

import ctypes

M_MMAP_THRESHOLD, M_TRIM_THRESHOLD = -3, -1
"""From malloc.h."""
LARGE_BYTES = 8 << 20
"""Pillow keeps an image in blocks of 16 MiB."""
KEPT_BYTES = 4 << 20
"""Free memory that each arena keeps at its end; a photo and its tensor take less."""


def return_large_blocks() -> bool:
    """Map every block of `LARGE_BYTES` or more separately; return False if the C library does not support that.

    By default glibc raises that threshold when the first large block is freed, and keeps later blocks for the thread
    that freed them: if two threads decode one large image after the other, both would keep its memory.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    # Setting one threshold fixes the other at 128 KiB, so each request's memory would be returned and mapped again.
    return bool(mallopt(M_MMAP_THRESHOLD, LARGE_BYTES)) and bool(mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
