"""Publish the artifact in the user's folder, completely or not at all.

Also proofs from devices, kept beside their artifact: `devices/<name>/` in its folder.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.artifacts import AccuracyReport, Place, Verdict
from pipeline.errors import WorkspaceError
from pipeline.untrusted import parse_json
from pipeline.workspace.hashing import sha256_of_file
from pipeline.workspace.store import write_atomically
from targets.device.files import PASSPORT, SHARD
from targets.device.gate import report as proof

REPORT, DEVICES = proof.FILE, "devices"
PRIVATE = "private"
"""Folder beside `artifacts` in the workspace for images of people, which are only published on request."""


def publish(
    destination: Path, files: Mapping[str, Path], reports: Mapping[str, AccuracyReport], *, scratch: Path
) -> None:
    """Put `files` and `reports` into `destination` by their relative names, replacing its content.

    `scratch` is a folder on the same file system; the new folder is complete before the old one is removed. If only
    the reports changed (a margin, or an image that confirmed them), only those are written. Proofs from devices
    stay, each with the hash of its model.
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
    """Store the shard of the artifact published at `destination` where only `shard_of` finds it."""
    place = _private(destination)
    if _same(shard, place):
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_name(f".{place.name}.new")
    shutil.copy2(shard, fresh)
    fresh.replace(place)


def shard_of(published: Path) -> Path:
    """Return the shard of a published artifact: in its folder or, if it shows people, stored apart."""
    private = _private(published)
    return private if private.is_file() and not (published / SHARD).is_file() else published / SHARD


def is_published(destination: Path, files: Mapping[str, Path], reports: Mapping[str, AccuracyReport]) -> bool:
    """Whether `destination` already has exactly this content."""
    return _has(destination, files, reports) and all(
        (destination / name).read_bytes() == report_json(report).encode() for name, report in reports.items()
    )


def unproven_text(published: Path) -> str | None:
    """Return a warning for users of an artifact that did not pass the gate; None if it did, or has no report."""
    try:
        raw = parse_json((published / REPORT).read_text(encoding="utf-8"))
        verdict, drop, allowed = str(raw["verdict"]), float(raw["drop_points"]), float(raw["max_drop_points"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if verdict == Verdict.PASS:
        return None
    return f"{published} is not proven: the gate's verdict is {verdict} (drop {drop:+.2f} points, {allowed:g} allowed)"


def report_json(report: AccuracyReport) -> str:
    """Return the report as the text of `report.json`, here and in an image."""
    return json.dumps(asdict(report), indent=2, sort_keys=True) + "\n"


def _private(published: Path) -> Path:
    place = published.resolve()
    return place.parent.parent / PRIVATE / place.name / SHARD


def _has(destination: Path, files: Mapping[str, Path], reports: Mapping[str, AccuracyReport]) -> bool:
    """Whether exactly these names exist with the same files; the reports' content is not compared."""
    paths = (path.relative_to(destination) for path in destination.rglob("*") if not path.is_dir())
    there = {path.as_posix() for path in paths if path.parts[0] != DEVICES}
    return there == {*files, *reports} and all(_same(file, destination / name) for name, file in files.items())


def _same(one: Path, other: Path) -> bool:
    """Compare by content: size and time of a changed file can be restored."""
    try:
        return one.stat().st_size == other.stat().st_size and sha256_of_file(one) == sha256_of_file(other)
    except OSError:
        return False


@dataclass(frozen=True, kw_only=True)
class KeptProof:
    """One device's answers, as judged on this host."""

    device: str
    artifact_sha256: str
    verdict: Verdict
    folder: Path

    @property
    def precision(self) -> str | None:
        """Precision of a GPU's engine, from its passport; None if there is none."""
        try:
            return str(parse_json((self.folder / PASSPORT).read_text())["precision"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def keep_proof(place: Path, evidence: Path, report: AccuracyReport, **documents: str) -> Path:
    """Replace `place`, `devices/<name>` of an artifact's folder, by a copy of `evidence`, the report and `documents`.

    `documents`: texts by file name without `.json`. Complete or not at all; raises `OSError`.
    """
    fresh, stale = place.with_name(f".{place.name}.new"), place.with_name(f".{place.name}.old")
    for leftover in (fresh, stale):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.parent.mkdir(exist_ok=True)
    shutil.copytree(evidence, fresh)
    (fresh / REPORT).write_text(report_json(report), encoding="utf-8")
    for name, text in documents.items():
        (fresh / f"{name}.json").write_text(text, encoding="utf-8")
    if place.exists():
        place.rename(stale)
    fresh.rename(place)
    shutil.rmtree(stale, ignore_errors=True)
    return place


def proofs_of(published: Path) -> Iterator[KeptProof]:
    """Yield every device's proof in an artifact's folder, by name; raise `WorkspaceError` for a damaged one."""
    for path in sorted((published / DEVICES).glob(f"[!.]*/{REPORT}")):
        try:
            raw = parse_json(path.read_text())
            if raw["place"] == Place.DEVICE:
                yield KeptProof(
                    device=path.parent.name,
                    artifact_sha256=raw["artifact_sha256"],
                    verdict=Verdict(raw["verdict"]),
                    folder=path.parent,
                )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise WorkspaceError(
                f"{path} is damaged ({error!r}). Remove {path.parent} and collect it again."
            ) from None
