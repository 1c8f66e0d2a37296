"""From an image file's bytes to the network's input: the one preprocessing of training, gate and device.

Choices, where files leave room:
- transparent pixels are laid over black, the color that augmentation pads with;
- 16-bit grayscale is scaled to 8 bits (v * 255 / 65535, rounded), not clipped as Pillow's `convert` does;
- CMYK is converted by Pillow's plain formula; color profiles are not applied (nor does torchvision);
- of an animation the first frame counts; EXIF rotation is applied, an unreadable EXIF block means none.
"""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import asdict, dataclass
from typing import Any, Dict, Mapping, Optional, Tuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

MAX_PIXELS = 2**26
"""Width times height of the largest image that is decoded: 200 MB in memory; a 64-megapixel photo still fits."""
ROW_PIXELS = 16
"""What a row counts as at least: Pillow keeps a pointer for each, so those of one pixel would take six times it."""
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""No format that starts another program or draws vectors."""

_INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
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
# What Pillow's readers raise on bytes that are not what their header promises.
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
    """The bytes cannot be used as an image; the message gives the reason, the caller the file's name."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop, color order and normalization, in this order."""

    resize: Optional[int]
    """Shorter side in pixels before the crop; None: left as it is."""
    crop: Optional[Tuple[int, int]]
    """Height and width of the centre crop; None: the whole image."""
    mean: Tuple[float, float, float]
    """Per channel in the network's color order, for values in 0..1."""
    std: Tuple[float, float, float]
    color: str = "rgb"
    interpolation: str = "bilinear"

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize < 1:
            raise ValueError(f"preprocessing: resize = {self.resize} is not a positive number of pixels")
        if self.crop is not None and min(self.crop) < 1:
            raise ValueError(f"preprocessing: crop = {self.crop} is not a positive height and width")
        if not np.isfinite([*self.mean, *self.std]).all():
            raise ValueError(f"preprocessing: mean = {self.mean}, std = {self.std}: not all are finite")
        if min(self.std) <= 0:
            raise ValueError(f"preprocessing: std = {self.std} has a value that is not above 0")
        if self.color not in ("rgb", "bgr"):
            raise ValueError(f"preprocessing: color = {self.color!r} is neither 'rgb' nor 'bgr'")
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(
                f"preprocessing: interpolation = {self.interpolation!r} is not one of {', '.join(_INTERPOLATIONS)}"
            )

    def to_dict(self) -> Dict[str, object]:
        """Plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, object]) -> Preprocessing:
        """The inverse of `to_dict`; raises ValueError for values that no preprocessing has."""
        values: Dict[str, Any] = dict(raw)
        try:
            for name, length in (("crop", 2), ("mean", 3), ("std", 3)):
                if values[name] is not None:
                    values[name] = tuple(values[name])
                    if len(values[name]) != length:
                        raise ValueError(f"preprocessing: {name} = {values[name]} has not {length} values")
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"preprocessing: {error} (in {values})") from None


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """The upright RGB image of a file's bytes, if it has at most `max_pixels`; raises `ImageError`."""
    image = _open(data, max_pixels)
    return _loaded(image)


def check_decodable(data: bytes, max_pixels: int = MAX_PIXELS) -> None:
    """Raise `ImageError` where `decode` would. All bytes of a JPEG are read, but few of its pixels are computed."""
    image = _open(data, max_pixels)
    if image.format == "JPEG":
        image.draft(None, (1, 1))
    _loaded(image)


def _loaded(image: Image.Image) -> Image.Image:
    try:
        image.load()
        return _rgb(_upright(image))
    except ImageError:
        raise
    except _MALFORMED as error:
        kind = "truncated" if "truncated" in str(error) else "damaged"
        raise ImageError(f"the {image.format} file is {kind}: {error}") from None


def crop_pixels(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize and centre crop of an RGB image -> uint8 [H, W, 3], RGB.

    The same arithmetic as torchvision's `Resize` and `CenterCrop`: the longer side is rounded down, an image
    smaller than the crop is padded with black.
    """
    if preprocessing.resize is not None:
        image = _resized(image, preprocessing.resize, preprocessing.interpolation)
    if preprocessing.crop is not None and preprocessing.crop != (image.height, image.width):
        image = _centre_cropped(image, *preprocessing.crop)
    return np.array(image, dtype=np.uint8)


def normalize(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """RGB pixels uint8 [N, H, W, 3] -> the network's input float32 [N, 3, H, W]."""
    # One table of 256 values per channel: every place that runs this gets the same bits, and it is quick.
    mean = np.array(preprocessing.mean, dtype=np.float32)[:, None]
    std = np.array(preprocessing.std, dtype=np.float32)[:, None]
    table: NDArray[np.float32] = (np.arange(256, dtype=np.float32) / np.float32(255) - mean) / std
    order = (0, 1, 2) if preprocessing.color == "rgb" else (2, 1, 0)
    count, height, width, _ = pixels.shape
    out: NDArray[np.float32] = np.empty((count, 3, height, width), dtype=np.float32)
    for channel, source in enumerate(order):
        np.take(table[channel], pixels[..., source], out=out[:, channel], mode="clip")
    return out


def preprocess(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """An RGB image -> the network's input float32 [3, H, W]."""
    pixels = crop_pixels(image, preprocessing)
    return normalize(pixels[None], preprocessing).reshape(3, *pixels.shape[:2])


def _open(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header only; refuse sizes that must not be decoded before anything is allocated for them."""
    if not data:
        raise ImageError("the file is empty (0 bytes)")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"the image has too many pixels ({error}); at most {max_pixels} are decoded") from None
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise ImageError(f"the file is cut short in its header, or not an image of a known format ({known})") from None
    except _MALFORMED as error:
        raise ImageError(f"the file's header is damaged: {error}") from None
    if max(image.width, ROW_PIXELS) * image.height > max_pixels:
        wide = "" if image.width >= ROW_PIXELS else f", where a row counts as {ROW_PIXELS} or more"
        raise ImageError(f"the image has too many pixels ({image.width} x {image.height}; at most {max_pixels}{wide})")
    if image.width * image.height == 0:
        raise ImageError(f"the image has no pixels ({image.width} x {image.height})")
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION, 1)
    except _MALFORMED:
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return image if method is None else image.transpose(method)


def _rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        return _from_16_bits(image)
    if mode in ("I", "F"):
        raise ImageError(f"the image has 32 bits per pixel (mode {mode}) and no stated range; save it with 8 or 16")
    if mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
    return image if mode == "RGB" else image.convert("RGB")


def _from_16_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.uint32)
    if values.max() > 65535:
        raise ImageError(f"the grayscale image has values up to {values.max()}; at most 65535 are understood")
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")


def _resized(image: Image.Image, shorter: int, interpolation: str) -> Image.Image:
    longer = int(shorter * max(image.size) / min(image.size))
    size = (shorter, longer) if image.width <= image.height else (longer, shorter)
    if size == image.size:
        return image
    if shorter * longer > MAX_PIXELS:
        raise ImageError(
            f"the image ({image.width} x {image.height}) would be resized to {size[0]} x {size[1]}: too many pixels"
        )
    return image.resize(size, _INTERPOLATIONS[interpolation])


def _centre_cropped(image: Image.Image, height: int, width: int) -> Image.Image:
    if image.width < width or image.height < height:
        padded = Image.new("RGB", (max(width, image.width), max(height, image.height)))
        left = max(0, width - image.width) // 2
        top = max(0, height - image.height) // 2
        padded.paste(image, (left, top))
        image = padded
    # Python's rounding to even, as torchvision does.
    top = round((image.height - height) / 2)
    left = round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))
