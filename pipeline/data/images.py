"""A labelled set of encoded images; they are decoded where they are used.

Decoding runs in parallel, and errors name every file that cannot be decoded.

`Source` is the result of opening a dataset, before the training images are split.
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
    """Selection of items by index; not a closure, so that it can be pickled for other processes."""

    ask: Callable[[int], Found]
    chosen: Sequence[int]

    def __call__(self, index: int) -> Found:
        return self.ask(self.chosen[index])


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Properties of the images' content."""

    mirrors: bool = True
    """Whether left and right do not matter, so that training may mirror images."""
    is_personal: bool = False
    """Whether people are visible, so that images leave the workspace only with permission."""


class ImageSet:
    """Labels, names and access to the original bytes of N images, in a fixed order.

    Each training process gets a copy, so `read` and `draw` of datasets from `open_dataset` are picklable.
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

        `draw(i)` returns the decoded image if that is faster than decoding its bytes. `groups[i]` is a group whose
        accuracy is reported separately. Images of equal `origins` are parts of one photo: they are never split, and
        should be read together.
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
        """Return the original file's bytes, or a PNG if the images came as an array. Raises `DataError`."""
        return self._read(index)

    def image(self, index: int, *, shorter_side: int | None = None) -> Image.Image:
        """Return the upright RGB image. Raises `DataError` or `targets.device.model.image_files.ImageError`.

        `shorter_side`: pixels needed, see `image_files.open_image`; None: all.
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
        """Return the same images with label l replaced by `new_label[l]`."""
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
        """Return the hex SHA-256 of contents and labels in order; names and paths are not included."""
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
    """Notes for the user, one sentence each."""


def first_few(lines: Iterable[str], *, limit: int = 8) -> str:
    """Return an indented list of the first `limit` lines, and the number of the others."""
    everything = list(lines)
    shown = [f"\n  {line.encode(errors='backslashreplace').decode()}" for line in everything[:limit]]
    if len(everything) > limit:
        shown.append(f"\n  ... and {len(everything) - limit} more")
    return "".join(shown)


WORKERS = min(8, os.cpu_count() or 1)
CHUNK = 64


def check_images(images: ImageSet, progress: Progress) -> None:
    """Decode every image once; raise a `DataError` with all images that cannot be decoded."""

    def reasons(indices: range) -> list[str]:
        return [reason for index in indices if (reason := _why_unusable(images, index)) is not None]

    found: list[str] = []
    # In chunks: one task per image costs more than decoding a small one.
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
    """Return one image's preprocessed pixels uint8 [H, W, 3]; raise a `DataError` with its name."""
    try:
        return crop_pixels(images.image(index, shorter_side=preprocessing.shorter_side), preprocessing)
    except ImageError as error:
        raise DataError(f"{images.names[index]}: {error}. Replace or remove it.") from None


def stack_images(
    images: ImageSet, indices: Sequence[int], pixels: Sequence[NDArray[np.uint8]], *, shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    """Return uint8 [N, H, W, 3]; raise `DataError` for images of different sizes (possible without a crop)."""
    for index, image in zip(indices, pixels, strict=True):
        if image.shape != shape:
            raise DataError(
                f"{images.names[index]} is {image.shape[1]} x {image.shape[0]}, {images.names[0]} is "
                f"{shape[1]} x {shape[0]} pixels: give a crop in [preprocessing] to make them equal."
            )
    return np.stack(pixels)
