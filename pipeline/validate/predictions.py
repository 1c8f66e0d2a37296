"""An artifact's answers to a shard, and their origin: everything needed to judge it again, besides the shard."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.validate.archive import check_arrays, write_arrays

DAMAGED = (OSError, ValueError, KeyError, EOFError, OverflowError, MemoryError, zipfile.BadZipFile, zlib.error)
"""Errors of NumPy and the zip reader for truncated or forged files."""
FACTS = ("shard_sha256", "artifact_sha256", "instruction_set", "runtime")


@dataclass(frozen=True, kw_only=True)
class Predictions:
    logits: NDArray[np.float32]
    """[N, C], in the order of the shard's images."""
    shard_sha256: str
    artifact_sha256: str
    """Of the model file."""
    instruction_set: str
    """Best one of the CPU that ran it."""
    runtime: str
    """Name and version, e.g. `onnxruntime 1.22.0`."""


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Write an `.npz` file; equal predictions give equal bytes."""
    facts = {name: np.array(str(getattr(predictions, name))) for name in FACTS}
    write_arrays(path, {"logits": predictions.logits.astype(np.float32), **facts})


def read_predictions(path: Path) -> Predictions:
    """Read the file; raise `DataError` if it is missing or damaged."""
    try:
        # With a path instead of a file, NumPy would leave a damaged file open.
        with path.open("rb") as opened:
            # Our files are never compressed, here and on devices: no member is larger than the file.
            check_arrays(opened, most_bytes=path.stat().st_size)
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return Predictions(logits=file["logits"], **{name: str(file[name]) for name in FACTS})
    except FileNotFoundError:
        raise DataError(f"the predictions {path} do not exist. Validate the artifact first.") from None
    except (
        OSError,
        ValueError,
        KeyError,
        EOFError,
        OverflowError,
        MemoryError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise DataError(f"the predictions {path} are truncated or damaged ({error}). Validate again.") from None
