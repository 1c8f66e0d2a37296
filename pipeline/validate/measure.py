"""Run an artifact over the shard, with the same code as on the device, and store its answers."""

from pathlib import Path

from pipeline.errors import CompileError, DataError
from pipeline.progress import Progress
from pipeline.validate.predictions import Predictions, write_predictions
from targets.device.errors import SessionError
from targets.device.files import PREDICTIONS
from targets.device.gate.run import MeasureError, measure
from targets.device.gate.shard import Shard, ShardError
from targets.device.model.image_files import ImageError
from targets.device.model.manifest import Manifest, ManifestError, read_manifest
from targets.device.model.session import Inference
from targets.runtimes.simulation import open_here


def measure_artifact(artifact: Path, shard: Path, folder: Path, *, progress: Progress) -> None:
    """Run the shard's images through the artifact on this machine; write `predictions.npz` into `folder`."""
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
    """Do the same with any session, such as a container's; the recorded facts are those of the answering machine."""
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
    """Raise `DataError` if the shard's float baseline had other classes or preprocessing than the artifact."""
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
