"""A labelled set of images that are still encoded; decoding happens where they are used.

Encoded images to pixels, in parallel, with the name of every file that cannot be decoded.

What an opener (folder, cifar10, wider_face, digits) found, before the training images are split.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import DataError
from pipeline.progress import Progress
from targets.device.model.image_files import ImageError, check_decodable, decode
from targets.device.model.preprocess import Preprocessing, crop_pixels

Found = TypeVar("Found")


@dataclass(frozen=True)
class _Chosen(Generic[Found]):
    """Asks for some of many by their place among the chosen; no closure, so that it crosses to other processes."""

    ask: Callable[[int], Found]
    chosen: Sequence[int]

    def __call__(self, index: int) -> Found:
        return self.ask(self.chosen[index])


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What images are of."""

    mirrors: bool = True
    """Left and right do not matter, so that training may exchange them."""
    is_personal: bool = False
    """People are to be seen, so no image leaves the workspace unasked."""


class ImageSet:
    """Labels, names and a way to the original bytes of N images, in a fixed order.

    The processes of a training get a copy each, so `read` and `draw` are picklable in what `open_dataset` opens.
    """

    def __init__(
        self,
        *,
        read: Callable[[int], bytes],
        digests: Sequence[str],
        names: Sequence[str],
        labels: NDArray[np.int64],
        kind: Kind = Kind(),
        draw: Callable[[int], Image.Image] | None = None,
        groups: Sequence[str] = (),
        origins: NDArray[np.int64] | None = None,
    ) -> None:
        """`read(i)` and `digests[i]` (a content hash) belong to image i.

        `draw(i)` is the decoded image where that is quicker to have than by way of its bytes. `groups[i]` is a group
        whose accuracy is reported by itself. Images of equal `origins` are parts of one photo: they are never split,
        and best read together.
        """
        assert len(digests) == len(names) == len(labels)
        assert len(groups) in (0, len(labels))
        assert origins is None or len(origins) == len(labels)
        self._read = read
        self._draw = draw
        self.digests = tuple(digests)
        self.names = tuple(names)
        self.labels = labels.astype(np.int64)
        self.kind = kind
        self.groups = tuple(groups)
        self.origins = origins

    @property
    def mirrors(self) -> bool:
        return self.kind.mirrors

    @property
    def is_personal(self) -> bool:
        return self.kind.is_personal

    def __len__(self) -> int:
        return len(self.names)

    def encoded(self, index: int) -> bytes:
        """The original file's bytes; a PNG where the images came as an array. Raises `DataError`."""
        return self._read(index)

    def image(self, index: int, *, shorter_side: int | None = None) -> Image.Image:
        """The upright RGB image of these bytes. Raises `DataError` or `targets.device.model.image_files.ImageError`.

        `shorter_side`: pixels that are needed of it, see `image_files.open_image`; None: all.
        """
        return decode(self._read(index), shorter_side=shorter_side) if self._draw is None else self._draw(index)

    def check(self, index: int) -> None:
        """Raise what `image` would raise, in less time."""
        if self._draw is None:
            check_decodable(self._read(index))
        else:
            self._draw(index)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> "ImageSet":
        chosen = [int(index) for index in indices]
        return ImageSet(
            read=_Chosen(self._read, chosen),
            digests=[self.digests[index] for index in chosen],
            names=[self.names[index] for index in chosen],
            labels=self.labels[chosen],
            kind=self.kind,
            draw=None if self._draw is None else _Chosen(self._draw, chosen),
            groups=[self.groups[index] for index in chosen] if self.groups else (),
            origins=None if self.origins is None else self.origins[chosen],
        )

    def relabelled(self, new_label: Sequence[int]) -> "ImageSet":
        """The same images with label l replaced by `new_label[l]`."""
        return ImageSet(
            read=self._read,
            digests=self.digests,
            names=self.names,
            labels=np.array(new_label, dtype=np.int64)[self.labels],
            kind=self.kind,
            draw=self._draw,
            groups=self.groups,
            origins=self.origins,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over contents and labels in order; names and places have no part in it."""
        rows = (f"{digest} {label}\n" for digest, label in zip(self.digests, self.labels.tolist(), strict=True))
        return hashlib.sha256("".join(rows).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Source:
    name: str
    classes: tuple[str, ...]
    """In the order of the labels."""
    training: ImageSet
    gate: ImageSet
    notes: tuple[str, ...] = ()
    """What the user should know, a sentence each."""


def first_few(lines: Iterable[str], *, limit: int = 8) -> str:
    """An indented list, cut after `limit` lines with the number of those left out."""
    everything = list(lines)
    shown = [f"\n  {line.encode(errors='backslashreplace').decode()}" for line in everything[:limit]]
    if len(everything) > limit:
        shown.append(f"\n  ... and {len(everything) - limit} more")
    return "".join(shown)


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


def stack_images(
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
