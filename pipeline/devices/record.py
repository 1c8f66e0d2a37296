"""A device's proof, kept beside the artifact: `devices/<name>/`, complete or not at all."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.artifacts import AccuracyReport, Place, Verdict
from pipeline.devices.inventory import Device
from pipeline.devices.requirements import Survey
from pipeline.errors import WorkspaceError
from pipeline.untrusted import parse_json
from pipeline.validate.published import REPORT, keep_proof

FILE = "delivery.json"
SCHEMA = 1


def comparison_text(facts: Mapping[str, Any]) -> str:
    """Return the device's reason for the served precision and for excluded ones; empty without rivals."""
    comparison = facts.get("comparison")
    if not isinstance(comparison, dict):
        return ""
    return f"{comparison.get('text')}. {facts.get('reason') or ''}".strip()


@dataclass(frozen=True, kw_only=True)
class Record:
    """A proven device, and its inputs."""

    key: str
    image: str
    """Id of the tagged image on the device."""
    report: AccuracyReport
    notes: tuple[str, ...]


def write_record(
    folder: Path,
    evidence: Path,
    *,
    device: Device,
    key: str,
    tag: str,
    image: str,
    survey: Survey,
    report: AccuracyReport,
) -> None:
    """Replace `folder` by the device's files in `evidence`, the host's report and `delivery.json`."""
    facts: Mapping[str, Any] = {
        "schema": SCHEMA,
        "tool": __version__,
        "key": key,
        "device": device.name,
        "address": device.address,
        "port": device.port,
        "tag": tag,
        "image": image,
        "notes": list(survey.notes),
        "facts": asdict(survey.facts),
    }
    try:
        keep_proof(folder, evidence, report, delivery=json.dumps(facts, indent=2, sort_keys=True) + "\n")
    except OSError as error:
        raise WorkspaceError(f"the proof of {device.name} cannot be written to {folder}: {error}.") from None


def read_record(folder: Path) -> Record | None:
    """Return None if there is no readable record: the device is then asked again."""
    try:
        facts = parse_json((folder / FILE).read_text(encoding="utf-8"))
        raw = parse_json((folder / REPORT).read_text(encoding="utf-8"))
        if facts["schema"] != SCHEMA:
            return None
        report = AccuracyReport(
            **{
                **raw,
                "place": Place(raw["place"]),
                "verdict": Verdict(raw["verdict"]),
                "drop_interval_points": tuple(raw["drop_interval_points"]),
                "drop_bounds_points": tuple(raw["drop_bounds_points"]),
            }
        )
        return Record(key=facts["key"], image=facts["image"], report=report, notes=tuple(facts["notes"]))
    except (OSError, ValueError, TypeError, KeyError):
        return None
