"""`deploy clean`: give the disk back."""

import shutil
from pathlib import Path

from pipeline.commands.status import size_text
from pipeline.errors import WorkspaceError
from pipeline.publish import PRIVATE
from pipeline.workspace import RECORD, TRAINING, Workspace

ARTIFACTS = "artifacts"


def run(root: Path, *, everything: bool) -> None:
    """Remove the stages under `root`, unfinished trainings included; published artifacts stay unless `everything`."""
    if not root.is_dir():
        print(f"{root} does not exist: nothing to clean.")
        return
    # Only a folder that our own lock marks as a workspace is ever deleted from.
    if not (root / "lock").is_file():
        raise WorkspaceError(f"{root} is no workspace of ours (it has no lock file): nothing was removed.")
    freed = size_text(root)
    workspace = Workspace(root)
    with workspace.locked():
        if workspace.is_read_only:
            raise WorkspaceError(f"{root} cannot be written: nothing was removed.")
        for folder in root.iterdir():
            is_stage = any(folder.glob(f"*/{RECORD}")) if folder.is_dir() else False
            if is_stage or folder.name == TRAINING or (everything and folder.name in (ARTIFACTS, PRIVATE)):
                shutil.rmtree(folder)
    kept = " Published artifacts and reports were kept (--all removes them)." if not everything else ""
    print(f"cleaned {root}: {freed} before, {size_text(root)} now.{kept}")
