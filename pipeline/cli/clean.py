"""`deploy clean`: give the disk back."""

import shutil
from typing import Annotated

import typer

from pipeline.cli import options as o
from pipeline.cli.request import workspace_folder
from pipeline.cli.status import size_text
from pipeline.errors import WorkspaceError

ARTIFACTS = "artifacts"


def clean(
    recipe: o.RecipeFile = None,
    workspace: o.WorkspaceFolder = None,
    everything: Annotated[bool, typer.Option("--all", help="Artifacts and reports too.")] = False,
) -> None:
    """Remove the stages' work, unfinished trainings too; published artifacts and reports stay unless --all."""
    from pipeline.validate.published import PRIVATE
    from pipeline.workspace.store import RECORD, TRAINING, Workspace

    root = workspace_folder(recipe, workspace)
    if not root.is_dir():
        print(f"{root} does not exist: nothing to clean.")
        return
    # Only a folder that our own lock marks as a workspace is ever deleted from.
    if not (root / "lock").is_file():
        raise WorkspaceError(f"{root} is no workspace of ours (it has no lock file): nothing was removed.")
    freed = size_text(root)
    held = Workspace(root)
    with held.locked():
        if held.is_read_only:
            raise WorkspaceError(f"{root} cannot be written: nothing was removed.")
        for folder in root.iterdir():
            is_stage = any(folder.glob(f"*/{RECORD}")) if folder.is_dir() else False
            if is_stage or folder.name == TRAINING or (everything and folder.name in (ARTIFACTS, PRIVATE)):
                shutil.rmtree(folder)
    kept = " Published artifacts and reports were kept (--all removes them)." if not everything else ""
    print(f"cleaned {root}: {freed} before, {size_text(root)} now.{kept}")
