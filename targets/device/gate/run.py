"""Ask a model about a shard's images, and judge its answers: the gate, in every place but the building host's own."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Callable, Dict, Optional

import numpy as np

from targets.device.gate.judge import judge
from targets.device.gate.measure import MeasureError, measure
from targets.device.gate.predictions import Predictions
from targets.device.gate.shard import Shard, ShardError
from targets.device.gate.tango import CONFIDENCE
from targets.device.model.manifest import Manifest
from targets.device.model.session import Session

PLACE = "device"


def ask(
    shard: Shard, session: Session, manifest: Manifest, advance: Optional[Callable[[int], None]] = None
) -> Predictions:
    """Raises `ShardError` for another model's shard, `ImageError`, and `MeasureError` for answers that are none."""
    check_belongs(shard, manifest)
    logits = measure(shard, session, preprocessing=shard.preprocessing, classes=len(shard.classes), advance=advance)
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise MeasureError(f"the model's answer to {bad} of {len(shard)} images is no finite number.")
    return Predictions(
        logits=logits,
        shard_sha256=shard.sha256,
        artifact_sha256=manifest.model_sha256,
        instruction_set=session.instruction_set,
        runtime=session.runtime,
    )


def report_of(
    shard: Shard, predictions: Predictions, manifest: Manifest, *, max_drop: float, confidence: float = CONFIDENCE
) -> Dict[str, Any]:
    """The gate's report, ready for JSON, as the building host makes it of the same answers."""
    judgement = judge(
        shard.labels,
        shard.logits,
        predictions.logits,
        classes=shard.classes,
        max_drop=max_drop,
        confidence=confidence,
    )
    return {
        **asdict(judgement),
        "target": manifest.target,
        "place": PLACE,
        "shard_sha256": predictions.shard_sha256,
        "artifact_sha256": predictions.artifact_sha256,
        "instruction_set": predictions.instruction_set,
        "runtime": predictions.runtime,
    }


def belongs(predictions: Predictions, shard: Shard, session: Session, manifest: Manifest) -> bool:
    """Whether these are the answers of this model, on this machine, to this shard."""
    return predictions.logits.shape == shard.logits.shape and (
        predictions.shard_sha256,
        predictions.artifact_sha256,
        predictions.instruction_set,
        predictions.runtime,
    ) == (shard.sha256, manifest.model_sha256, session.instruction_set, session.runtime)


def check_belongs(shard: Shard, manifest: Manifest) -> None:
    """Raise `ShardError` where the float baseline saw other classes or inputs than the artifact, or nothing at all."""
    if len(shard) == 0:
        raise ShardError(f"the shard {shard.path} holds no image.")
    if shard.classes != manifest.classes or shard.preprocessing != manifest.preprocessing:
        raise ShardError(
            f"the shard {shard.path} was made for other classes or another preprocessing than the artifact "
            f"{manifest.name} {manifest.version}. Use the shard written beside the artifact."
        )
