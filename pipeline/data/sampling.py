"""Seeded, stratified splits: every class keeps its share."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


def stratified(labels: NDArray[np.int64], *, count: int, seed: int) -> tuple[Indices, Indices]:
    """Indices (rest, chosen), each in ascending order, with `count` chosen in proportion to the classes' sizes.

    Of a class with at least two images at least one is chosen, and of every class at least one is left; where this
    and `count` cannot both hold, `count` gives way.
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
    """Indices (rest, chosen), each in ascending order: whole photos, with about `count` images chosen.

    `origins` [N] says which photo an image is part of, from 0. Photos are drawn in turn from those whose rarest group
    is the same, so that each of the `groups` keeps about its share although it comes in clusters.
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
    """Largest remainders; ties go to the class that comes first."""
    exact = sizes * (count / sizes.sum())
    quotas: Indices = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(-(exact - quotas), kind="stable")
    quotas[by_remainder[: count - int(quotas.sum())]] += 1
    np.maximum(quotas, 1, out=quotas)
    np.minimum(quotas, sizes - 1, out=quotas)
    return quotas
