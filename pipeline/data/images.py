"""A labelled set of images that are still encoded; decoding happens where they are used."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from targets.device.image_files import check_decodable, decode

Found = TypeVar("Found")


@dataclass(frozen=True)
class _Chosen(Generic[Found]):
    """Asks for some of many by their place among the chosen; no closure, so that it crosses to other processes."""

    ask: Callable[[int], Found]
    chosen: Sequence[int]

    def __call__(self, index: int) -> Found:
        return self.ask(self.chosen[index])


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
        mirrors: bool = True,
        draw: Callable[[int], Image.Image] | None = None,
        groups: Sequence[str] = (),
        origins: NDArray[np.int64] | None = None,
        is_personal: bool = False,
    ) -> None:
        """`read(i)` and `digests[i]` (a content hash) belong to image i; `mirrors`: left-right does not matter.

        `draw(i)` is the decoded image where that is quicker to have than by way of its bytes. `groups[i]` is a group
        whose accuracy is reported by itself. Images of equal `origins` are parts of one photo: they are never split,
        and best read together. `is_personal`: people are to be seen, so no image leaves the workspace unasked.
        """
        assert len(digests) == len(names) == len(labels)
        assert len(groups) in (0, len(labels))
        assert origins is None or len(origins) == len(labels)
        self._read = read
        self._draw = draw
        self.digests = tuple(digests)
        self.names = tuple(names)
        self.labels = labels.astype(np.int64)
        self.mirrors = mirrors
        self.groups = tuple(groups)
        self.origins = origins
        self.is_personal = is_personal

    def __len__(self) -> int:
        return len(self.names)

    def encoded(self, index: int) -> bytes:
        """The original file's bytes; a PNG where the images came as an array. Raises `DataError`."""
        return self._read(index)

    def image(self, index: int, *, shorter_side: int | None = None) -> Image.Image:
        """The upright RGB image of these bytes. Raises `DataError` or `targets.device.image_files.ImageError`.

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
            mirrors=self.mirrors,
            draw=None if self._draw is None else _Chosen(self._draw, chosen),
            groups=[self.groups[index] for index in chosen] if self.groups else (),
            origins=None if self.origins is None else self.origins[chosen],
            is_personal=self.is_personal,
        )

    def relabelled(self, new_label: Sequence[int]) -> "ImageSet":
        """The same images with label l replaced by `new_label[l]`."""
        return ImageSet(
            read=self._read,
            digests=self.digests,
            names=self.names,
            labels=np.array(new_label, dtype=np.int64)[self.labels],
            mirrors=self.mirrors,
            draw=self._draw,
            groups=self.groups,
            origins=self.origins,
            is_personal=self.is_personal,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over contents and labels in order; names and places have no part in it."""
        rows = (f"{digest} {label}\n" for digest, label in zip(self.digests, self.labels.tolist(), strict=True))
        return hashlib.sha256("".join(rows).encode()).hexdigest()
