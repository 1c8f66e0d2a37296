"""Accuracy of groups of the gate's images, if the dataset defines some: recall by size, for example."""

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import GroupAccuracy

Z_95 = 1.959964
"""Standard normal quantile of a two-sided 95 % interval."""


def accuracy_of_groups(
    groups: Sequence[str],
    labels: NDArray[np.int64],
    float_logits: NDArray[np.float32],
    logits: NDArray[np.float32],
) -> tuple[GroupAccuracy, ...]:
    """Compare both models' logits [N, C] by group (numbers by value); `groups` is empty or has N names."""
    float_right, right = float_logits.argmax(axis=1) == labels, logits.argmax(axis=1) == labels
    found = []
    for name in sorted(set(groups), key=_natural):
        here = np.array([group == name for group in groups])
        images, before, after = int(here.sum()), int(float_right[here].sum()), int(right[here].sum())
        found.append(
            GroupAccuracy(
                name=name,
                images=images,
                float_share=before / images,
                float_interval=wilson_interval(before, images),
                artifact_share=after / images,
                artifact_interval=wilson_interval(after, images),
            )
        )
    return tuple(found)


def wilson_interval(right: int, images: int) -> tuple[float, float]:
    """Return the two-sided 95 % score interval of a share; `images` > 0.

    Wilson, E. B. (1927): Probable inference, the law of succession, and statistical inference. JASA 22 (158).
    """
    share, weight = right / images, Z_95**2 / images
    center = share + weight / 2
    spread = Z_95 * math.sqrt(share * (1 - share) / images + weight / (4 * images))
    return max(0.0, (center - spread) / (1 + weight)), min(1.0, (center + spread) / (1 + weight))


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort `8-15 px` before `16-31 px`."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]
