"""Prove the artifact where it is: its golden images and, where a shard is given, the gate's images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Optional

import numpy as np
import onnxruntime

from targets.device.cpu import instruction_set
from targets.device.gate import PASS, judge
from targets.device.golden import check
from targets.device.manifest import Manifest
from targets.device.measure import MeasureError, Session, measure
from targets.device.sessions import open_session
from targets.device.shard import Shard, ShardError
from targets.device.variant import choose

SCHEMA = 2
MAX_DROP = 1.0
"""Points of top-1 that may be lost, as in a recipe that does not say otherwise."""


def selftest(folder: Path, shard: Optional[Path], *, max_drop: float = MAX_DROP) -> Dict[str, Any]:
    """What was found of the model that runs here, ready for JSON; with a shard the gate's report.

    It is for a drop of at most `max_drop` points. `passed`: the golden images match, and the gate, where it was
    asked, says pass. Raises `ManifestError`, `SessionError`, `ShardError`, `ImageError` or `MeasureError` where that
    cannot be found out.
    """
    chosen = choose(folder)
    manifest = chosen.manifest
    with open_session(chosen.folder, manifest) as session:
        golden = check(session, chosen.folder, manifest)
        report: Dict[str, Any] = {
            "schema": SCHEMA,
            "passed": golden.matched,
            "name": manifest.name,
            "version": manifest.version,
            "target": manifest.target,
            "variant": chosen.variant,
            "variant_reason": chosen.reason,
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
                report["gate"] = _judged(images, session, max_drop)
            report["passed"] = golden.matched and report["gate"]["verdict"] == PASS
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


def _judged(shard: Shard, session: Session, max_drop: float) -> Dict[str, Any]:
    """The gate's report, as the building host makes it from the same shard."""
    logits = measure(shard, session, preprocessing=shard.preprocessing, classes=len(shard.classes))
    if not np.isfinite(logits).all():
        bad = int((~np.isfinite(logits)).any(axis=1).sum())
        raise MeasureError(f"the model's answer to {bad} of {len(shard)} images is no finite number.")
    judgement = judge(shard.labels, shard.logits, logits, classes=shard.classes, max_drop=max_drop)
    return {**asdict(judgement), "shard_sha256": shard.sha256}
