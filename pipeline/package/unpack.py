"""Wheels as a plain folder of packages, made without the Python that will import them.

An image of TensorRT is often built on a machine of another platform, which could run nothing in it: so its packages
are unpacked here. A wheel is an archive whose files go to site-packages as they are, but for those below
`<name>.data` (PyPA's binary distribution format); scripts and headers of those are of no use to a server.
"""

import shutil
import zipfile
from pathlib import Path, PurePosixPath

from pipeline.errors import PackageError
from targets.shipped import shipped

LIBRARIES = ("purelib", "platlib")
EAGER_BEFORE_NUMPY_2 = ("numpy/fft", "numpy/ma", "numpy/polynomial", "numpy/random")
"""What `import numpy` imports at once in 1.x, which Python 3.8 has, and only when it is asked for since."""


def unpack_wheels(wheels: Path, folder: Path) -> None:
    """Put the packages of all wheels in `wheels` into `folder`, without what a server never opens.

    Raises `PackageError` for a wheel that is damaged or would write outside of `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for wheel in sorted(wheels.glob("*.whl")):
        try:
            with zipfile.ZipFile(wheel) as archive:
                for member in archive.infolist():
                    place = _place(member.filename)
                    if place is not None and not member.is_dir():
                        _extract(archive, member, folder / place)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise PackageError(
                f"the wheel {wheel} cannot be unpacked: {error}. Remove {wheels} and run again."
            ) from None
    for pattern in surplus(folder):
        for path in list(folder.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def surplus(folder: Path) -> list[str]:
    """Patterns of `docker/surplus.txt` that the packages in `folder` can do without."""
    lines = shipped("surplus.txt").read_text().splitlines()
    needed = () if (folder / "numpy" / "_core").is_dir() else EAGER_BEFORE_NUMPY_2
    return [line for line in lines if not line.startswith("#") and line not in needed]


def _place(name: str) -> PurePosixPath | None:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{name} is outside of it")
    if not path.parts[0].endswith(".data"):
        return path
    return PurePosixPath(*path.parts[2:]) if len(path.parts) > 2 and path.parts[1] in LIBRARIES else None


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(member) as source, target.open("wb") as written:
        shutil.copyfileobj(source, written)
