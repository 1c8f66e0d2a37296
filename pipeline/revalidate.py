"""Measure what was built again: with its shard the gate's report, with other images accuracy alone."""

import tempfile
from pathlib import Path

from pipeline.artifacts import AccuracyReport
from pipeline.data.dataset import Dataset
from pipeline.errors import CompileError, DataError
from pipeline.measure import measure_session
from pipeline.predictions import read_predictions
from pipeline.progress import Progress
from pipeline.subject import Subject
from pipeline.validate import Accuracy, Terms, accuracy_of, judge_with
from targets.device.files import PREDICTIONS
from targets.device.image_files import ImageError
from targets.device.measure import MeasureError, measure


def validate(subject: Subject, shard: Path, *, terms: Terms, progress: Progress) -> AccuracyReport:
    """Answer the shard's images through `subject`, wherever it runs, and judge the answers."""
    with tempfile.TemporaryDirectory() as scratch:
        measure_session(
            subject.session,
            subject.manifest,
            shard,
            Path(scratch),
            instruction_set=subject.instruction_set,
            runtime=subject.runtime,
            progress=progress,
        )
        stored = read_predictions(Path(scratch) / PREDICTIONS)
    return judge_with(shard, stored, target=subject.manifest.target, place=subject.place, terms=terms)


def measure_accuracy(subject: Subject, dataset: Dataset, *, progress: Progress) -> Accuracy:
    """Accuracy on a data set's gate images; there is no verdict without the float baseline."""
    manifest = subject.manifest
    if dataset.classes != manifest.classes:
        raise DataError(
            f"{dataset.name} has the classes {', '.join(dataset.classes)}; the artifact has "
            f"{', '.join(manifest.classes)}, in this order. Give images of the same classes."
        )
    try:
        with progress.task("images", len(dataset.gate)) as advance:
            logits = measure(
                dataset.gate,
                subject.session,
                preprocessing=manifest.preprocessing,
                classes=len(manifest.classes),
                advance=advance,
            )
    except ImageError as error:
        raise DataError(f"{dataset.name}: {error}.") from None
    except MeasureError as error:
        raise CompileError(str(error)) from None
    return accuracy_of(dataset.gate.labels, logits)
