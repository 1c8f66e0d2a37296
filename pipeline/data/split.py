"""Seeded, stratified splits: every class keeps its share."""

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


def _quotas(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Largest remainders; ties go to the class that comes first."""
    exact = sizes * (count / sizes.sum())
    quotas: Indices = np.floor(exact).astype(np.int64)
    by_remainder = np.argsort(-(exact - quotas), kind="stable")
    quotas[by_remainder[: count - int(quotas.sum())]] += 1
    np.maximum(quotas, 1, out=quotas)
    np.minimum(quotas, sizes - 1, out=quotas)
    return quotas
