"""Squares of photos, cut on access; recently decoded photos are cached for their other squares."""

import io
import threading
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from PIL import Image

from targets.device.model.image_files import MAX_PIXELS, ImageError

FORMATS = ("JPEG", "PNG")
KEPT_BYTES = 2**28
"""Cache size: about a hundred decoded photos of 1024 x 768 pixels."""
LARGEST_SIDE = 256
"""In pixels; larger squares are reduced to it: enough for a 224 x 224 network, and a crop has at most 200 KB."""


class _Kept:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.image: Image.Image | None = None


class Photos:
    """Decoded photos by name, the most recently used `kept_bytes` of them; thread-safe."""

    def __init__(self, read: Callable[[str], bytes], *, kept_bytes: int = KEPT_BYTES) -> None:
        self._read = read
        self._kept_bytes = kept_bytes
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    def __reduce__(self) -> tuple[Callable[..., "Photos"], tuple[Callable[[str], bytes]]]:
        return partial(Photos, kept_bytes=self._kept_bytes), (self._read,)

    def square(self, name: str, left: int, top: int, side: int) -> Image.Image:
        """Return RGB, at most `LARGEST_SIDE` pixels wide; raise `ImageError`, or `DataError` if it cannot be read."""
        cut = self._photo(name).crop((left, top, left + side, top + side))
        if side > LARGEST_SIDE:
            cut = cut.resize((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.BILINEAR)
        return cut

    def _photo(self, name: str) -> Image.Image:
        with self._lock:
            kept = self._kept.setdefault(name, _Kept())
            self._kept.move_to_end(name)
        with kept.lock:  # If several threads need one photo, the first decodes it.
            if kept.image is None:
                kept.image = decode_stored(self._read(name))
                with self._lock:
                    self._drop_oldest()
            return kept.image

    def _drop_oldest(self) -> None:
        images = {name: kept.image for name, kept in self._kept.items() if kept.image is not None}
        sizes = {name: 3 * image.width * image.height for name, image in images.items()}
        total = sum(sizes.values())
        for name, size in sizes.items():
            if total <= self._kept_bytes:
                return
            del self._kept[name]
            total -= size


def stored_size(data: bytes) -> tuple[int, int]:
    """Return width and height of a photo as stored, from its header; raise `ImageError`."""
    return _opened(data).size


def decode_stored(data: bytes) -> Image.Image:
    """Return RGB pixels as stored: boxes refer to these, before any rotation in EXIF. Raises `ImageError`."""
    image = _opened(data)
    try:
        image.load()
        return image.convert("RGB")
    except (OSError, SyntaxError, ValueError, MemoryError) as error:
        raise ImageError(f"the {image.format} file is damaged: {error}") from None


def png(image: Image.Image) -> bytes:
    """Return the crop as a lossless file."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()


def _opened(data: bytes) -> Image.Image:
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ImageError(f"it is not a JPEG or PNG file that can be opened: {error}") from None
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(f"{image.width} x {image.height} pixels exceed the limit of {MAX_PIXELS}")
    return image
