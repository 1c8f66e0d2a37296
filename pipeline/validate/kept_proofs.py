"""Proofs that came from devices, kept beside the artifact they are about: `devices/<name>/` in its folder."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import AccuracyReport, Place, Verdict
from pipeline.errors import WorkspaceError
from pipeline.untrusted import parse_json
from pipeline.validate.published import DEVICES, REPORT, report_json
from targets.device.files import PASSPORT


@dataclass(frozen=True, kw_only=True)
class KeptProof:
    """What one device answered, as this host judged it."""

    device: str
    artifact_sha256: str
    verdict: Verdict
    folder: Path

    @property
    def precision(self) -> str | None:
        """Of a GPU's engine, by its passport; None where there is none."""
        try:
            return str(parse_json((self.folder / PASSPORT).read_text())["precision"])
        except (OSError, ValueError, KeyError, TypeError):
            return None


def keep_proof(place: Path, evidence: Path, report: AccuracyReport, **documents: str) -> Path:
    """Replace `place`, `devices/<name>` of an artifact's folder, by a copy of `evidence`, the report and `documents`.

    `documents`: texts by file names without `.json`. Complete or not at all; raises `OSError`.
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
    """Every device's proof in an artifact's folder, by name; raises `WorkspaceError` for a damaged one."""
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
