"""The gate: compare an artifact's predictions with the float baseline's on the same images.

The build host and the device run the same code, so both get the same report.
"""

from __future__ import annotations

from typing import Optional, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from targets.device.gate.judgement import Judgement
from targets.device.gate.tango import CONFIDENCE, drop_bounds, drop_interval, images_needed

PASS, FAIL, UNDECIDED = "pass", "fail", "undecided"
# With up to this many classes, top-5 accuracy means little.
FEW_CLASSES = 10
TOP = 5


def judge(
    labels: NDArray[np.int64],
    float_logits: NDArray[np.float32],
    logits: NDArray[np.float32],
    *,
    classes: Sequence[str],
    max_drop: float,
    confidence: float = CONFIDENCE,
) -> Judgement:
    """Compare both models' finite logits [N, C] of the same N > 0 images; `max_drop` is in points."""
    images = len(labels)
    float_right, right = float_logits.argmax(axis=1) == labels, logits.argmax(axis=1) == labels
    lost, won = int((float_right & ~right).sum()), int((right & ~float_right).sum())
    lower, upper = drop_bounds(lost, won, images, confidence)
    low, high = drop_interval(lost, won, images)
    verdict = _verdict(lower, upper, max_drop / 100)
    worst, worst_drop = _worst_class(labels, float_right, right, classes)
    return Judgement(
        verdict=verdict,
        images=images,
        float_top1=float(float_right.mean()),
        artifact_top1=float(right.mean()),
        float_top5=top5_of(labels, float_logits),
        artifact_top5=top5_of(labels, logits),
        lost=lost,
        won=won,
        drop_points=100 * (lost - won) / images,
        drop_interval_points=(100 * low, 100 * high),
        drop_bounds_points=(100 * lower, 100 * upper),
        confidence=confidence,
        max_drop_points=max_drop,
        flip_rate=float((float_logits.argmax(axis=1) != logits.argmax(axis=1)).mean()),
        worst_class=worst,
        worst_class_drop_points=worst_drop,
        advice=_advice(lost, won, images, max_drop / 100, confidence) if verdict == UNDECIDED else "",
    )


def top5_of(labels: NDArray[np.int64], logits: NDArray[np.float32]) -> Optional[float]:
    """Return the fraction of images with the label among the five largest logits; ties go by class order."""
    if logits.shape[1] <= FEW_CLASSES:
        return None
    of_label = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    ahead = (logits > of_label) | ((logits == of_label) & earlier)
    return float((ahead.sum(axis=1) < TOP).mean())


def _verdict(lower: float, upper: float, margin: float) -> str:
    if upper <= margin:
        return PASS
    return FAIL if lower > margin else UNDECIDED


def _advice(lost: int, won: int, images: int, margin: float, confidence: float) -> str:
    needed = images_needed(lost, won, images, margin=margin, confidence=confidence)
    if needed is not None:
        return f"At the observed rates, about {needed:,} images would give a 50 % chance of a pass."
    reached = "reaches" if (lost - won) / images >= margin else "is too close to"
    return f"More images are unlikely to help: the observed drop {reached} the {100 * margin:g} allowed."


def _worst_class(
    labels: NDArray[np.int64], float_right: NDArray[np.bool_], right: NDArray[np.bool_], classes: Sequence[str]
) -> Tuple[str, float]:
    """Return name and drop in points of the class that loses the largest fraction of its images."""
    size = len(classes)
    counts = np.bincount(labels, minlength=size)
    losses = np.bincount(labels[float_right], minlength=size) - np.bincount(labels[right], minlength=size)
    drops = np.where(counts > 0, 100 * losses / np.maximum(counts, 1), -np.inf)
    worst = int(drops.argmax())
    return classes[worst], float(drops[worst])
