"""Batches of preprocessed images, identical for the same seed and epoch."""

import copy
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data.images import WORKERS, ImageSet, decoded, stack_images
from targets.device.model.preprocess import Preprocessing, normalize

CACHE_BYTES = 2 * 2**30
SHIFT_SHARE = 1 / 8
"""Padding of the random crop: 4 pixels for 32 (He et al. 2015, section 4.2), scaled for other sizes."""

PHOTOS_AT_A_TIME = 48
"""Photos whose crops are shuffled together if crops are decoded in every epoch: enough for batches of many
photos, and few enough that no photo is decoded for a single crop."""

Pixels = NDArray[np.uint8]


class Batches:
    """Images decoded once and kept in memory as uint8 if they fit into `cache_bytes`, else decoded batch by batch."""

    def __init__(
        self,
        images: ImageSet,
        preprocessing: Preprocessing,
        *,
        batch_size: int = 128,
        seed: int = 0,
        shuffle: bool = False,
        augment: bool = False,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        self.images = images
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.is_shuffled = shuffle
        self.is_augmented = augment
        self._seed = seed
        self._cache_bytes = cache_bytes
        self._cached: Pixels | None = None
        self._rank, self._world = 0, 1

    def shared(self, rank: int, world: int) -> "Batches":
        """Return one process's share of every batch; all shares together are bit-identical to the batches."""
        share = copy.copy(self)
        share._rank, share._world = rank, world
        return share

    def size(self, number: int) -> int:
        """Return the number of images of batch `number` of an epoch, over all its shares."""
        whole, more = divmod(len(self.images), len(self))
        return whole + (number < more)

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return math.ceil(len(self.images) / self.batch_size)

    def epoch(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images float32 [B, 3, H, W] and labels int64 [B]; sizes differ by at most one, no batch is tiny.

        For `shared` batches, yield this process's share.
        """
        if len(self.images) == 0:
            return
        generator = np.random.default_rng([self._seed, number])
        order = self._order(generator)
        wholes = np.array_split(order, len(self))
        chunks = [np.array_split(whole, self._world)[self._rank] for whole in wholes]
        for whole, chunk, pixels in zip(wholes, chunks, self._pixels(chunks), strict=True):
            if self.is_augmented:
                first = sum(map(len, np.array_split(whole, self._world)[: self._rank]))
                pixels = augmented(pixels, generator, mirror=self.images.mirrors, first=first, among=len(whole))
            yield torch.from_numpy(normalize(pixels, self.preprocessing)), torch.from_numpy(self.images.labels[chunk])

    def _order(self, generator: np.random.Generator) -> NDArray[np.int64]:
        order = np.arange(len(self.images))
        if not self.is_shuffled:
            return order
        generator.shuffle(order)
        if self.images.origins is None or self._fits:
            return order
        return photo_by_photo(order, self.images.origins, generator)

    def _pixels(self, chunks: list[NDArray[np.int64]]) -> Iterator[Pixels]:
        if self._cached is None:
            self._cached = self._decode_all()
        if self._cached is None:
            yield from self._decode_batches(chunks)
        else:
            for chunk in chunks:
                yield self._cached[chunk]

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        return decoded(self.images, 0, self.preprocessing).shape

    @property
    def _fits(self) -> bool:
        return len(self.images) * math.prod(self._shape) <= self._cache_bytes

    def _decode_all(self) -> Pixels | None:
        """Return uint8 [N, H, W, 3], or None if that does not fit into the cache."""
        if not self._fits:
            return None
        count = len(self.images)
        everything: Pixels = np.empty((count, *self._shape), dtype=np.uint8)
        chunks = np.array_split(np.arange(count), len(self))
        for chunk, pixels in zip(chunks, self._decode_batches(chunks), strict=True):
            everything[chunk] = pixels
        return everything

    def _decode_batches(self, chunks: list[NDArray[np.int64]]) -> Iterator[Pixels]:
        """Decode in order; the next chunk is decoded while the caller uses this one."""

        def one(index: int) -> Pixels:
            return decoded(self.images, index, self.preprocessing)

        with ThreadPoolExecutor(WORKERS) as pool:
            ahead = pool.map(one, chunks[0].tolist())
            for chunk, following in zip(chunks, [*chunks[1:], None], strict=True):
                current = ahead
                if following is not None:
                    ahead = pool.map(one, following.tolist())
                yield stack_images(self.images, chunk.tolist(), list(current), shape=self._shape)


def photo_by_photo(
    order: NDArray[np.int64], origins: NDArray[np.int64], generator: np.random.Generator
) -> NDArray[np.int64]:
    """Return a shuffled order that keeps the crops of a photo close: `PHOTOS_AT_A_TIME` photos are mixed at a time."""
    turn = generator.permutation(int(origins.max()) + 1) // PHOTOS_AT_A_TIME
    return order[np.argsort(turn[origins[order]], kind="stable")]


def augmented(
    pixels: Pixels, generator: np.random.Generator, *, mirror: bool, first: int = 0, among: int | None = None
) -> Pixels:
    """Shift each image of uint8 [N, H, W, 3] by its own random offset (black borders) and mirror it at random.

    The images are those from `first` on of a batch of `among` images. Random numbers are drawn for the whole batch, so
    an image gets the same ones in any share. One offset for a whole batch, or gray borders, cost points of accuracy in
    fine-tuning.
    """
    height, width = pixels.shape[1:3]
    down, right = round(height * SHIFT_SHARE), round(width * SHIFT_SHARE)
    padded = np.pad(pixels, ((0, 0), (down, down), (right, right), (0, 0)))
    count, own = among or len(pixels), slice(first, first + len(pixels))
    tops = generator.integers(0, 2 * down + 1, size=count)[own]
    lefts = generator.integers(0, 2 * right + 1, size=count)[own]
    coins = generator.integers(0, 2, size=count)[own]
    result = np.empty_like(pixels)
    for index in range(len(pixels)):
        crop = padded[index, tops[index] : tops[index] + height, lefts[index] : lefts[index] + width]
        result[index] = crop[:, ::-1] if mirror and coins[index] else crop
    return result
