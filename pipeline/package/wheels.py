"""The image's Python packages: locked by hash per platform and Python, downloaded once, verified at every use.

Wheels can also be unpacked into a plain folder, without the Python that will import them.

An image for TensorRT is often built on a machine of another platform, which cannot run programs in it: so its packages
are unpacked here. A wheel is an archive whose files go to site-packages unchanged, except those in
`<name>.data` (PyPA's binary distribution format); a server does not need the scripts and headers there.
"""

import importlib.util
import os
import re
import shutil
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from pipeline.errors import PackageError, ToolError
from pipeline.process import Run, run
from pipeline.progress import Progress
from pipeline.workspace.hashing import sha256_of_file
from targets.device.model.manifest import Manifest
from targets.shipped import shipped

# The glibc versions of `manylinux` tags; 2.28 is what the newest of the locked wheels need, Debian 10 has it.
GLIBC_MINORS = range(28, 4, -1)
MACHINES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
FOLDERS = {
    ("onnxruntime", False): "",
    ("onnxruntime", True): "grpc",
    ("tensorrt", False): "tensorrt",
    ("tensorrt", True): "tensorrt-grpc",
}
"""Folder in docker/locks, by runtime and whether the image serves gRPC."""
PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)==(\S+)", re.MULTILINE)
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True, kw_only=True)
class Pin:
    version: str
    hashes: frozenset[str]
    """SHA-256 of every published file of this version."""


@dataclass(frozen=True, kw_only=True)
class Lock:
    """One file of `docker/locks`."""

    path: Path
    platform: str
    python: str
    """Major and minor, e.g. `3.12`."""
    pins: dict[str, Pin]
    """By normalized name."""

    @property
    def name(self) -> str:
        """Such as `linux-amd64-cp312` or `grpc-linux-amd64-cp312`."""
        return "-".join(self.path.relative_to(shipped("locks")).with_suffix("").parts)

    @property
    def key(self) -> str:
        """Return a cache key: locks with the same text need different files on different platforms and Pythons."""
        return f"{self.path.stem}-{sha256_of_file(self.path)[:16]}"


def find_lock(platform: str, python: str, *, runtime: str = "onnxruntime", grpc: bool = False) -> Lock:
    """Return the lock of a platform such as `linux/amd64` and a Python such as `3.12`; raise `PackageError`."""
    folder = shipped("locks") / FOLDERS[runtime, grpc]
    path = folder / f"{platform.replace('/', '-')}-cp{python.replace('.', '')}.txt"
    if not path.is_file():
        raise PackageError(
            f"no packages are locked for Python {python} on {platform}. Available: {', '.join(_read_lock(folder))}. "
            "Use a base image with one of these (--base-image), or add a lock with scripts/lock_device.py."
        )
    return Lock(path=path, platform=platform, python=python, pins=_parse(path.read_text()))


def default_cache() -> Path:
    """Return `$XDG_CACHE_HOME/edge-deploy/wheels`, by default in `~/.cache`."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "edge-deploy" / "wheels"


def fetch_wheels(lock: Lock, *, cache: Path, progress: Progress, door: Run = run) -> Path:
    """Return the folder with the lock's wheels, all verified; download only what the cache lacks.

    Raises `ToolError` if they cannot be downloaded.
    """
    place = cache / lock.key
    if place.is_dir():
        fault = find_fault(place, lock)
        if fault is None:
            return place
        progress.line(f"the cached packages in {place} are damaged ({fault}): downloading them again")
        shutil.rmtree(place)
    progress.line(f"downloading {len(lock.pins)} Python packages for {lock.platform}, Python {lock.python} to {cache}")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=".fetching-") as scratch:
        _download(lock, Path(scratch), progress, door)
        fault = find_fault(Path(scratch), lock)
        if fault is not None:
            raise ToolError(f"pip downloaded other packages than {lock.path.name} lists: {fault}.")
        _publish(Path(scratch), place)
    return place


def find_fault(folder: Path, lock: Lock) -> str | None:
    """Return the fault of the wheels in `folder`, if any: missing, surplus, or of another hash than locked."""
    missing = dict(lock.pins)
    for path in sorted(folder.iterdir()):
        try:
            name, *_ = parse_wheel_filename(path.name)
        except InvalidWheelFilename:
            return f"{path.name} is not expected"
        pin = missing.pop(name, None)
        if pin is None:
            return f"{path.name} is not expected"
        if sha256_of_file(path) not in pin.hashes:
            return f"{path.name} does not have a locked hash"
    return f"{', '.join(sorted(missing))} missing" if missing else None


def _download(lock: Lock, folder: Path, progress: Progress, door: Run) -> None:
    if importlib.util.find_spec("pip") is None:
        raise ToolError(
            f"{sys.executable} has no pip, which downloads the image's Python packages. "
            "Add it: python -m ensurepip, or uv pip install pip."
        )
    version = lock.python.replace(".", "")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--retries", "2"]
    command += ["--require-hashes", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
    command += ["--python-version", lock.python, "--implementation", "cp"]
    command += ["--abi", f"cp{version}", "--abi", "abi3", "--abi", "none"]
    for tag in platform_tags(lock.platform):
        command += ["--platform", tag]
    try:
        door([*command, "--requirement", str(lock.path)], progress=progress)
    except ToolError as error:
        raise ToolError(
            f"the image's Python packages ({lock.path.name}) could not be downloaded, and the cache {folder.parent} "
            "does not have them. This is needed once. Connect to a package index, give a mirror (PIP_INDEX_URL), or "
            f"copy that cache folder from another machine.\n{error}"
        ) from None


def platform_tags(platform: str) -> list[str]:
    """Return the wheel platforms that run on this image platform, newest glibc first."""
    machine = MACHINES[platform]
    return [f"manylinux_2_{minor}_{machine}" for minor in GLIBC_MINORS] + [f"manylinux2014_{machine}"]


def _publish(scratch: Path, place: Path) -> None:
    """Move the complete folder into the cache atomically; another process may have done the same first."""
    ready = scratch.with_name(f"{scratch.name}-ready")
    ready.mkdir()
    try:
        for wheel in scratch.iterdir():
            wheel.rename(ready / wheel.name)
        if not place.exists():
            ready.rename(place)
    finally:
        shutil.rmtree(ready, ignore_errors=True)


def _parse(text: str) -> dict[str, Pin]:
    pins: dict[str, Pin] = {}
    starts = list(PIN.finditer(text))
    for index, start in enumerate(starts):
        end = starts[index + 1].start() if index + 1 < len(starts) else len(text)
        hashes = frozenset(HASH.findall(text, start.end(), end))
        pins[canonicalize_name(start[1])] = Pin(version=start[2], hashes=hashes)
    return pins


def _read_lock(folder: Path) -> list[str]:
    found = []
    for path in sorted(folder.glob("*-cp*.txt")):
        platform, _, version = path.stem.rpartition("-cp")
        found.append(f"{platform.replace('-', '/')} Python {version[0]}.{version[1:]}")
    return found


def check_runtime(lock: Lock, manifest: Manifest) -> None:
    """Check that the image's runtime is not older than the proof's, which would reject the artifact.

    Raises `PackageError`. TensorRT is in the base image, not in a lock; its engine is proven on the device.
    """
    if manifest.runtime == "tensorrt":
        return
    locked = lock.pins[manifest.runtime].version
    # Major and minor: a patch release does not change answers.
    if Version(locked).release[:2] < Version(manifest.runtime_version).release[:2]:
        raise PackageError(
            f"the artifact was proven with {manifest.runtime} {manifest.runtime_version}, the image would run "
            f"{locked}. Install {manifest.runtime}=={locked} here and build again."
        )


LIBRARIES = ("purelib", "platlib")
EAGER_BEFORE_NUMPY_2 = ("numpy/fft", "numpy/ma", "numpy/polynomial", "numpy/random")
"""Modules that `import numpy` imports eagerly in 1.x (Python 3.8), and lazily since."""


def unpack_wheels(wheels: Path, folder: Path) -> None:
    """Unpack all wheels in `wheels` into `folder`, without files that a server never reads.

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
    """Return the patterns of `docker/surplus.txt` for packages that are not needed in `folder`."""
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
