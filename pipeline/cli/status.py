"""`deploy status`: show what is in the workspace."""

from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import options as o
from pipeline.cli.output import print_table, say
from pipeline.cli.request import workspace_folder
from pipeline.errors import WorkspaceError

if TYPE_CHECKING:
    from pipeline.validate.published import KeptProof


def status(
    recipe: o.RecipeFile = None,
    workspace: o.WorkspaceFolder = None,
    verify: Annotated[bool, typer.Option("--verify", help="Hash every file of every stage.")] = False,
) -> None:
    """Show what is in the workspace."""
    root = workspace_folder(recipe, workspace)
    if not root.is_dir():
        print(f"{root} does not exist: nothing was built here yet.")
        return
    contents, damaged = _show_stages(root, verify=verify)
    damaged += _show_artifacts(root, contents if verify else None)
    if damaged:
        raise WorkspaceError(f"damaged: {'; '.join(damaged)}. The next build makes them again.")


def _show_stages(root: Path, *, verify: bool) -> tuple[set[str], list[str]]:
    """List finished stages, oldest first, and unfinished trainings; return all file hashes, and what is damaged."""
    from pipeline.workspace.integrity import check_files
    from pipeline.workspace.store import RECORD, TRAINING, read_record
    from pipeline.workspace.training_state import STATE, progress_of

    stages = sorted(root.glob(f"*/*/{RECORD}"), key=lambda path: path.stat().st_mtime)
    rows, damaged, contents = [], list[str](), set[str]()
    for file in stages:
        done = datetime.fromtimestamp(file.stat().st_mtime).strftime("%Y-%m-%d %H:%M")
        took, state = "?", "verified" if verify else "as written"
        try:
            record = read_record(file.parent)
            took = f"{record.seconds:.1f} s"
            check_files(file.parent, record.files, thoroughly=verify)
            contents |= {each.sha256 for each in record.files.values()}
        except WorkspaceError as error:
            state = "damaged"
            damaged.append(f"{file.parent}: {error}")
        rows.append((file.parent.parent.name, file.parent.name, done, took, size_text(file.parent), state))
    print_table(str(root), ("stage", "key", "done", "took", "size", "files"), rows)
    for training in sorted(root.glob(f"{TRAINING}/*/{STATE}")):
        epochs, seconds = progress_of(training.parent)
        say(f"{training.parent}: an unfinished training, resumes after epoch {epochs} ({seconds:.0f} s of work)")
    return contents, damaged


def _show_artifacts(root: Path, contents: Collection[str] | None) -> list[str]:
    """List published artifacts, hashing each if `contents` are given; return what is damaged."""
    from pipeline.validate.published import REPORT
    from targets.device.model.manifest import ManifestError

    damaged = []
    for report in sorted(root.glob(f"artifacts/*/{REPORT}")):
        try:
            _show_artifact(report.parent, contents)
        except (WorkspaceError, ManifestError) as error:
            say(f"{report.parent}: damaged")
            damaged.append(str(error))
    return damaged


def _show_artifact(folder: Path, contents: Collection[str] | None) -> None:
    """Show an artifact. `contents`: hashes of all files of the stages, which must include its own; None: no check."""
    from pipeline.artifacts import Place
    from pipeline.untrusted import parse_json
    from pipeline.validate.published import REPORT, proofs_of

    try:
        raw = parse_json((folder / REPORT).read_text(encoding="utf-8"))
        where = ", simulated" if raw["place"] == Place.SIMULATED else ""
        text = f"{raw['verdict']}{where}, drop {float(raw['drop_points']):+.2f} points on {raw['images']} images"
        model = str(raw["artifact_sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WorkspaceError(f"{folder / REPORT}: {error}") from None
    if contents is not None:
        _check_artifact(folder, model, contents)
    say(f"{folder}: {text}")
    for proof in proofs_of(folder):
        say(f"  {proof.device}: {proof.verdict}{_which(proof, folder)}")


def _check_artifact(folder: Path, model: str, contents: Collection[str]) -> None:
    """Compare published files with those of the stages; if these were removed, check only the model."""
    from pipeline.validate.published import DEVICES, REPORT
    from pipeline.workspace.hashing import sha256_of_file
    from targets.device.model.manifest import read_manifest

    main = read_manifest(folder).model_path(folder)
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != REPORT)
    ours = [path for path in files if path.relative_to(folder).parts[0] != DEVICES]
    for file in ours if model in contents else [main]:
        content = sha256_of_file(file)
        if content != model if file == main else content not in contents:
            raise WorkspaceError(f"{file} has changed since it was written")


def _which(proof: "KeptProof", published: Path) -> str:
    """Return which published model the proof is about, if it is not the main one."""
    from targets.device.model.manifest import read_manifest

    for folder in (published, *sorted(path.parent for path in published.glob("*/manifest.json"))):
        manifest = read_manifest(folder)
        if proof.artifact_sha256 == manifest.model_sha256 and proof.precision in (None, manifest.precision):
            return "" if folder == published else f" ({folder.name})"
    return " (of an earlier model)"


def size_text(folder: Path) -> str:
    """Return the size of all files under `folder` in MB, as text."""
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{size / 1e6:.1f} MB"
