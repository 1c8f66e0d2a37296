"""Decode image files to upright RGB pixels, with limits on memory and work that are checked before decoding.

Conventions:
- transparent pixels are composited over black, the padding color of augmentation;
- 16-bit grayscale is scaled to 8 bits (v * 255 / 65535, rounded), not clipped as Pillow's `convert` does;
- CMYK is converted by Pillow's simple formula; color profiles are not applied (torchvision does the same);
- of an animation only the first frame is used; EXIF rotation is applied, and an unreadable EXIF block is ignored.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import Callable, NamedTuple, Optional

import numpy as np
from PIL import Image, UnidentifiedImageError

from targets.device.model.jpeg import frame_of

MAX_PIXELS = 2**26
"""Pixels of the largest decodable image; at 4 bytes each 256 MiB. A 64-megapixel photo still fits."""
BYTES_PER_PIXEL = 4
"""Pillow's memory per pixel of an RGB image; other modes count by what decoding them takes."""
ROW_PIXELS = 16
"""Minimum pixels that a row counts as: Pillow keeps a pointer per row, so rows of one pixel take six times as much."""
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""No vector formats, and none that start another program."""

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
"""Bytes per pixel in memory of modes that differ from `BYTES_PER_PIXEL`."""
_DECODER_BYTES = {"WEBP": 16, "GIF": 4, "TIFF": 8, "PPM": 4}
"""Extra bytes per pixel of the format's decoder: canvases, strips."""
_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")
WORK = 4
"""Limit of the work of one request's images, as a multiple of the largest image's pixels; see `Effort.work`."""
_WEBP_WORK, _SEVERAL_SCANS_WORK, _SCANS = 3, 3, 16
# Pillow decodes these value by value in Python.
_SLOW_DECODERS, _SLOW_WORK = ("ppm_plain", "ppm", "bmp_rle"), 32
_STRIP_PIXELS = 1 << 17
# Exceptions of Pillow's readers for files that do not match their header.
_MALFORMED = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    EOFError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zlib.error,
)


class ImageError(ValueError):
    """The bytes are not a usable image; the message has the reason, and the caller adds the file's name."""


class Effort(NamedTuple):
    """Upper limits of the cost of decoding an image, from its header and, for a JPEG, its markers."""

    memory: int
    """Bytes, in addition to the file's."""
    work: int
    """In pixels of an ordinary JPEG, at most about 30 ns each on x86-64."""


class Opened(NamedTuple):
    """An image whose header is read and whose pixels are not."""

    image: Image.Image
    effort: Effort
    most_memory: int
    """Bytes that decoding it may take."""


def open_image(data: bytes, max_pixels: int = MAX_PIXELS, *, shorter_side: Optional[int] = None) -> Opened:
    """Read the header; raise `ImageError` if it is not an image, or costs more than an RGB image of `max_pixels`.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if its shorter side keeps at least `shorter_side` pixels, which
    skips detail that a later resize removes. None: decode at full size.
    """
    image = _open(data, max_pixels)
    full = image.size
    if shorter_side is not None and _is_jpeg(image):
        image.draft(None, (shorter_side, shorter_side))
    effort = _effort(image, data, full[0] * full[1])
    _check(effort, image, full, max_pixels)
    return Opened(image, effort, BYTES_PER_PIXEL * max_pixels)


def load_image(opened: Opened) -> Image.Image:
    """Decode to an upright RGB image; `opened` cannot be used again. Raises `ImageError`."""
    image = opened.image
    try:
        image.load()
        method = _rotation(image)
        if method is not None and _memory(image, is_turned=True) > opened.most_memory:
            # A PNG with its EXIF block after the pixels, which was counted as upright.
            raise ImageError("the image has too many pixels to be rotated as its EXIF block specifies")
        rgb = _rgb(image)
        if rgb is not image:
            image.close()
        return rgb if method is None else rgb.transpose(method)
    except ImageError:
        raise
    except _MALFORMED as error:
        kind = "truncated" if "truncated" in str(error) else "damaged"
        raise ImageError(f"the {image.format} file is {kind}: {error}") from None


def decode(data: bytes, max_pixels: int = MAX_PIXELS, *, shorter_side: Optional[int] = None) -> Image.Image:
    """Decode a file's bytes to an upright RGB image; see `open_image`. Raises `ImageError`."""
    return load_image(open_image(data, max_pixels, shorter_side=shorter_side))


def check_decodable(data: bytes, max_pixels: int = MAX_PIXELS) -> None:
    """Raise `ImageError` if `decode` would. Reads all bytes of a JPEG, but computes only few of its pixels."""
    open_image(data, max_pixels)
    load_image(open_image(data, max_pixels, shorter_side=1))


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header and reject images that are too large before allocating memory."""
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"the image has too many pixels ({error}); at most {max_pixels} are decoded") from None
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise ImageError(
            f"the file is truncated in its header, or not an image of a supported format ({known})"
        ) from None
    except _MALFORMED as error:
        raise ImageError(f"the file's header is damaged: {error}") from None
    if max(image.width, ROW_PIXELS) * image.height > max_pixels:
        wide = "" if image.width >= ROW_PIXELS else f", where a row counts as {ROW_PIXELS} or more"
        raise ImageError(f"the image has too many pixels ({image.width} x {image.height}; at most {max_pixels}{wide})")
    if image.width * image.height == 0:
        raise ImageError(f"the image has no pixels ({image.width} x {image.height})")
    return image


def _is_jpeg(image: Image.Image) -> bool:
    # MPO: a JPEG with additional images appended, as phones write it.
    return image.format in ("JPEG", "MPO")


def _effort(image: Image.Image, data: bytes, full_pixels: int) -> Effort:
    """Return the cost of decoding; `full_pixels` is the size before scaling a JPEG."""
    memory = _memory(image, is_turned=_rotation(image) is not None)
    decoder, work = _DECODER_BYTES.get(str(image.format), 0) * full_pixels, full_pixels
    if _is_jpeg(image):
        frame = frame_of(data)
        if frame is not None:
            decoder = frame.coefficient_bytes
            if frame.is_kept:
                work = full_pixels * (_SEVERAL_SCANS_WORK + frame.scans // _SCANS)
    elif image.format == "WEBP":
        work *= _WEBP_WORK
    elif any(tile[0] in _SLOW_DECODERS for tile in getattr(image, "tile", ())):
        work *= _SLOW_WORK
    return Effort(memory + decoder, work)


def _memory(image: Image.Image, *, is_turned: bool) -> int:
    stored = _STORED.get(image.mode, BYTES_PER_PIXEL)
    taken = stored if image.mode == "RGB" and not _has_alpha(image) else stored + BYTES_PER_PIXEL
    return image.width * image.height * (max(taken, 2 * BYTES_PER_PIXEL) if is_turned else taken)


def _check(effort: Effort, image: Image.Image, full: "tuple[int, int]", max_pixels: int) -> None:
    what = f"{full[0]} x {full[1]}, {image.format} of mode {image.mode}"
    most = BYTES_PER_PIXEL * max_pixels
    if effort.memory > most:
        raise ImageError(
            f"the image ({what}) has too many pixels for its format: decoding it takes {effort.memory >> 20} MiB; at "
            f"most {most >> 20} are allowed"
        )
    if effort.work > WORK * max_pixels:
        raise ImageError(
            f"the image ({what}) takes too long to decode: as long as an ordinary JPEG of {effort.work} pixels; at "
            f"most {WORK * max_pixels} are allowed"
        )


def _rotation(image: Image.Image) -> Optional[Image.Transpose]:
    """Return the EXIF rotation, as far as it is known without loading the image."""
    if image.format == "PNG" and "exif" not in image.info:
        # Pillow would load the image to find one after the pixels.
        return None
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except _MALFORMED:
        return None
    return _UPRIGHT.get(orientation) if isinstance(orientation, int) else None


def _has_alpha(image: Image.Image) -> bool:
    return image.mode in _ALPHA or "transparency" in image.info


def _rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        return _by_strips(image, _from_16_bits)
    if mode in ("I", "F"):
        raise ImageError(
            f"the image has 32 bits per pixel (mode {mode}) and no known value range; save it with 8 or 16"
        )
    if _has_alpha(image):
        return _by_strips(image, _over_black)
    return image if mode == "RGB" else image.convert("RGB")


def _by_strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Apply `convert` to some rows at a time: copies of the whole image would take several times its memory."""
    out = Image.new("RGB", image.size)
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        out.paste(convert(image.crop((0, top, image.width, bottom))), (0, top))
    return out


def _over_black(image: Image.Image) -> Image.Image:
    opaque = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.uint32)
    if values.max() > 65535:
        raise ImageError(f"the grayscale image has values up to {values.max()}; at most 65535 is supported")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
