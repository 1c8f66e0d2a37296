"""The engine cache: a folder on a volume that several containers may share, with locking and atomic writes."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

from targets.device.errors import CacheError
from targets.device.settings import MEBIBYTE

LOCK = ".lock"
TEMPORARY = ".building-"
"""Name prefix of a folder that is being written."""
POLL_SECONDS = 0.2
# Engine, timing cache and report of the smallest networks; twice the model's size is added.
SPARE_BYTES = 16 * MEBIBYTE
FULL = (errno.ENOSPC, errno.EDQUOT)


class Cache:
    """The cache's folder; every failure to use it is a `CacheError` with the cure."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self, model_bytes: int) -> None:
        """Create the folder and check that it is writable with enough space for the engine of a model of this size."""
        with cache_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=str(self.folder)):
                pass
            free = shutil.disk_usage(str(self.folder)).free
        # An engine contains the weights and data that kernels add.
        wanted = 2 * model_bytes + SPARE_BYTES
        if free < wanted:
            raise CacheError(
                f"the engine cache {self.folder} has {free // MEBIBYTE} MiB free, and an engine of this model may "
                f"need {-(-wanted // MEBIBYTE)}. Free some space, or set ENGINE_CACHE to a larger volume."
            )

    @contextmanager
    def locked(self, *, waiting: Callable[[], None]) -> Iterator[None]:
        """Hold the folder's lock among all processes; `waiting` is called while another one has it.

        Parallel builds would distort the timings by which each selects its kernels. The operating system releases the
        lock of a killed process.
        """
        with cache_errors(self.folder):
            file = (self.folder / LOCK).open("ab")
        with file:
            while not _try_lock(file.fileno(), self.folder):
                waiting()
                time.sleep(POLL_SECONDS)
            yield

    def sweep(self) -> None:
        """Remove leftovers of killed builds; call it only with the lock, since otherwise a build may be running."""
        for left in self.folder.glob(f"{TEMPORARY}*"):
            shutil.rmtree(str(left), ignore_errors=True)

    @contextmanager
    def beside(self, final: Path) -> Iterator[Path]:
        """Yield an empty folder that is renamed to `final` at the end, or removed on an exception."""
        with cache_errors(self.folder):
            made = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=str(self.folder)))
        try:
            yield made
            with cache_errors(self.folder):
                # For other users who collect the files; mkdtemp() allows only the owner.
                made.chmod(0o755)
                _replace(made, final)
        finally:
            shutil.rmtree(str(made), ignore_errors=True)


@contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """Convert an `OSError` of the cache to a `CacheError` with the cure."""
    try:
        yield
    except OSError as error:
        raise CacheError(f"the engine cache {folder} cannot be used: {error}. {_cure(error)}") from None


def _try_lock(number: int, folder: Path) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise CacheError(
            f"the engine cache {folder} is on a file system without file locks ({error}). Set ENGINE_CACHE to a "
            "local volume."
        ) from None
    return True


def _replace(made: Path, final: Path) -> None:
    """Move `made` to `final`; a non-empty folder cannot be overwritten, so it is renamed away first."""
    if final.exists():
        old = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=str(final.parent)))
        final.rename(old / final.name)
        shutil.rmtree(str(old), ignore_errors=True)
    made.rename(final)


def _cure(error: OSError) -> str:
    if error.errno in FULL:
        return "The disk is full: free some space, or set ENGINE_CACHE to a larger volume."
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"User {os.getuid()} cannot write to it: change the owner (chown -R {os.getuid()} FOLDER), or mount "
            "another volume."
        )
    if error.errno == errno.EROFS:
        return "Mount a volume there (docker run -v engines:/var/cache/edge-deploy), or set ENGINE_CACHE to one."
    return "Mount a writable volume, and set ENGINE_CACHE to its folder."
