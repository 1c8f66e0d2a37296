"""Small image files that would take a decoder without bounds gigabytes of memory, or minutes."""

import io
from typing import Any

import numpy as np
from PIL import Image

LARGE = 8192


def written(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def large(mode: str, side: int = LARGE) -> bytes:
    """Tens to hundreds of KiB; `P` has a transparent color."""
    if mode == "I;16":
        return written(Image.fromarray(np.zeros((side, side), np.uint16)))
    options: dict[str, Any] = {"transparency": 0} if mode == "P" else {}
    return written(Image.new(mode, (side, side)), **options)


def scans(count: int, side: int = 1024) -> bytes:
    """A progressive JPEG whose last scan comes again and again."""
    pixels = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    file = written(Image.fromarray(pixels).resize((side, side)), "JPEG", progressive=True, quality=20)
    last = file.rindex(b"\xff\xda")
    empty = file[last : last + 10] + b"\x7f" * 30
    return file[:last] + empty * count + file[-2:]


def plain(side: int) -> bytes:
    """Numbers as text, which Pillow reads one by one."""
    return b"P2\n%d %d\n255\n" % (side, side) + b"7 " * side * side
