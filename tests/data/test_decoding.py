"""Encoded images to pixels: the same as on the device, and the names of those that cannot be."""

import io
import re
from collections.abc import Mapping

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tiny_trained import Recorded

from pipeline.data.images import ImageSet, check_images, decoded, stack_images
from pipeline.errors import DataError
from targets.device.model.image_files import decode
from targets.device.model.preprocess import Preprocessing, crop_pixels

WHOLE = Preprocessing(resize=None, crop=None, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
CROPPED = Preprocessing(resize=8, crop=(6, 6), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
GENERATOR = np.random.default_rng(0)


def png(height: int = 8, width: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(GENERATOR.integers(0, 256, (height, width, 3)).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def image_set(contents: list[bytes], unreadable: Mapping[int, str] | None = None) -> ImageSet:
    def read(index: int) -> bytes:
        if unreadable and index in unreadable:
            raise DataError(unreadable[index])
        return contents[index]

    names = [f"cat/{index}.png" for index in range(len(contents))]
    return ImageSet(read=read, digests=names, names=names, labels=np.zeros(len(contents), np.int64))


def arrays(images: ImageSet) -> list[NDArray[np.uint8]]:
    return [decoded(images, index, WHOLE) for index in range(len(images))]


class Counting(Recorded):
    """Counts what a task has advanced."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.total = 0

    def task(self, name: str, total: int) -> "Counting":  # type: ignore[override]
        self.total = total
        return self

    def __enter__(self) -> "Counting":
        return self

    def __exit__(self, *error: object) -> None:
        del error

    def __call__(self, steps: int = 1, *, note: str = "") -> None:
        self.steps += steps


def test_pixels_are_those_the_device_sees() -> None:
    images = image_set([png(12, 10)])
    found = decoded(images, 0, CROPPED)
    assert (found == crop_pixels(decode(images.encoded(0)), CROPPED)).all()
    assert found.shape == (6, 6, 3)
    assert found.dtype == np.uint8
    assert decoded(images, 0, WHOLE).shape == (12, 10, 3)


def test_every_image_is_looked_at_once() -> None:
    progress = Counting()
    check_images(image_set([png() for _ in range(21)]), progress)
    assert (progress.steps, progress.total) == (21, 21)


def test_all_that_cannot_be_used_are_named_in_order() -> None:
    contents = [png() for _ in range(12)]
    contents[3], contents[7] = b"no image", contents[7][:60]
    with pytest.raises(DataError) as raised:
        check_images(image_set(contents, unreadable={9: "cat/9.png: the archive ends here"}), Recorded())
    lines = str(raised.value).splitlines()
    assert lines[0] == "3 of 12 images cannot be used:"
    assert [line.split(":")[0].strip() for line in lines[1:4]] == ["cat/3.png", "cat/7.png", "cat/9.png"]
    assert lines[3].endswith("the archive ends here")
    assert lines[-1] == "Replace or remove them."


def test_a_long_list_is_cut() -> None:
    with pytest.raises(DataError, match=r"20 of 20 images cannot be used:(?s:.*)\.\.\. and 12 more"):
        check_images(image_set([b"" for _ in range(20)]), Recorded())


def test_a_single_image_that_cannot_be_used_is_named() -> None:
    with pytest.raises(DataError, match=r"cat/1\.png: .*Replace or remove it"):
        decoded(image_set([png(), b"no image"]), 1, WHOLE)


def test_images_become_one_array_in_the_order_asked() -> None:
    images = image_set([png() for _ in range(4)])
    pixels = arrays(images)
    together = stack_images(images, [2, 0], [pixels[2], pixels[0]], shape=(8, 8, 3))
    assert together.shape == (2, 8, 8, 3)
    assert (together[0] == pixels[2]).all()
    assert (together[1] == pixels[0]).all()


def test_an_image_of_another_size_is_named_with_the_cure() -> None:
    images = image_set([png(8, 8), png(8, 8), png(9, 7)])
    message = "cat/2.png is 7 x 9, cat/0.png is 8 x 8 pixels: give a crop in [preprocessing]"
    with pytest.raises(DataError, match=re.escape(message)):
        stack_images(images, [1, 2], arrays(images)[1:], shape=(8, 8, 3))
