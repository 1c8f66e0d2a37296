"""What the gate says of an artifact, wherever its answers were given.

The report of a build adds to it which artifact was judged, and where (`pipeline.artifacts.AccuracyReport`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional, Tuple


@dataclass(frozen=True)
class Judgement:
    """Accuracy of an artifact against the float baseline on the same images, and the verdict on it."""

    verdict: str
    """`pass`, `fail` or `undecided`."""
    images: int
    float_top1: float
    artifact_top1: float
    float_top5: Optional[float]
    artifact_top5: Optional[float]
    lost: int
    """Images that the float model classifies correctly and the artifact does not."""
    won: int
    """Images that the artifact classifies correctly and the float model does not."""
    drop_points: float
    """Drop of top-1 in points; a loss is positive."""
    drop_interval_points: Tuple[float, float]
    """Two-sided 95 % interval of the drop."""
    drop_bounds_points: Tuple[float, float]
    """One-sided bounds of `confidence`; the verdict compares them with the margin."""
    confidence: float
    """0.95, or more to correct for several artifacts judged on the same images."""
    max_drop_points: float
    flip_rate: float
    """Share of images whose predicted class changed."""
    worst_class: str
    worst_class_drop_points: float
    advice: str
    """For `undecided`: how many images are needed, or that more images would not help."""
