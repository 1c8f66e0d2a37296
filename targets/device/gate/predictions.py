"""`predictions.npz`: an artifact's logits on a shard; with the shard, they are enough to judge it again.

The format is the same as the build host's (`pipeline.validate.predictions`).
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Optional

import numpy as np
from numpy.typing import NDArray

from targets.device.files import PREDICTIONS

FACTS = ("shard_sha256", "artifact_sha256", "instruction_set", "runtime")


@dataclass(frozen=True)
class Predictions:
    logits: NDArray[np.float32]
    """[N, C], in the order of the shard's images."""
    shard_sha256: str
    artifact_sha256: str
    """SHA-256 of the model file; for an engine, of the ONNX file it was built from."""
    instruction_set: str
    runtime: str

    def write(self, file: Path) -> None:
        facts = {name: np.array(str(getattr(self, name))) for name in FACTS}
        arrays: Dict[str, Any] = {"logits": self.logits.astype(np.float32), **facts}
        with file.open("wb") as stream:
            np.savez(stream, **arrays)


def read_predictions(folder: Path) -> Optional[Predictions]:
    """Return the predictions in `folder`; None if they are missing or unreadable, and must be computed again."""
    try:
        # Opened here, because NumPy does not close its own handle on a damaged file.
        with (folder / PREDICTIONS).open("rb") as stream:
            raw = np.load(stream, allow_pickle=False)
            logits: NDArray[np.float32] = raw["logits"]
            facts = {name: str(raw[name]) for name in FACTS}
    except (OSError, LookupError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    return Predictions(logits=logits, **facts) if logits.dtype == np.float32 and logits.ndim == 2 else None
