"""What an artifact answered to a shard, and where: all that judging it again needs beside the shard.

Run an artifact over the shard, in the very code that runs on the device, and keep what it answered.
"""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CompileError, DataError
from pipeline.progress import Progress
from pipeline.validate.archive import check_arrays, write_arrays
from targets.device.errors import SessionError
from targets.device.files import PREDICTIONS
from targets.device.gate.run import MeasureError, measure
from targets.device.gate.shard import Shard, ShardError
from targets.device.model.image_files import ImageError
from targets.device.model.manifest import Manifest, ManifestError, read_manifest
from targets.device.model.session import Inference
from targets.runtimes.simulation import open_here

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


def measure_artifact(artifact: Path, shard: Path, folder: Path, *, progress: Progress) -> None:
    """Answer the shard's images with the artifact on this machine; write `predictions.npz` into `folder`."""
    try:
        manifest = read_manifest(artifact)
        with open_here(artifact, manifest) as session:
            measure_session(
                session,
                manifest,
                shard,
                folder,
                instruction_set=session.instruction_set,
                runtime=session.runtime,
                progress=progress,
            )
    except (ManifestError, SessionError) as error:
        raise CompileError(str(error)) from None


def measure_session(
    session: Inference,
    manifest: Manifest,
    shard: Path,
    folder: Path,
    *,
    instruction_set: str,
    runtime: str,
    progress: Progress,
) -> None:
    """The same through any session, such as a container's port; the facts are those of the place that answers."""
    try:
        with Shard(shard) as images, progress.task("gate", len(images)) as advance:
            check_belongs(images, manifest)
            logits = measure(
                images,
                session,
                preprocessing=images.preprocessing,
                classes=len(images.classes),
                advance=advance,
            )
            sha256 = images.sha256
    except ShardError as error:
        raise DataError(str(error)) from None
    except ImageError as error:
        raise DataError(f"the shard {shard}: {error}.") from None
    except MeasureError as error:
        raise CompileError(str(error)) from None
    folder.mkdir(parents=True, exist_ok=True)
    write_predictions(
        folder / PREDICTIONS,
        Predictions(
            logits=logits,
            shard_sha256=sha256,
            artifact_sha256=manifest.model_sha256,
            instruction_set=instruction_set,
            runtime=runtime,
        ),
    )


def check_belongs(shard: Shard, manifest: Manifest) -> None:
    """Raise `DataError` where the shard's float baseline saw other classes or other inputs than the artifact would."""
    if shard.classes != manifest.classes:
        raise DataError(
            f"the shard {shard.path} has the classes {', '.join(shard.classes)}; the artifact has "
            f"{', '.join(manifest.classes)}. Use the shard written beside the artifact."
        )
    if shard.preprocessing != manifest.preprocessing:
        raise DataError(
            f"the shard {shard.path} was made with {shard.preprocessing}; the artifact expects "
            f"{manifest.preprocessing}. Use the shard written beside the artifact."
        )
