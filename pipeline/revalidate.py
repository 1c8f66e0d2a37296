"""Measure a finished artifact again: with its shard the gate's report, with other images accuracy alone."""

import tempfile
from pathlib import Path

from pipeline.artifacts import AccuracyReport, Place
from pipeline.data.dataset import Dataset
from pipeline.errors import CompileError, DataError
from pipeline.measure import measure_artifact
from pipeline.predictions import PREDICTIONS
from pipeline.progress import Progress
from pipeline.validate import Accuracy, accuracy_of, judge_predictions
from targets.device.manifest import Manifest, ManifestError, read_manifest
from targets.device.measure import MeasureError, Session, measure
from targets.device.preprocess import ImageError
from targets.device.sessions import SessionError, open_session


def validate(
    artifact: Path, *, shard: Path | None = None, max_drop: float, gate_looks: int, progress: Progress
) -> AccuracyReport:
    """Run the artifact folder's model over the shard (the one written beside it, unless given) on this machine."""
    shard = artifact / "shard.zip" if shard is None else shard
    with tempfile.TemporaryDirectory() as scratch:
        measure_artifact(artifact, shard, Path(scratch), progress=progress)
        return judge_predictions(
            shard,
            Path(scratch) / PREDICTIONS,
            artifact=artifact,
            place=Place.HOST,
            max_drop=max_drop,
            gate_looks=gate_looks,
        )


def measure_accuracy(artifact: Path, dataset: Dataset, *, progress: Progress) -> Accuracy:
    """The artifact's accuracy on a data set's gate images; there is no verdict without the float baseline."""
    try:
        manifest = read_manifest(artifact)
        with open_session(artifact, manifest) as session:
            return session_accuracy(session, manifest, dataset, progress=progress)
    except (ManifestError, SessionError) as error:
        raise CompileError(str(error)) from None


def session_accuracy(session: Session, manifest: Manifest, dataset: Dataset, *, progress: Progress) -> Accuracy:
    """The same through any session, such as a container's port."""
    if dataset.classes != manifest.classes:
        raise DataError(
            f"{dataset.name} has the classes {', '.join(dataset.classes)}; the artifact has "
            f"{', '.join(manifest.classes)}, in this order. Give images of the same classes."
        )
    try:
        with progress.task("images", len(dataset.gate)) as advance:
            logits = measure(
                dataset.gate,
                session,
                preprocessing=manifest.preprocessing,
                classes=len(manifest.classes),
                advance=advance,
            )
    except ImageError as error:
        raise DataError(f"{dataset.name}: {error}.") from None
    except MeasureError as error:
        raise CompileError(str(error)) from None
    return accuracy_of(dataset.gate.labels, logits)
