"""Confidence of a measured accuracy drop: Tango's score method for the difference of paired proportions.

T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample design",
Statistics in Medicine 17:891-908, 1998. Of `images` images, `lost` are correct with the float model and wrong with
the artifact, `won` the reverse; the estimated drop is (lost - won) / images, a fraction, positive for a loss.

The bounds hold asymptotically. Exact enumeration (tests/test_tango.py): at a true drop equal to a margin of one
point, 4 to 5 % pass wherever wins accompany losses; where nearly every changed image is a loss, counts are few and
coarse, and up to 6.8 % pass (at 268 images, the fewest that can pass without any change).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Optional, Tuple

CONFIDENCE = 0.95
# More images than anyone would collect.
MAX_IMAGES = 1_000_000


def score(lost: float, won: float, images: float, drop: float) -> float:
    """Return Tango's Z for the hypothesis that the true drop is `drop`, -1 < drop < 1; Z decreases with `drop`."""
    if drop < 0:
        return -score(won, lost, images, -drop)
    q = _restricted_win_rate(lost, won, images, drop)
    deviation = math.sqrt(images * (2 * q + drop * (1 - drop)))
    distance = lost - won - images * drop
    if deviation == 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / deviation


def drop_bounds(lost: int, won: int, images: int, confidence: float = CONFIDENCE) -> Tuple[float, float]:
    """Return one-sided bounds of the drop: with `confidence` it is above the first, and likewise below the second."""
    return _limits(lost, won, images, NormalDist().inv_cdf(confidence))


def drop_interval(lost: int, won: int, images: int) -> Tuple[float, float]:
    """Return the two-sided 95 % confidence interval of the drop."""
    return _limits(lost, won, images, NormalDist().inv_cdf((1 + CONFIDENCE) / 2))


def images_needed(
    lost: float, won: float, images: float, *, margin: float, confidence: float = CONFIDENCE
) -> Optional[int]:
    """Return how many images give a 50 % chance to prove a drop of at most `margin`, at the observed rates.

    None if more images are unlikely to prove it: the observed drop reaches the margin, or is so close below it
    that more than a million would be needed. For fixed rates the score grows with the root of the images.
    """
    if margin >= 1:
        return 1
    per_image = score(lost / images, won / images, 1.0, margin)
    if per_image >= 0:
        return None
    needed = (NormalDist().inv_cdf(confidence) / per_image) ** 2
    # Rounding must not lift 268.000…1 to 269.
    return None if needed > MAX_IMAGES else max(1, math.ceil(needed * (1 - 1e-12)))


def _restricted_win_rate(lost: float, won: float, images: float, drop: float) -> float:
    """Return the most likely probability of a win if a loss is more likely by `drop` >= 0: Tango's q21.

    The positive root of 2 n q^2 - B q - won drop (1 - drop) = 0, in the form without cancellation.
    """
    b = lost + won - drop * (2 * images - lost + won)
    k = won * drop * (1 - drop)
    root = math.sqrt(b * b + 8 * images * k)
    if b > 0:
        return (b + root) / (4 * images)
    return 2 * k / (root - b) if root > b else 0.0


def _limits(lost: int, won: int, images: int, z: float) -> Tuple[float, float]:
    if images < 1 or lost < 0 or won < 0 or lost + won > images:
        raise ValueError(f"{lost} lost and {won} won of {images} images")
    return -_upper_limit(won, lost, images, z), _upper_limit(lost, won, images, z)


def _upper_limit(lost: int, won: int, images: int, z: float) -> float:
    """Return the drop at which the score is -z, by bisection down to adjacent floats."""
    low, high = (lost - won) / images, 1.0
    while low < (middle := (low + high) / 2) < high:
        if score(lost, won, images, middle) > -z:
            low = middle
        else:
            high = middle
    return high
