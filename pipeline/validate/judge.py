"""The gate: compare the artifact's answers with the float baseline's on the same images.

It needs only labels, both models' logits, and the margin; neither PyTorch nor ONNX Runtime nor the images.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.artifacts import AccuracyReport, Place, Verdict
from pipeline.data.sample_size import check_above_chance
from pipeline.errors import CompileError, DataError
from pipeline.untrusted import parse_json
from pipeline.validate.groups import accuracy_of_groups
from pipeline.validate.predictions import Predictions, read_predictions
from targets.device.gate import judge as gate
from targets.device.gate.shard import Shard, ShardError
from targets.device.gate.tango import CONFIDENCE
from targets.device.model.manifest import ManifestError, read_manifest

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The measured artifact, the shard, and the place."""

    target: str
    place: Place
    shard_sha256: str
    artifact_sha256: str
    instruction_set: str
    runtime: str


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Criteria by which an artifact is judged."""

    max_drop: float
    """Points of top-1."""
    gate_looks: int
    """As in `AccuracyReport`."""
    confidence: float = CONFIDENCE
    """Of the one-sided bounds, see `pipeline.validate.gate_looks.confidence_at`."""
    expected_accuracy: float | None = None


def terms_of(report: AccuracyReport) -> Terms:
    """Return the terms for judging the same model at another place."""
    return Terms(
        max_drop=report.max_drop_points,
        gate_looks=report.gate_looks,
        confidence=report.confidence,
        expected_accuracy=report.expected_accuracy,
    )


def read_terms(report: Path) -> Terms:
    """Return the terms of a `report.json`; raise `DataError` if it is damaged."""
    try:
        raw = parse_json(report.read_text(encoding="utf-8"))
        expected = raw.get("expected_accuracy")
        return Terms(
            max_drop=float(raw["max_drop_points"]),
            gate_looks=int(raw["gate_looks"]),
            confidence=float(raw.get("confidence", CONFIDENCE)),
            expected_accuracy=None if expected is None else float(expected),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{report} is damaged ({error}). Build again.") from None


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Accuracy of an artifact alone, if there are no answers of the float baseline to compare with."""

    images: int
    top1: float
    top5: float | None
    """If there are more than ten classes."""


def judge_predictions(shard: Path, predictions: Path, *, artifact: Path, place: Place, terms: Terms) -> AccuracyReport:
    """Judge stored predictions of the artifact folder's model; raise `DataError` if they are another model's."""
    stored = read_predictions(predictions)
    try:
        manifest = read_manifest(artifact)
    except ManifestError as error:
        raise CompileError(str(error)) from None
    _check_same("artifact", made_with=stored.artifact_sha256, given=manifest.model_sha256)
    return judge_with(shard, stored, target=manifest.target, place=place, terms=terms)


def judge_with(shard: Path, stored: Predictions, *, target: str, place: Place, terms: Terms) -> AccuracyReport:
    """Judge predictions with the shard they were made with; raise `DataError` if it is a different one."""
    try:
        with Shard(shard) as images:
            labels, float_logits, classes, sha256 = images.labels, images.logits, images.classes, images.sha256
            groups = images.groups
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
    report = judge(labels, float_logits, stored.logits, classes=classes, terms=terms, origin=origin)
    return replace(report, groups=accuracy_of_groups(groups, labels, float_logits, stored.logits))


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
    terms: Terms,
    origin: Origin,
) -> AccuracyReport:
    """Compare both models' logits [N, C] of the same images in the same order. Losses are positive."""
    _check_logits(labels, float_logits, logits)
    float_right = int(np.count_nonzero(float_logits.argmax(axis=1) == labels))
    check_above_chance(float_right, classes=len(classes), images=len(labels))
    found = gate.judge(
        labels, float_logits, logits, classes=classes, max_drop=terms.max_drop, confidence=terms.confidence
    )
    return AccuracyReport(
        **{**vars(found), "verdict": Verdict(found.verdict)},
        target=origin.target,
        place=origin.place,
        gate_looks=terms.gate_looks,
        expected_accuracy=terms.expected_accuracy,
        shard_sha256=origin.shard_sha256,
        artifact_sha256=origin.artifact_sha256,
        instruction_set=origin.instruction_set,
        runtime=origin.runtime,
    )


def accuracy_of(labels: Labels, logits: Logits) -> Accuracy:
    """Return the accuracy of logits [N, C] alone."""
    _check_logits(labels, logits)
    top1 = float((logits.argmax(axis=1) == labels).mean())
    return Accuracy(images=len(labels), top1=top1, top5=gate.top5_of(labels, logits))


def _check_logits(labels: Labels, *models: Logits) -> None:
    if len(labels) == 0:
        raise DataError("there are no images to measure on. Add some under val/<class>.")
    for logits in models:
        if logits.shape != (len(labels), models[0].shape[1]):
            raise DataError(f"logits of shape {list(logits.shape)} do not match the labels of {len(labels)} images.")
        if not np.isfinite(logits).all():
            bad = int((~np.isfinite(logits)).any(axis=1).sum())
            raise CompileError(
                f"the model's logits for {bad} of {len(labels)} images are not finite. Build the artifact again."
            )
