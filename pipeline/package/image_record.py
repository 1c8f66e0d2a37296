"""What is remembered of an image: its facts on disk, and whether an engine still has it."""

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

from pipeline.artifacts import Image, Place
from pipeline.errors import WorkspaceError
from pipeline.untrusted import parse_json

FILE = "image.json"

CONTEXT, WORDS = "context", "first_words.txt"
"""Of an image that is built later: the folder of its build context, and what its server said here."""


def write_image(folder: Path, image: Image) -> None:
    (folder / FILE).write_text(json.dumps(asdict(image), indent=2, sort_keys=True) + "\n")


def read_image(folder: Path) -> Image:
    """Raises `WorkspaceError` where the facts are missing or damaged."""
    path = folder / FILE
    try:
        raw = parse_json(path.read_text())
        return Image(**{**raw, "place": Place(raw["place"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise WorkspaceError(f"{path} cannot be read ({error}). Remove {folder} and run again.") from None


def is_present(image: Image) -> bool:
    """Whether the engine has this very image under its tag; raises `EngineMissing`."""
    # Imported here: a build that has no image to look for shall not wait for the SDK.
    from pipeline.containers.engine import connect

    engine = connect()
    try:
        return engine.id_of(image.tag) == image.id
    finally:
        engine.close()


def show_context(context: Path, place: Path) -> Path:
    """A link to the context where the user looks for it, replaced at once; returns `place`."""
    fresh = place.with_name(f".{place.name}.new")
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(context, place.parent))
    if place.is_dir() and not place.is_symlink():
        # Of an earlier version, or of a CPU target's build without an engine.
        shutil.rmtree(place)
    fresh.replace(place)
    return place
