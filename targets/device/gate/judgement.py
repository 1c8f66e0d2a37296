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
    """Images the float model has right and the artifact wrong."""
    won: int
    """Images the artifact has right and the float model wrong."""
    drop_points: float
    """Loss of top-1 in points; a loss is positive."""
    drop_interval_points: Tuple[float, float]
    """Two-sided 95 % interval of the drop."""
    drop_bounds_points: Tuple[float, float]
    """One-sided bounds of `confidence`; the verdict compares them with the margin."""
    confidence: float
    """0.95, or more where several artifacts have been judged by the same images and that was to be corrected."""
    max_drop_points: float
    flip_rate: float
    """Share of images whose predicted class changed."""
    worst_class: str
    worst_class_drop_points: float
    advice: str
    """For `undecided`: how many images would decide, or that more cannot be expected to."""
