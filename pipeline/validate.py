"""The gate: the artifact's answers against the float baseline's on the same images, judged in an instant.

Needs neither PyTorch nor ONNX Runtime nor the images: labels, both models' logits, and the margin.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import AccuracyReport, Place, Verdict
from pipeline.errors import CompileError, DataError
from pipeline.predictions import Predictions, read_predictions
from pipeline.statistics import check_above_chance, drop_bounds, drop_interval, images_needed
from targets.device.manifest import ManifestError, read_manifest
from targets.device.shard import Shard, ShardError

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]
# With up to this many classes, being among the first five says little.
FEW_CLASSES = 10
TOP = 5


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Which artifact was measured, with which shard, and where."""

    target: str
    place: Place
    shard_sha256: str
    artifact_sha256: str
    instruction_set: str
    runtime: str


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Of an artifact alone: without the float baseline's answers there is nothing to judge it by."""

    images: int
    top1: float
    top5: float | None
    """Where there are more than ten classes."""


def judge_predictions(
    shard: Path, predictions: Path, *, artifact: Path, place: Place, max_drop: float, gate_looks: int
) -> AccuracyReport:
    """Judge stored predictions of the artifact folder's model; raises `DataError` where they do not belong together.

    `max_drop` is in points; `gate_looks` is how many artifacts of this model the gate has judged, this one included.
    """
    stored = read_predictions(predictions)
    try:
        manifest = read_manifest(artifact)
    except ManifestError as error:
        raise CompileError(str(error)) from None
    _check_same("artifact", made_with=stored.artifact_sha256, given=manifest.model_sha256)
    return judge_with(shard, stored, target=manifest.target, place=place, max_drop=max_drop, gate_looks=gate_looks)


def judge_with(
    shard: Path, stored: Predictions, *, target: str, place: Place, max_drop: float, gate_looks: int
) -> AccuracyReport:
    """Judge predictions by the shard they were made with; raises `DataError` where it is another one."""
    try:
        with Shard(shard) as images:
            labels, float_logits, classes, sha256 = images.labels, images.logits, images.classes, images.sha256
    except ShardError as error:
        raise DataError(str(error)) from None
    _check_same("shard", made_with=stored.shard_sha256, given=sha256)
    origin = Origin(
        target=target,
        place=place,
        shard_sha256=stored.shard_sha256,
        artifact_sha256=stored.artifact_sha256,
        instruction_set=stored.instruction_set,
        runtime=stored.runtime,
    )
    return judge(
        labels, float_logits, stored.logits, classes=classes, max_drop=max_drop, gate_looks=gate_looks, origin=origin
    )


def _check_same(what: str, *, made_with: str, given: str) -> None:
    if made_with != given:
        raise DataError(
            f"the predictions were made with the {what} {made_with[:16]}..., this {what} is {given[:16]}.... "
            "Validate the artifact again."
        )


def judge(
    labels: Labels,
    float_logits: Logits,
    logits: Logits,
    *,
    classes: tuple[str, ...],
    max_drop: float,
    gate_looks: int,
    origin: Origin,
) -> AccuracyReport:
    """Compare both models' logits [N, C] of the same images in the same order. A loss is positive everywhere."""
    _check_logits(labels, float_logits, logits)
    images = len(labels)
    float_right, right = float_logits.argmax(axis=1) == labels, logits.argmax(axis=1) == labels
    check_above_chance(float(float_right.mean()), classes=len(classes), images=images)
    lost, won = int((float_right & ~right).sum()), int((right & ~float_right).sum())
    lower, upper = drop_bounds(lost, won, images)
    verdict = _verdict(lower, upper, max_drop / 100)
    worst, worst_drop = _worst_class(labels, float_right, right, classes)
    low, high = drop_interval(lost, won, images)
    return AccuracyReport(
        target=origin.target,
        place=origin.place,
        verdict=verdict,
        images=images,
        float_top1=float(float_right.mean()),
        artifact_top1=float(right.mean()),
        float_top5=_top5(labels, float_logits),
        artifact_top5=_top5(labels, logits),
        lost=lost,
        won=won,
        drop_points=100 * (lost - won) / images,
        drop_interval_points=(100 * low, 100 * high),
        drop_bounds_points=(100 * lower, 100 * upper),
        max_drop_points=max_drop,
        flip_rate=float((float_logits.argmax(axis=1) != logits.argmax(axis=1)).mean()),
        worst_class=worst,
        worst_class_drop_points=worst_drop,
        gate_looks=gate_looks,
        advice=_advice(lost, won, images, max_drop / 100) if verdict is Verdict.UNDECIDED else "",
        shard_sha256=origin.shard_sha256,
        artifact_sha256=origin.artifact_sha256,
        instruction_set=origin.instruction_set,
        runtime=origin.runtime,
    )


def accuracy_of(labels: Labels, logits: Logits) -> Accuracy:
    """Accuracy of logits [N, C] alone."""
    _check_logits(labels, logits)
    top1 = float((logits.argmax(axis=1) == labels).mean())
    return Accuracy(images=len(labels), top1=top1, top5=_top5(labels, logits))


def _check_logits(labels: Labels, *models: Logits) -> None:
    if len(labels) == 0:
        raise DataError("there are no images to measure on. Add some under val/<class>.")
    for logits in models:
        if logits.shape != (len(labels), models[0].shape[1]):
            raise DataError(f"logits of shape {list(logits.shape)} do not belong to {len(labels)} images' labels.")
        if not np.isfinite(logits).all():
            bad = int((~np.isfinite(logits)).any(axis=1).sum())
            raise CompileError(
                f"the model's answer to {bad} of {len(labels)} images is no finite number. Build the artifact again."
            )


def _verdict(lower: float, upper: float, margin: float) -> Verdict:
    if upper <= margin:
        return Verdict.PASS
    return Verdict.FAIL if lower > margin else Verdict.UNDECIDED


def _advice(lost: int, won: int, images: int, margin: float) -> str:
    needed = images_needed(lost, won, images, margin=margin)
    if needed is not None:
        return f"At the rates seen, about {needed:,} images would give an even chance to prove it."
    reached = "reaches" if (lost - won) / images >= margin else "is too close to"
    return f"More images cannot be expected to help: the drop seen {reached} the {100 * margin:g} allowed."


def _worst_class(
    labels: Labels, float_right: NDArray[np.bool_], right: NDArray[np.bool_], classes: tuple[str, ...]
) -> tuple[str, float]:
    """Name and drop in points of the class that loses the largest share of its own images."""
    size = len(classes)
    counts = np.bincount(labels, minlength=size)
    losses = np.bincount(labels[float_right], minlength=size) - np.bincount(labels[right], minlength=size)
    drops = np.where(counts > 0, 100 * losses / np.maximum(counts, 1), -np.inf)
    worst = int(drops.argmax())
    return classes[worst], float(drops[worst])


def _top5(labels: Labels, logits: Logits) -> float | None:
    """Share of images whose label is among the five largest logits; equal ones count in the order of the classes."""
    if logits.shape[1] <= FEW_CLASSES:
        return None
    of_label = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    ahead = (logits > of_label) | ((logits == of_label) & earlier)
    return float((ahead.sum(axis=1) < TOP).mean())
