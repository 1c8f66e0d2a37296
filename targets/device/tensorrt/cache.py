"""The folder that engines are kept in, a volume that several containers may share: written, locked, and explained."""

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
"""What a folder that is being written is called; nobody takes it for a finished one."""
POLL_SECONDS = 0.2
# Engine, timing cache and report of the smallest networks; a model's own size is added twice.
SPARE_BYTES = 16 * MEBIBYTE
FULL = (errno.ENOSPC, errno.EDQUOT)


class Cache:
    """One folder; every failure to use it is a `CacheError` with the cure."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self, model_bytes: int) -> None:
        """See that it is there, can be written, and has room for the engine of a model of so many bytes."""
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=str(self.folder)):
                pass
            free = shutil.disk_usage(str(self.folder)).free
        # An engine holds the weights and what kernels add to them.
        wanted = 2 * model_bytes + SPARE_BYTES
        if free < wanted:
            raise CacheError(
                f"the engine cache {self.folder} has {free // MEBIBYTE} MiB left, and an engine of this model may "
                f"need {-(-wanted // MEBIBYTE)}. Free some, or set ENGINE_CACHE to a larger volume."
            )

    @contextmanager
    def locked(self, *, waiting: Callable[[], None]) -> Iterator[None]:
        """Alone among all processes that use this folder; `waiting` is called while another one has it.

        One at a time: builds beside each other would spoil the times that each chooses its kernels by. The kernel
        frees the lock of a process that was killed.
        """
        with explained(self.folder):
            file = (self.folder / LOCK).open("ab")
        with file:
            while not _try_lock(file.fileno(), self.folder):
                waiting()
                time.sleep(POLL_SECONDS)
            yield

    def sweep(self) -> None:
        """Remove what killed builds have left; only under the lock, so that it is nobody's work."""
        for left in self.folder.glob(f"{TEMPORARY}*"):
            shutil.rmtree(str(left), ignore_errors=True)

    @contextmanager
    def beside(self, final: Path) -> Iterator[Path]:
        """An empty folder that becomes `final` as a whole, or is removed where what fills it raises."""
        with explained(self.folder):
            made = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=str(self.folder)))
        try:
            yield made
            with explained(self.folder):
                # For whoever collects it from the volume; mkdtemp() lets nobody else in.
                made.chmod(0o755)
                _replace(made, final)
        finally:
            shutil.rmtree(str(made), ignore_errors=True)


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """What the operating system says of the cache, as a `CacheError` with the cure."""
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
            f"the engine cache {folder} lies where files cannot be locked ({error}). Set ENGINE_CACHE to a "
            "local volume."
        ) from None
    return True


def _replace(made: Path, final: Path) -> None:
    """A folder cannot be renamed onto another that holds something, so the old one is renamed away first."""
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
            f"User {os.getuid()} may not write there: let it (chown -R {os.getuid()} FOLDER), or mount another volume."
        )
    if error.errno == errno.EROFS:
        return "Mount a volume there (docker run -v engines:/var/cache/edge-deploy), or set ENGINE_CACHE to one."
    return "Mount a volume that can be written, and set ENGINE_CACHE to its folder."
