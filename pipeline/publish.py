"""The artifact where its user looks for it, complete or not at all."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pipeline.artifacts import AccuracyReport
from pipeline.workspace import write_atomically
from targets.device import proof

REPORT = proof.FILE


def publish(destination: Path, files: Sequence[Path], report: AccuracyReport, *, scratch: Path) -> None:
    """Put `files` and the report into `destination`, replacing what an earlier build left there.

    `scratch` is a folder on the same file system; the new folder is complete before the old one goes. Where only the
    report is another one (a margin, or an image that has confirmed it), only that is written.
    """
    if (destination / REPORT).is_file() and _has(destination, files):
        write_atomically(destination / REPORT, report_json(report))
        return
    fresh, stale = scratch / f"{destination.name}.new", scratch / f"{destination.name}.old"
    for leftover in (fresh, stale):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir(parents=True)
    for file in files:
        shutil.copy2(file, fresh / file.name)
    (fresh / REPORT).write_text(report_json(report))
    destination.parent.mkdir(parents=True, exist_ok=True)
    if destination.exists():
        destination.rename(stale)
    fresh.rename(destination)
    shutil.rmtree(stale, ignore_errors=True)


def is_published(destination: Path, files: Sequence[Path], report: AccuracyReport) -> bool:
    """Whether `destination` holds just this already."""
    existing = destination / REPORT
    return existing.is_file() and existing.read_text() == report_json(report) and _has(destination, files)


def report_json(report: AccuracyReport) -> str:
    """The report as the text of `report.json`."""
    return json.dumps(asdict(report), indent=2, sort_keys=True) + "\n"


def proof_json(report: AccuracyReport) -> str:
    """The report as it travels in an image; the same build may have been looked at more often the next time."""
    facts = asdict(report)
    del facts["gate_looks"]
    return json.dumps(facts, indent=2, sort_keys=True) + "\n"


def _has(destination: Path, files: Sequence[Path]) -> bool:
    wanted = {file.name for file in files} | {REPORT}
    return {path.name for path in destination.iterdir()} == wanted and all(
        _same(file, destination / file.name) for file in files
    )


def _same(one: Path, other: Path) -> bool:
    """Size and time: `copy2` keeps both, and the workspace's files never change."""
    if not other.is_file():
        return False
    left, right = one.stat(), other.stat()
    return (left.st_size, left.st_mtime_ns) == (right.st_size, right.st_mtime_ns)
