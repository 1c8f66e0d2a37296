"""Where the files that ship lie: beside the packages in a checkout, inside one of them in a wheel."""

from pathlib import Path

PACKAGED = Path(__file__).parent / "_docker"
CHECKOUT = Path(__file__).parent.parent / "docker"


def shipped(name: str) -> Path:
    """The path of a file or folder of `docker/`."""
    return (PACKAGED if PACKAGED.is_dir() else CHECKOUT) / name
