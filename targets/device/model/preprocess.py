"""Preprocess RGB images to the network's input: the same code in training, gate and device."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Dict, Mapping, Optional, Tuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from targets.device.model.image_files import BYTES_PER_PIXEL, MAX_PIXELS, ImageError

_INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}


@dataclass(frozen=True)
class Preprocessing:
    """The settings of resize, center crop, color order and normalization, applied in this order."""

    resize: Optional[int]
    """Shorter side in pixels before the crop; None: no resize."""
    crop: Optional[Tuple[int, int]]
    """Height and width of the center crop; None: the whole image."""
    mean: Tuple[float, float, float]
    """Per channel in the network's color order, for values in 0..1."""
    std: Tuple[float, float, float]
    color: str = "rgb"
    interpolation: str = "bilinear"
    reduced_jpeg: bool = False
    """Whether JPEGs are decoded at 1/2, 1/4 or 1/8 of their size if that leaves at least `resize` pixels."""

    def __post_init__(self) -> None:
        if self.resize is not None and self.resize < 1:
            raise ValueError(f"preprocessing: resize = {self.resize} is not a positive number of pixels")
        if self.crop is not None and min(self.crop) < 1:
            raise ValueError(f"preprocessing: crop = {self.crop} is not a positive height and width")
        if not np.isfinite([*self.mean, *self.std]).all():
            raise ValueError(f"preprocessing: mean = {self.mean}, std = {self.std}: not all values are finite")
        if min(self.std) <= 0:
            raise ValueError(f"preprocessing: std = {self.std} has a value that is not above 0")
        if self.color not in ("rgb", "bgr"):
            raise ValueError(f"preprocessing: color = {self.color!r} is neither 'rgb' nor 'bgr'")
        if self.interpolation not in _INTERPOLATIONS:
            raise ValueError(
                f"preprocessing: interpolation = {self.interpolation!r} is not one of {', '.join(_INTERPOLATIONS)}"
            )
        if not isinstance(self.reduced_jpeg, bool):
            raise ValueError(f"preprocessing: reduced_jpeg = {self.reduced_jpeg!r} is neither true nor false")

    @property
    def shorter_side(self) -> Optional[int]:
        """Minimum shorter side after decoding, see `image_files.open_image`."""
        return self.resize if self.reduced_jpeg else None

    def to_dict(self) -> Dict[str, object]:
        """Return plain values for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: Mapping[str, object]) -> Preprocessing:
        """Return the inverse of `to_dict`; raise ValueError for invalid values."""
        values: Dict[str, Any] = dict(raw)
        try:
            for name, length in (("crop", 2), ("mean", 3), ("std", 3)):
                if values[name] is not None:
                    values[name] = tuple(values[name])
                    if len(values[name]) != length:
                        raise ValueError(f"preprocessing: {name} = {values[name]} does not have {length} values")
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise ValueError(f"preprocessing: {error} (in {values})") from None


def crop_pixels(image: Image.Image, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Resize and center-crop an RGB image to uint8 [H, W, 3], RGB.

    The same arithmetic as torchvision's `Resize` and `CenterCrop`: the longer side is rounded down, an image
    smaller than the crop is padded with black.
    """
    image = _resize(image, preprocessing)
    if preprocessing.crop is not None and preprocessing.crop != (image.height, image.width):
        image = _center_crop(image, *preprocessing.crop)
    return np.array(image, dtype=np.uint8)


def normalize(pixels: NDArray[np.uint8], preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Convert RGB pixels uint8 [N, H, W, 3] to the network's input float32 [N, 3, H, W]."""
    # One table of 256 values per channel gives bit-identical results everywhere, and it is fast.
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
    """Convert an RGB image to the network's input float32 [3, H, W]."""
    pixels = crop_pixels(image, preprocessing)
    return normalize(pixels[None], preprocessing).reshape(3, *pixels.shape[:2])


def resize_bytes(size: Tuple[int, int], preprocessing: Preprocessing) -> int:
    """Return the bytes for resizing an RGB image of `size`: source, intermediate and result."""
    (width, height), (new_width, new_height) = size, _resized_size(size, preprocessing)
    if size == (new_width, new_height):
        return BYTES_PER_PIXEL * width * height
    # Pillow resizes horizontally first, which is vertical for an image that is rotated later.
    half = max(new_width * height, new_height * width)
    return BYTES_PER_PIXEL * (width * height + half + new_width * new_height)


def _resized_size(size: Tuple[int, int], preprocessing: Preprocessing) -> Tuple[int, int]:
    """Return width and height of an image of `size` after the resize; raise `ImageError` for too many pixels."""
    shorter = preprocessing.resize
    if shorter is None:
        return size
    longer = int(shorter * max(size) / min(size))
    resized = (shorter, longer) if size[0] <= size[1] else (longer, shorter)
    if shorter * longer > MAX_PIXELS:
        raise ImageError(
            f"the image ({size[0]} x {size[1]}) would be resized to {resized[0]} x {resized[1]}: too many pixels"
        )
    return resized


def _resize(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    size = _resized_size(image.size, preprocessing)
    return image if size == image.size else image.resize(size, _INTERPOLATIONS[preprocessing.interpolation])


def _center_crop(image: Image.Image, height: int, width: int) -> Image.Image:
    left, top = _offset(image.width, width), _offset(image.height, height)
    # Pillow fills pixels outside the image with black.
    return image.crop((left, top, left + width, top + height))


def _offset(size: int, wanted: int) -> int:
    """Return the start of the crop; negative if the image is smaller, which torchvision pads first."""
    # Rounds half to even, like torchvision.
    return -((wanted - size) // 2) if size < wanted else round((size - wanted) / 2)
