"""Checks before a build's first work, so that hours are not wasted: everything its last stages need must exist."""

import shutil
import tempfile
from contextlib import closing
from pathlib import Path

from pipeline.containers.engine import connect
from pipeline.errors import EngineMissing, WorkspaceError
from pipeline.package.base_image import base_without_engine, find_base, obtain_base
from pipeline.package.wheels import find_lock
from pipeline.progress import Progress
from pipeline.recipe import Recipe
from targets.base_images import look_up_base
from targets.target import Target

MIN_SCRATCH = 64 << 20
PER_CHECKPOINT = 4
"""Files of about the checkpoint's size that a stage may have in the temporary folder at the same time."""


def check_scratch(checkpoint: Path | None) -> None:
    """Raise `WorkspaceError` if the temporary folder has too little space for a build.

    When ONNX Runtime cannot write, it reports no error and leaves an invalid file.
    """
    folder = tempfile.gettempdir()
    size = checkpoint.stat().st_size if checkpoint is not None and checkpoint.is_file() else 0
    needed, free = MIN_SCRATCH + PER_CHECKPOINT * size, shutil.disk_usage(folder).free
    if free < needed:
        raise WorkspaceError(
            f"the folder for temporary files {folder} has {free / 1e6:,.0f} MB free, but {needed / 1e6:,.0f} MB are "
            "needed. Free some space, or give another folder with TMPDIR."
        )


def check_base(target: Target, recipe: Recipe, *, on_devices: bool, progress: Progress) -> None:
    """Raise `PackageError` or `EngineMissing` if the base image cannot be used for the build's image.

    Without a Docker engine the build context is still written, if the base's Python is known.
    """
    asked = recipe.package.base_image
    if on_devices and look_up_base(target, asked) is not None:
        # The devices pull it themselves.
        return
    if target.gpu is not None and asked is None:
        # The context can be built where its base is available.
        return
    try:
        engine = connect()
    except EngineMissing as error:
        base_without_engine(target, asked, str(error))
        return
    with closing(engine):
        if target.gpu is not None and look_up_base(target, asked) is not None:
            obtain_base(engine, target, asked, progress=progress)
            return
        base = find_base(engine, target, asked, progress=progress)
    find_lock(base.platform, base.python, runtime=target.runtime, grpc=recipe.package.grpc)
