"""What an artifact answered to a shard, and where: all that judging it again needs beside the shard."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.archive import check_arrays, write_arrays
from pipeline.errors import DataError

DAMAGED = (OSError, ValueError, KeyError, EOFError, OverflowError, MemoryError, zipfile.BadZipFile, zlib.error)
"""What NumPy and the zip reader raise on files cut short or made up."""
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
    """Raises `DataError` where the file is missing or damaged."""
    try:
        # Given a path, numpy would leave a damaged file open.
        with path.open("rb") as opened:
            # What is written, here and on devices, is not compressed: nothing in it is larger than the file.
            check_arrays(opened, most_bytes=path.stat().st_size)
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return Predictions(logits=file["logits"], **{name: str(file[name]) for name in FACTS})
    except FileNotFoundError:
        raise DataError(f"there are no predictions {path}. Validate the artifact first.") from None
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
        raise DataError(f"the predictions {path} are cut short or damaged ({error}). Validate again.") from None
