"""Location of the files in `docker/`: the repository's folder in a checkout, `targets/_docker` in a wheel."""

from pathlib import Path

PACKAGED = Path(__file__).parent / "_docker"
CHECKOUT = Path(__file__).parent.parent / "docker"


def shipped(name: str) -> Path:
    """Return the path of a file or folder of `docker/`."""
    return (PACKAGED if PACKAGED.is_dir() else CHECKOUT) / name
