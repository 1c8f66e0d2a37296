"""What a device has proven, kept beside the artifact: `devices/<name>/`, complete or not at all."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.artifacts import AccuracyReport, Place, Verdict
from pipeline.errors import WorkspaceError
from pipeline.publish import REPORT, report_json
from pipeline.remote.device import Device
from pipeline.remote.survey import Survey

FILE = "delivery.json"
SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Record:
    """A device that was proven, and with what."""

    key: str
    image: str
    """The id that the tag has there."""
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
    fresh, stale = folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
    for leftover in (fresh, stale):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        shutil.copytree(evidence, fresh)
        (fresh / REPORT).write_text(report_json(report), encoding="utf-8")
        (fresh / FILE).write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        if folder.exists():
            folder.rename(stale)
        fresh.rename(folder)
    except OSError as error:
        raise WorkspaceError(f"the proof of {device.name} cannot be written to {folder}: {error}.") from None
    shutil.rmtree(stale, ignore_errors=True)


def read_record(folder: Path) -> Record | None:
    """None where there is none, or one that cannot be read: the device is asked again then."""
    try:
        facts = json.loads((folder / FILE).read_text(encoding="utf-8"))
        raw = json.loads((folder / REPORT).read_text(encoding="utf-8"))
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
