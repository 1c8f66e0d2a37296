"""Encoded images to pixels, in parallel, with the name of every file that cannot be decoded."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from pipeline.data.images import ImageSet
from pipeline.data.source import first_few
from pipeline.errors import DataError
from pipeline.progress import Progress
from targets.device.image_files import ImageError
from targets.device.preprocess import Preprocessing, crop_pixels

WORKERS = min(8, os.cpu_count() or 1)
CHUNK = 64


def check_images(images: ImageSet, progress: Progress) -> None:
    """Decode every image once; raises a `DataError` that names all that cannot be."""

    def reasons(indices: range) -> list[str]:
        return [reason for index in indices if (reason := _why_unusable(images, index)) is not None]

    found: list[str] = []
    # Some at a time: handing over each image by itself takes longer than decoding a small one.
    chunks = [range(start, min(start + CHUNK, len(images))) for start in range(0, len(images), CHUNK)]
    with ThreadPoolExecutor(WORKERS) as pool, progress.task("check images", len(images)) as advance:
        for chunk, bad in zip(chunks, pool.map(reasons, chunks), strict=True):
            advance(len(chunk))
            found += bad
    if found:
        raise DataError(
            f"{len(found)} of {len(images)} images cannot be used:{first_few(found)}\nReplace or remove them."
        )


def _why_unusable(images: ImageSet, index: int) -> str | None:
    try:
        images.check(index)
    except ImageError as error:
        return f"{images.names[index]}: {error}"
    except DataError as error:
        return str(error)
    return None


def decoded(images: ImageSet, index: int, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """One image's pixels uint8 [H, W, 3] as the network gets them; raises a `DataError` with its name."""
    try:
        return crop_pixels(images.image(index, shorter_side=preprocessing.shorter_side), preprocessing)
    except ImageError as error:
        raise DataError(f"{images.names[index]}: {error}. Replace or remove it.") from None


def stacked(
    images: ImageSet, indices: Sequence[int], pixels: Sequence[NDArray[np.uint8]], *, shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    """uint8 [N, H, W, 3]; an image of another size than the first (possible without a crop) is a `DataError`."""
    for index, image in zip(indices, pixels, strict=True):
        if image.shape != shape:
            raise DataError(
                f"{images.names[index]} is {image.shape[1]} x {image.shape[0]}, {images.names[0]} is "
                f"{shape[1]} x {shape[0]} pixels: give a crop in [preprocessing] to make them equal."
            )
    return np.stack(pixels)
