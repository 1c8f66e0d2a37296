"""Prove the artifact where it is: its golden images and, where a shard is given, the gate's images."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Optional

import numpy as np
import onnxruntime

from targets.device.cpu import instruction_set
from targets.device.golden import check
from targets.device.manifest import Manifest, read_manifest
from targets.device.measure import MeasureError, Session, measure
from targets.device.sessions import open_session
from targets.device.shard import Shard, ShardError

SCHEMA = 1


def selftest(folder: Path, shard: Optional[Path]) -> Dict[str, Any]:
    """What was found, ready for JSON. `passed` speaks of the golden images; the shard's counts are judged elsewhere.

    Raises `ManifestError`, `SessionError`, `ShardError`, `ImageError` or `MeasureError` where that cannot be found.
    """
    manifest = read_manifest(folder)
    with open_session(folder, manifest) as session:
        golden = check(session, folder, manifest)
        report: Dict[str, Any] = {
            "schema": SCHEMA,
            "passed": golden.matched,
            "name": manifest.name,
            "version": manifest.version,
            "target": manifest.target,
            "model_sha256": manifest.model_sha256,
            "runtime": f"onnxruntime {onnxruntime.__version__}",
            "instruction_set": instruction_set(),
            "golden": {
                "images": golden.images,
                "agreement": golden.agreement,
                "max_difference": golden.max_difference if np.isfinite(golden.max_difference) else None,
                "reason": golden.reason,
            },
        }
        if shard is not None:
            with Shard(shard) as images:
                _check_belongs(images, manifest)
                report["shard"] = _paired_counts(images, session)
    return report


def _check_belongs(shard: Shard, manifest: Manifest) -> None:
    """Raise `ShardError` where the float baseline saw other classes or inputs than the artifact, or nothing at all."""
    if len(shard) == 0:
        raise ShardError(f"the shard {shard.path} holds no image.")
    if shard.classes != manifest.classes or shard.preprocessing != manifest.preprocessing:
        raise ShardError(
            f"the shard {shard.path} was made for other classes or another preprocessing than the artifact "
            f"{manifest.name} {manifest.version}. Use the shard written beside the artifact."
        )


def _paired_counts(shard: Shard, session: Session) -> Dict[str, Any]:
    """The counts that the gate judges: what the float model has right and the artifact wrong, and the reverse."""
    logits = measure(shard, session, preprocessing=shard.preprocessing, classes=len(shard.classes))
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise MeasureError(f"the model's answer to {bad} of {len(shard)} images is no finite number.")
    float_class, artifact_class = shard.logits.argmax(axis=1), logits.argmax(axis=1)
    float_right, artifact_right = float_class == shard.labels, artifact_class == shard.labels
    return {
        "sha256": shard.sha256,
        "images": len(shard),
        "float_top1": float(float_right.mean()),
        "artifact_top1": float(artifact_right.mean()),
        "lost": int((float_right & ~artifact_right).sum()),
        "won": int((artifact_right & ~float_right).sum()),
        "flipped": int((float_class != artifact_class).sum()),
        "predicted": artifact_class.tolist(),
    }
