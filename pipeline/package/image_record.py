"""Record of an image: its facts on disk, and whether an engine still has it."""

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
"""For an image built later: the folder of its build context, and its server's message here."""


def write_image(folder: Path, image: Image) -> None:
    (folder / FILE).write_text(json.dumps(asdict(image), indent=2, sort_keys=True) + "\n")


def read_image(folder: Path) -> Image:
    """Read the facts; raise `WorkspaceError` if they are missing or damaged."""
    path = folder / FILE
    try:
        raw = parse_json(path.read_text())
        return Image(**{**raw, "place": Place(raw["place"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise WorkspaceError(f"{path} cannot be read ({error}). Remove {folder} and run again.") from None


def is_present(image: Image) -> bool:
    """Whether the engine has exactly this image under its tag; raises `EngineMissing`."""
    # Imported here: a build without an image to check must not wait for the SDK.
    from pipeline.containers.engine import connect

    engine = connect()
    try:
        return engine.id_of(image.tag) == image.id
    finally:
        engine.close()


def show_context(context: Path, place: Path) -> Path:
    """Make a link to the context for the user, replaced atomically; return `place`."""
    fresh = place.with_name(f".{place.name}.new")
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(os.path.relpath(context, place.parent))
    if place.is_dir() and not place.is_symlink():
        # From an earlier version, or from a CPU target's build without a Docker engine.
        shutil.rmtree(place)
    fresh.replace(place)
    return place
