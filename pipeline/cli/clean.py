"""`deploy clean`: free the workspace's disk space."""

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
    """Remove the stages' results and unfinished trainings; published artifacts and reports stay unless --all."""
    from pipeline.validate.published import PRIVATE
    from pipeline.workspace.store import RECORD, TRAINING, Workspace

    root = workspace_folder(recipe, workspace)
    if not root.is_dir():
        print(f"{root} does not exist: nothing to clean.")
        return
    # Delete only from a folder that has a workspace's lock file.
    if not (root / "lock").is_file():
        raise WorkspaceError(f"{root} is not a workspace (it has no lock file): nothing was removed.")
    freed = size_text(root)
    held = Workspace(root)
    with held.locked():
        if held.is_read_only:
            raise WorkspaceError(f"{root} is read-only: nothing was removed.")
        for folder in root.iterdir():
            is_stage = any(folder.glob(f"*/{RECORD}")) if folder.is_dir() else False
            if is_stage or folder.name == TRAINING or (everything and folder.name in (ARTIFACTS, PRIVATE)):
                shutil.rmtree(folder)
    kept = " Published artifacts and reports were kept (--all removes them)." if not everything else ""
    print(f"cleaned {root}: {freed} before, {size_text(root)} now.{kept}")
