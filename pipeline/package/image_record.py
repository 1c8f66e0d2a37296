"""What is remembered of an image: its facts on disk, and whether an engine still has it."""

import json
from dataclasses import asdict
from pathlib import Path

from pipeline.artifacts import Image, Place
from pipeline.errors import WorkspaceError
from pipeline.untrusted import parse_json

FILE = "image.json"


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
