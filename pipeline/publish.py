"""The artifact where its user looks for it, complete or not at all."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from pipeline.artifacts import AccuracyReport, Verdict
from pipeline.foreign_json import parse_json
from pipeline.hashing import sha256_of_file
from pipeline.workspace import write_atomically
from targets.device import proof
from targets.device.files import SHARD

REPORT, DEVICES = proof.FILE, "devices"
PRIVATE = "private"
"""Beside `artifacts` in the workspace: what shows people, and is not published unless that was asked for."""


def publish(
    destination: Path, files: Mapping[str, Path], reports: Mapping[str, AccuracyReport], *, scratch: Path
) -> None:
    """Put `files` and `reports` into `destination` by their relative names, replacing what is there.

    `scratch` is a folder on the same file system; the new folder is complete before the old one goes. Where only the
    reports are others (a margin, or an image that has confirmed them), only those are written. What devices have sent
    stays, each with the hash of the model that it is about.
    """
    if _has(destination, files, reports):
        for name, report in reports.items():
            if (destination / name).read_bytes() != report_json(report).encode():
                write_atomically(destination / name, report_json(report))
        return
    fresh, stale = scratch / f"{destination.name}.new", scratch / f"{destination.name}.old"
    for leftover in (fresh, stale):
        shutil.rmtree(leftover, ignore_errors=True)
    for name in (*files, *reports):
        (fresh / name).parent.mkdir(parents=True, exist_ok=True)
    for name, file in files.items():
        shutil.copy2(file, fresh / name)
    for name, report in reports.items():
        (fresh / name).write_text(report_json(report))
    destination.parent.mkdir(parents=True, exist_ok=True)
    if (destination / DEVICES).is_dir():
        shutil.copytree(destination / DEVICES, fresh / DEVICES)
    if destination.exists():
        destination.rename(stale)
    fresh.rename(destination)
    shutil.rmtree(stale, ignore_errors=True)


def keep_private(shard: Path, destination: Path) -> None:
    """Keep the shard of the artifact published at `destination` where `shard_of` finds it, and nobody copies it."""
    place = _private(destination)
    if _same(shard, place):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f".{place.name}.new")
    shutil.copy2(shard, fresh)
    fresh.replace(place)


def shard_of(published: Path) -> Path:
    """The shard of a published artifact: in its folder or, where it shows people, kept apart from it."""
    private = _private(published)
    return private if private.is_file() and not (published / SHARD).is_file() else published / SHARD


def is_published(destination: Path, files: Mapping[str, Path], reports: Mapping[str, AccuracyReport]) -> bool:
    """Whether `destination` holds just this already."""
    return _has(destination, files, reports) and all(
        (destination / name).read_bytes() == report_json(report).encode() for name, report in reports.items()
    )


def unproven_text(published: Path) -> str | None:
    """What to tell whoever uses an artifact that the gate did not pass; None where it did, or has no report."""
    try:
        raw = parse_json((published / REPORT).read_text(encoding="utf-8"))
        verdict, drop, allowed = str(raw["verdict"]), float(raw["drop_points"]), float(raw["max_drop_points"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if verdict == Verdict.PASS:
        return None
    return f"{published} is not proven: the gate says {verdict} (drop {drop:+.2f} points, {allowed:g} allowed)"


def report_json(report: AccuracyReport) -> str:
    """The report as the text of `report.json`, here and in an image."""
    return json.dumps(asdict(report), indent=2, sort_keys=True) + "\n"


def _private(published: Path) -> Path:
    place = published.resolve()
    return place.parent.parent / PRIVATE / place.name / SHARD


def _has(destination: Path, files: Mapping[str, Path], reports: Mapping[str, AccuracyReport]) -> bool:
    """Whether just these names are there, the files being the same; what the reports say is another matter."""
    paths = (path.relative_to(destination) for path in destination.rglob("*") if not path.is_dir())
    there = {path.as_posix() for path in paths if path.parts[0] != DEVICES}
    return there == {*files, *reports} and all(_same(file, destination / name) for name, file in files.items())


def _same(one: Path, other: Path) -> bool:
    """By content: size and time can be put back by whoever, or whatever, has changed a file."""
    try:
        return one.stat().st_size == other.stat().st_size and sha256_of_file(one) == sha256_of_file(other)
    except OSError:
        return False
