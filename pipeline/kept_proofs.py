"""Proofs that came from devices, kept beside the artifact they are about: `devices/<name>/` in its folder."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import AccuracyReport, Place, Verdict
from pipeline.errors import WorkspaceError
from pipeline.publish import DEVICES, REPORT, report_json


@dataclass(frozen=True, kw_only=True)
class KeptProof:
    """What one device answered, as this host judged it."""

    device: str
    artifact_sha256: str
    verdict: Verdict
    folder: Path


def keep_proof(published: Path, device: str, files: Mapping[str, bytes], report: AccuracyReport) -> Path:
    """Put a device's files and the report on them in place at once, instead of its former ones; returns the folder."""
    place = published / DEVICES / device
    fresh = place.with_name(f".{device}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for name, contents in files.items():
        (fresh / name).write_bytes(contents)
    (fresh / REPORT).write_text(report_json(report))
    shutil.rmtree(place, ignore_errors=True)
    fresh.rename(place)
    return place


def proofs_of(published: Path) -> Iterator[KeptProof]:
    """Every device's proof in an artifact's folder, by name; raises `WorkspaceError` for a damaged one."""
    for path in sorted((published / DEVICES).glob(f"[!.]*/{REPORT}")):
        try:
            raw = json.loads(path.read_text())
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
