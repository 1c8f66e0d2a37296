"""`deploy status`: what the workspace holds."""

from datetime import datetime
from pathlib import Path

from pipeline.artifacts import Place
from pipeline.continuation import STATE, progress_of
from pipeline.errors import WorkspaceError
from pipeline.foreign_json import parse_json
from pipeline.integrity import check_files
from pipeline.kept_proofs import KeptProof, proofs_of
from pipeline.printable import say
from pipeline.table import print_table
from pipeline.workspace import RECORD, TRAINING, read_record
from targets.device.manifest import read_manifest


def run(root: Path, *, verify: bool = False) -> None:
    """List finished stages of the workspace at `root`, oldest first, unfinished trainings and published artifacts.

    `verify`: hash every file of every stage; raises `WorkspaceError` where one is not what was written.
    """
    if not root.is_dir():
        print(f"{root} does not exist: nothing has been built here yet.")
        return
    stages = sorted(root.glob(f"*/*/{RECORD}"), key=lambda path: path.stat().st_mtime)
    rows, damaged = [], list[str]()
    for file in stages:
        done = datetime.fromtimestamp(file.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
        took, state = "?", "verified" if verify else "as written"
        try:
            record = read_record(file.parent)
            took = f"{record.seconds:.1f} s"
            check_files(file.parent, record.files, thoroughly=verify)
        except WorkspaceError as error:
            state = "damaged"
            damaged.append(f"{file.parent}: {error}")
        rows.append((file.parent.parent.name, file.parent.name, done, took, size_text(file.parent), state))
    print_table(str(root), ("stage", "key", "done", "took", "size", "files"), rows)
    for training in sorted(root.glob(f"{TRAINING}/*/{STATE}")):
        epochs, seconds = progress_of(training.parent)
        say(f"{training.parent}: an unfinished training, goes on after epoch {epochs} ({seconds:.0f} s of work)")
    for report in sorted(root.glob("artifacts/*/report.json")):
        raw = parse_json(report.read_text())
        where = ", simulated" if raw["place"] == Place.SIMULATED else ""
        text = f"{raw['verdict']}{where}, drop {raw['drop_points']:+.2f} points on {raw['images']} images"
        say(f"{report.parent}: {text}")
        for proof in proofs_of(report.parent):
            say(f"  {proof.device}: {proof.verdict}{_which(proof, report.parent)}")
    if damaged:
        raise WorkspaceError(f"damaged stages: {'; '.join(damaged)}. A build does them again.")


def _which(proof: KeptProof, published: Path) -> str:
    """Which of the published models it is about, where that is not the main one."""
    for folder in (published, *sorted(path.parent for path in published.glob("*/manifest.json"))):
        manifest = read_manifest(folder)
        if proof.artifact_sha256 == manifest.model_sha256 and proof.precision in (None, manifest.precision):
            return "" if folder == published else f" ({folder.name})"
    return " (of an earlier model)"


def size_text(folder: Path) -> str:
    """Size of all files under `folder`, for people."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{size / 1e6:.1f} MB"
