"""Prove the artifact on this machine with its golden images and, if a shard is given, the gate's images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, Optional

import numpy as np

from targets.device.gate.judge import PASS, judge
from targets.device.gate.run import predict
from targets.device.gate.shard import Shard
from targets.device.model.golden import check
from targets.device.model.manifest import Manifest
from targets.device.model.session import Session
from targets.device.model.variant import choose
from targets.device.open_session import open_session

SCHEMA = 2
MAX_DROP = 1.0
"""Allowed drop of top-1 in points; the default of a recipe."""


def selftest(folder: Path, shard: Optional[Path], *, max_drop: float = MAX_DROP) -> Dict[str, Any]:
    """Check the model that runs here and return a JSON-ready report; with a shard, add the gate's report.

    The gate allows a drop of at most `max_drop` points. `passed`: the golden images match, and with a shard, the
    verdict is pass. Raises `ManifestError`, `SessionError`, `ShardError`, `ImageError` or `MeasureError` if the model
    cannot be judged.
    """
    chosen = choose(folder)
    manifest = chosen.manifest
    with open_session(chosen.folder, manifest) as session:
        golden = check(session, chosen.folder, manifest, here=session.instruction_set)
        report: Dict[str, Any] = {
            "schema": SCHEMA,
            "passed": golden.matched,
            "name": manifest.name,
            "version": manifest.version,
            "target": manifest.target,
            "variant": chosen.variant,
            "variant_reason": chosen.reason,
            "model_sha256": manifest.model_sha256,
            "runtime": session.runtime,
            "instruction_set": session.instruction_set,
            "golden": {
                "images": golden.images,
                "agreement": golden.agreement,
                "max_difference": golden.max_difference if np.isfinite(golden.max_difference) else None,
                "reason": golden.reason,
            },
        }
        if shard is not None:
            with Shard(shard) as images:
                report["gate"] = _run_gate(images, session, manifest, max_drop)
            report["passed"] = golden.matched and report["gate"]["verdict"] == PASS
    return report


def _run_gate(shard: Shard, session: Session, manifest: Manifest, max_drop: float) -> Dict[str, Any]:
    """Return the gate's report, which the build host makes from the same shard in the same way."""
    logits = predict(shard, session, manifest).logits
    judgement = judge(shard.labels, shard.logits, logits, classes=shard.classes, max_drop=max_drop)
    return {**asdict(judgement), "shard_sha256": shard.sha256}
