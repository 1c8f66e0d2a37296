"""A labelled set of images that are still encoded; decoding happens where they are used."""

import hashlib
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


class ImageSet:
    """Labels, names and a way to the original bytes of N images, in a fixed order."""

    def __init__(
        self,
        *,
        read: Callable[[int], bytes],
        digests: Sequence[str],
        names: Sequence[str],
        labels: NDArray[np.int64],
        mirrors: bool = True,
    ) -> None:
        """`read(i)` and `digests[i]` (a content hash) belong to image i; `mirrors`: left-right does not matter."""
        assert len(digests) == len(names) == len(labels)
        self._read = read
        self.digests = tuple(digests)
        self.names = tuple(names)
        self.labels = labels.astype(np.int64)
        self.mirrors = mirrors

    def __len__(self) -> int:
        return len(self.names)

    def encoded(self, index: int) -> bytes:
        """The original file's bytes; a PNG where the images came as an array. Raises `DataError`."""
        return self._read(index)

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> "ImageSet":
        chosen = [int(index) for index in indices]
        read = self._read
        return ImageSet(
            read=lambda index: read(chosen[index]),
            digests=[self.digests[index] for index in chosen],
            names=[self.names[index] for index in chosen],
            labels=self.labels[chosen],
            mirrors=self.mirrors,
        )

    def relabelled(self, new_label: Sequence[int]) -> "ImageSet":
        """The same images with label l replaced by `new_label[l]`."""
        return ImageSet(
            read=self._read,
            digests=self.digests,
            names=self.names,
            labels=np.array(new_label, dtype=np.int64)[self.labels],
            mirrors=self.mirrors,
        )

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 over contents and labels in order; names and places have no part in it."""
        rows = (f"{digest} {label}\n" for digest, label in zip(self.digests, self.labels.tolist(), strict=True))
        return hashlib.sha256("".join(rows).encode()).hexdigest()
