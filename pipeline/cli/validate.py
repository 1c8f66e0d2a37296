"""`deploy validate`: the proof again, for any artifact or image that we built."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from pipeline.artifacts import AccuracyReport, Verdict
from pipeline.cli.console import progress_for
from pipeline.cli.revalidate import measure_accuracy, validate
from pipeline.cli.subject import Subject, answering
from pipeline.data.readers import open_dataset
from pipeline.errors import DataError, GateFailed, GateUndecided
from pipeline.progress import Progress
from pipeline.validate.judge import Terms, read_terms
from pipeline.validate.published import REPORT, shard_of
from pipeline.validate.verdict import verdict_text
from targets.device.model.manifest import ManifestError, read_manifest


def run(
    name: str,
    *,
    data: str | None,
    shard: Path | None,
    workspace: Path,
    max_drop: float,
    as_json: bool,
    is_verbose: bool,
) -> None:
    """Print the gate's report from the shard, or with `data` the accuracy alone."""
    progress = progress_for(is_verbose=is_verbose)
    with answering(name, progress=progress) as subject:
        if data is not None:
            print_accuracy(subject, data, as_json=as_json, progress=progress)
            return
        folder = Path(name) if Path(name).is_dir() else published_as(subject, workspace)
        found = shard or (shard_of(folder) if folder is not None else None)
        if found is None or not found.is_file():
            raise DataError(
                f"the shard with the gate's images and float answers of {name} is not found "
                f"{'at ' + str(found) if found is not None else 'in ' + str(workspace)}. Name it with --shard, "
                "or give images with --data (accuracy, but no verdict)."
            )
        report = validate(subject, found, terms=terms_of(folder, max_drop), progress=progress)
    print(json.dumps(asdict(report), indent=2) if as_json else f"{report.place}: {verdict_text(report)}")
    _fail_unless_proven(report, name)


def _fail_unless_proven(report: AccuracyReport, name: str) -> None:
    allowed = f"the {report.max_drop_points:g} points allowed"
    if report.verdict is Verdict.FAIL:
        raise GateFailed(f"{name} loses more than {allowed}. Do not deploy it, or allow more with --max-drop.")
    if report.verdict is Verdict.UNDECIDED:
        raise GateUndecided(f"{report.images} images do not decide whether {name} loses more than {allowed}.")


def print_accuracy(subject: Subject, data: str, *, as_json: bool, progress: Progress) -> None:
    """Accuracy on other images than the gate's: there are no float answers to judge it by."""
    dataset = open_dataset(data, classes=subject.manifest.classes)
    found = measure_accuracy(subject, dataset, progress=progress)
    if as_json:
        print(json.dumps({"place": subject.place, **asdict(found)}, indent=2))
    else:
        print(
            f"{subject.place}: top-1 {found.top1:.2%} on {found.images} images of {data}; no float answers: no verdict"
        )


def published_as(subject: Subject, workspace: Path) -> Path | None:
    """The workspace's artifact that holds the same model as the image."""
    for folder in sorted((workspace / "artifacts").glob("*/")):
        try:
            if read_manifest(folder).model_sha256 == subject.manifest.model_sha256:
                return folder
        except ManifestError:
            continue
    return None


def terms_of(folder: Path | None, max_drop: float) -> Terms:
    """Those of the build's own report, with another margin; asking the same artifact again is no further look."""
    report = None if folder is None else folder / REPORT
    if report is None or not report.is_file():
        return Terms(max_drop=max_drop, gate_looks=1)
    return replace(read_terms(report), max_drop=max_drop)
