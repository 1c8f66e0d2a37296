"""The artifact where its user looks for it, complete or not at all."""

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from pipeline.artifacts import AccuracyReport
from pipeline.workspace import write_atomically

REPORT = "report.json"


def publish(destination: Path, files: Iterable[Path], report: AccuracyReport, *, scratch: Path) -> None:
    """Put `files` and the report into `destination`, replacing what an earlier build left there.

    `scratch` is a folder on the same file system; the new folder is complete before the old one goes.
    """
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


def is_published(destination: Path, files: Iterable[Path], report: AccuracyReport) -> bool:
    """Whether `destination` holds just this already."""
    existing = destination / REPORT
    if not existing.is_file() or existing.read_text() != report_json(report):
        return False
    return all(_same(file, destination / file.name) for file in files)


def report_json(report: AccuracyReport) -> str:
    """The report as the text of `report.json`."""
    return json.dumps(asdict(report), indent=2, sort_keys=True) + "\n"


def rewrite_report(destination: Path, report: AccuracyReport) -> None:
    """Replace the report of a published artifact, once the image has confirmed it."""
    write_atomically(destination / REPORT, report_json(report))


def _same(one: Path, other: Path) -> bool:
    """Size and time: `copy2` keeps both, and the workspace's files never change."""
    if not other.is_file():
        return False
    left, right = one.stat(), other.stat()
    return (left.st_size, left.st_mtime_ns) == (right.st_size, right.st_mtime_ns)
