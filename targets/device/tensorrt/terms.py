"""`first_start.json`: which engines an image's first start builds, and how it judges them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from targets.device.files import FIRST_START
from targets.device.gate.judge import FAIL, PASS
from targets.device.gate.tango import CONFIDENCE
from targets.device.model.manifest import ManifestError

SCHEMA = 1
STOP, PACKAGE = "stop", "package"
NONE, FP16, FASTEST = "none", "fp16", "fastest"
KEYS = {"schema", "max_drop", "confidence", "undecided", "fallback"}


@dataclass(frozen=True)
class Terms:
    max_drop: float
    """Allowed drop of top-1 in points."""
    undecided: str
    """Treatment of an undecided engine: `stop` refuses it, `package` serves it."""
    fallback: str = NONE
    """Other engines: none, `fp16` if the main model's engine does not pass, or all for the `fastest`."""
    confidence: float = CONFIDENCE
    """Confidence of the gate's bounds."""

    def serves(self, verdict: str) -> bool:
        return verdict == PASS or (verdict != FAIL and self.undecided == PACKAGE)


def read_terms(folder: Path) -> Terms:
    """Read the terms; raise `ManifestError` if the file is missing, damaged or of another schema."""
    path = folder / FIRST_START
    try:
        raw: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ManifestError(
            f"{folder} has no {FIRST_START}, by which its engine is judged. Build the image again."
        ) from None
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path} cannot be read: {error}. Build the image again.") from None
    if not isinstance(raw, dict) or raw.get("schema") != SCHEMA or set(raw) != KEYS:
        raise ManifestError(
            f"{path} does not have schema {SCHEMA} with {', '.join(sorted(KEYS))}. Build the image again."
        )
    drop, undecided, fallback = raw["max_drop"], raw["undecided"], raw["fallback"]
    is_number = isinstance(drop, (int, float)) and not isinstance(drop, bool) and math.isfinite(drop)
    if not is_number or not 0 <= drop <= 100 or undecided not in (STOP, PACKAGE):
        raise ManifestError(
            f"{path} has max_drop {drop!r} and undecided {undecided!r}; expected points from 0 to 100, and {STOP} or "
            f"{PACKAGE}. Build the image again."
        )
    confidence = raw["confidence"]
    if not isinstance(confidence, float) or not 0.5 < confidence < 1:
        raise ManifestError(f"{path} has confidence {confidence!r}; the usual value is 0.95. Build the image again.")
    if fallback not in (NONE, FP16, FASTEST):
        raise ManifestError(
            f"{path} has fallback {fallback!r}; expected {NONE}, {FP16} or {FASTEST}. Build the image again."
        )
    return Terms(max_drop=float(drop), undecided=undecided, fallback=fallback, confidence=confidence)
