"""Seeded, stratified splits: every class keeps its share.

Also logits of several models on the same selection images, each image decoded once.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.data.images import ImageSet, decoded, stack_images
from pipeline.progress import Progress
from targets.device.model.preprocess import Preprocessing, normalize
from targets.device.model.session import Inference

Indices = NDArray[np.int64]


def split_stratified(labels: NDArray[np.int64], *, count: int, seed: int) -> tuple[Indices, Indices]:
    """Return indices (rest, chosen), each in ascending order, with `count` chosen in proportion to the classes' sizes.

    Of a class with at least two images at least one is chosen, and of every class at least one is left; if this
    conflicts with `count`, the number chosen differs from `count`.
    """
    generator = np.random.default_rng(seed)
    classes, sizes = np.unique(labels, return_counts=True)
    quotas = _quotas(sizes, count)
    chosen = [
        generator.permutation(np.flatnonzero(labels == label))[:quota]
        for label, quota in zip(classes, quotas, strict=True)
    ]
    picked = np.sort(np.concatenate(chosen)).astype(np.int64)
    rest = np.setdiff1d(np.arange(len(labels), dtype=np.int64), picked)
    return rest, picked


def without_splitting(origins: Indices, groups: Sequence[str], *, count: int, seed: int) -> tuple[Indices, Indices]:
    """Return indices (rest, chosen), each in ascending order: whole photos, with about `count` images chosen.

    `origins` [N] is the photo of each image, from 0. Photos are drawn in turn from those with the same rarest group,
    so that each of the `groups` keeps about its share although groups come in clusters.
    """
    generator = np.random.default_rng(seed)
    names, of_image, sizes = np.unique(np.array(groups, dtype=np.str_), return_inverse=True, return_counts=True)
    rank = np.argsort(np.argsort(sizes, kind="stable"), kind="stable")
    rarest = np.full(int(origins.max()) + 1, len(names), dtype=np.int64)
    np.minimum.at(rarest, origins, rank[of_image])
    in_photo = np.bincount(origins, minlength=len(rarest))
    picked: list[int] = []
    for stratum in np.unique(rarest[in_photo > 0]):
        photos = generator.permutation(np.flatnonzero((rarest == stratum) & (in_photo > 0)))
        quota = count * in_photo[photos].sum() / len(origins)
        before = np.cumsum(in_photo[photos]) - in_photo[photos] / 2
        picked += photos[before < quota][: len(photos) - 1].tolist()
    chosen = np.isin(origins, picked)
    return np.flatnonzero(~chosen).astype(np.int64), np.flatnonzero(chosen).astype(np.int64)


def _quotas(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Distribute by largest remainders; ties go to the class that comes first."""
    exact = sizes * (count / sizes.sum())
    quotas: Indices = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(-(exact - quotas), kind="stable")
    quotas[by_remainder[: count - int(quotas.sum())]] += 1
    np.maximum(quotas, 1, out=quotas)
    np.minimum(quotas, sizes - 1, out=quotas)
    return quotas


BATCH = 32


def at_most(images: ImageSet, limit: int) -> ImageSet:
    """Return `images`, or `limit` of them evenly spread."""
    return images if len(images) <= limit else images.subset(spread(len(images), limit))


def spread(length: int, count: int) -> list[int]:
    """Return `count` distinct indices below `length`, evenly spread."""
    return sorted({int(index) for index in np.linspace(0, length - 1, min(count, length))})


def logits_of_each(
    sessions: Sequence[Inference], images: ImageSet, preprocessing: Preprocessing, progress: Progress
) -> list[NDArray[np.float32]]:
    """Return logits [N, C] of every session, in the images' order; raise `DataError` for an unusable image."""
    parts: list[list[NDArray[np.float32]]] = [[] for _ in sessions]
    with progress.task("compare precisions", len(images)) as advance:
        for pixels in _batches(images, preprocessing):
            inputs = normalize(pixels, preprocessing)
            for part, session in zip(parts, sessions, strict=True):
                part.append(session.infer(inputs))
            advance(len(pixels))
    return [np.concatenate(part) for part in parts]


def pixels_of(images: ImageSet, indices: Sequence[int], preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Return uint8 [N, H, W, 3], the input of `normalize`."""
    pixels = [decoded(images, index, preprocessing) for index in indices]
    return stack_images(images, indices, pixels, shape=pixels[0].shape)


def count_right(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> int:
    """Return the number of images whose largest logit is their label's."""
    return int(np.count_nonzero(logits.argmax(axis=1) == labels))


def _batches(images: ImageSet, preprocessing: Preprocessing) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(images), BATCH):
        yield pixels_of(images, range(start, min(start + BATCH, len(images))), preprocessing)
