"""`deploy status`: what the workspace holds."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.artifacts import Place
from pipeline.continuation import STATE, progress_of
from pipeline.kept_proofs import proofs_of
from pipeline.table import print_table
from pipeline.workspace import RECORD, TRAINING


def run(root: Path) -> None:
    """List finished stages of the workspace at `root`, oldest first, unfinished trainings and published artifacts."""
    if not root.is_dir():
        print(f"{root} does not exist: nothing has been built here yet.")
        return
    stages = sorted(root.glob(f"*/*/{RECORD}"), key=lambda path: path.stat().st_mtime)
    rows = []
    for record in stages:
        raw = json.loads(record.read_text())
        done = datetime.fromtimestamp(record.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
        rows.append((raw["stage"], record.parent.name, done, f"{raw['seconds']:.1f} s", size_text(record.parent)))
    print_table(str(root), ("stage", "key", "done", "took", "size"), rows)
    for state in sorted(root.glob(f"{TRAINING}/*/{STATE}")):
        epochs, seconds = progress_of(state.parent)
        print(f"{state.parent}: an unfinished training, goes on after epoch {epochs} ({seconds:.0f} s of work)")
    for report in sorted(root.glob("artifacts/*/report.json")):
        raw = json.loads(report.read_text())
        where = ", simulated" if raw["place"] == Place.SIMULATED else ""
        text = f"{raw['verdict']}{where}, drop {raw['drop_points']:+.2f} points on {raw['images']} images"
        print(f"{report.parent}: {text}")
        beside = {each["artifact_sha256"]: name for name, each in _beside(report.parent)}
        for proof in proofs_of(report.parent):
            which = beside.get(proof.artifact_sha256, "of an earlier model")
            told = "" if proof.artifact_sha256 == raw["artifact_sha256"] else f" ({which})"
            print(f"  {proof.device}: {proof.verdict}{told}")


def _beside(published: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The models beside the main one, by their folders, with their reports."""
    for report in sorted(published.glob("*/report.json")):
        yield report.parent.name, json.loads(report.read_text())


def size_text(folder: Path) -> str:
    """Size of all files under `folder`, for people."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{size / 1e6:.1f} MB"
