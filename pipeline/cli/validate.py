"""`deploy validate`: repeat the proof for any artifact or image built by Edge Deploy.

With its shard it gives the gate's report, with other images only the accuracy.
"""

import json
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import options as o
from pipeline.cli.request import workspace_folder
from pipeline.errors import CompileError, DataError, GateFailed, GateUndecided

if TYPE_CHECKING:
    from pipeline.artifacts import AccuracyReport
    from pipeline.cli.subject import Subject
    from pipeline.data.readers import Dataset
    from pipeline.progress import Progress
    from pipeline.validate.judge import Accuracy, Terms


def validate(
    subject: Annotated[str, typer.Argument(metavar="ARTIFACT|IMAGE", help="An artifact folder or an image's tag.")],
    data: Annotated[str | None, typer.Option(help="Other images than the gate's: accuracy only, no verdict.")] = None,
    shard: Annotated[Path | None, typer.Option(help="The shard.zip written beside the artifact.")] = None,
    max_drop: Annotated[float, typer.Option(min=0, max=100, help="Points of top-1 it may lose.")] = 1.0,
    recipe: o.RecipeFile = None,
    workspace: o.WorkspaceFolder = None,
    as_json: o.AsJson = False,
    verbose: o.Verbose = False,
) -> None:
    """Measure an artifact or an image against the float baseline again."""
    from pipeline.cli.console import progress_for
    from pipeline.cli.subject import open_subject
    from pipeline.validate.packaging_rule import verdict_text
    from pipeline.validate.published import shard_of

    root = workspace_folder(recipe, workspace)
    progress = progress_for(is_verbose=verbose)
    with open_subject(subject, progress=progress) as found:
        if data is not None:
            _print_accuracy(found, data, as_json=as_json, progress=progress)
            return
        folder = Path(subject) if Path(subject).is_dir() else _published_as(found, root)
        gate = shard or (shard_of(folder) if folder is not None else None)
        if gate is None or not gate.is_file():
            raise DataError(
                f"the shard with the gate's images and float answers of {subject} was not found "
                f"{'at ' + str(gate) if gate is not None else 'in ' + str(root)}. Give it with --shard, "
                "or give images with --data (accuracy only, no verdict)."
            )
        report = judge_again(found, gate, terms=_terms_of(folder, max_drop), progress=progress)
    print(json.dumps(asdict(report), indent=2) if as_json else f"{report.place}: {verdict_text(report)}")
    _fail_unless_proven(report, subject)


def _fail_unless_proven(report: "AccuracyReport", name: str) -> None:
    from pipeline.artifacts import Verdict

    allowed = f"the {report.max_drop_points:g} points allowed"
    if report.verdict is Verdict.FAIL:
        raise GateFailed(f"{name} loses more than {allowed}. Do not deploy it, or allow more with --max-drop.")
    if report.verdict is Verdict.UNDECIDED:
        raise GateUndecided(f"{report.images} images are too few to decide whether {name} loses more than {allowed}.")


def judge_again(subject: "Subject", shard: Path, *, terms: "Terms", progress: "Progress") -> "AccuracyReport":
    """Run the shard's images through `subject`, wherever it runs, and judge the answers."""
    from pipeline.validate.judge import judge_with
    from pipeline.validate.measure import measure_session
    from pipeline.validate.predictions import read_predictions
    from targets.device.files import PREDICTIONS

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


def measure_accuracy(subject: "Subject", dataset: "Dataset", *, progress: "Progress") -> "Accuracy":
    """Return accuracy on a dataset's gate images; without the float baseline there is no verdict."""
    from pipeline.validate.judge import accuracy_of
    from targets.device.gate.run import MeasureError, measure
    from targets.device.model.image_files import ImageError

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


def _print_accuracy(subject: "Subject", data: str, *, as_json: bool, progress: "Progress") -> None:
    """Print accuracy on other images than the gate's, for which there are no float answers."""
    from pipeline.data.readers import open_dataset

    dataset = open_dataset(data, classes=subject.manifest.classes)
    found = measure_accuracy(subject, dataset, progress=progress)
    if as_json:
        print(json.dumps({"place": subject.place, **asdict(found)}, indent=2))
    else:
        print(
            f"{subject.place}: top-1 {found.top1:.2%} on {found.images} images of {data}; no float answers: no verdict"
        )


def _published_as(subject: "Subject", workspace: Path) -> Path | None:
    """Return the workspace's artifact with the same model as the image."""
    from targets.device.model.manifest import ManifestError, read_manifest

    for folder in sorted((workspace / "artifacts").glob("*/")):
        try:
            if read_manifest(folder).model_sha256 == subject.manifest.model_sha256:
                return folder
        except ManifestError:
            continue
    return None


def _terms_of(folder: Path | None, max_drop: float) -> "Terms":
    """Return the terms of the build's own report, with another margin; judging one artifact again is no new look."""
    from pipeline.validate.judge import Terms, read_terms
    from pipeline.validate.published import REPORT

    report = None if folder is None else folder / REPORT
    if report is None or not report.is_file():
        return Terms(max_drop=max_drop, gate_looks=1)
    return replace(read_terms(report), max_drop=max_drop)
