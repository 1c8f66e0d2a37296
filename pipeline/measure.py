"""Run an artifact over the shard, in the very code that runs on the device, and keep what it answered."""

from pathlib import Path

from pipeline.errors import CompileError, DataError
from pipeline.predictions import Predictions, write_predictions
from pipeline.progress import Progress
from targets.device.files import PREDICTIONS
from targets.device.image_files import ImageError
from targets.device.manifest import Manifest, ManifestError, read_manifest
from targets.device.measure import MeasureError, Session, measure
from targets.device.sessions import SessionError
from targets.device.shard import Shard, ShardError
from targets.runtimes.stand_in import open_here


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
    session: Session,
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
