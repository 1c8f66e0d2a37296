"""State of a training, saved after every epoch, so that an interrupted training resumes with the next epoch.

The file: one line of JSON (what it is bound to, its progress, the hash of the rest), then the state as bytes. It is
replaced by a rename, so that a kill at any moment leaves the old state or the new one. A state that is damaged, or of
another training, is set aside and never used. A state that cannot be written does not stop the training: its
protection must not end hours of work.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from pipeline.errors import WorkspaceError
from pipeline.progress import Progress
from pipeline.workspace.hashing import Json, sha256_of_json

SCHEMA = 1
STATE = "state"
"""The file's name in a stage's folder."""
ASIDE = ".set-aside"
LONGEST_HEADER = 4096


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A state that was read and matches."""

    epochs: int
    """Done."""
    seconds: float
    """Duration of the epochs, in all processes."""
    state: bytes


@dataclass(frozen=True, kw_only=True)
class Header:
    fingerprint: str
    epochs: int
    seconds: float
    sha256: str = ""

    def checksum(self, state: bytes) -> str:
        """Return the hash of the state and of this header's values."""
        digest = sha256(json.dumps([self.fingerprint, self.epochs, self.seconds]).encode())
        digest.update(state)
        return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """One training's file, and what it is bound to: data, options and code, as a hash of them or a stage's key."""

    file: Path
    fingerprint: str

    def bound_to(self, facts: Json) -> "Continuation":
        """Return the same file, also bound to `facts`."""
        return replace(self, fingerprint=sha256_of_json([self.fingerprint, facts]))

    def read(self, name: str, progress: Progress) -> Kept | None:
        """Return the saved state, or None; an unusable one is set aside with a message."""
        try:
            with self.file.open("rb") as file:
                header, state = _header(file.readline(LONGEST_HEADER)), file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            self.set_aside(f"cannot be read ({error.strerror})", name, progress)
            return None
        if header is None or header.checksum(state) != header.sha256:
            self.set_aside("is damaged", name, progress)
            return None
        if header.fingerprint != self.fingerprint:
            self.set_aside("is from another training (other data, options, code or network)", name, progress)
            return None
        return Kept(epochs=header.epochs, seconds=header.seconds, state=state)

    def keep(self, state: bytes, *, epochs: int, seconds: float, name: str, progress: Progress) -> None:
        """Replace the saved state; if the disk does not allow it, print a warning and leave the older state."""
        header = Header(fingerprint=self.fingerprint, epochs=epochs, seconds=round(float(seconds), 3))
        header = replace(header, sha256=header.checksum(state))
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with _replace_file(self.file) as temporary, temporary.open("wb") as file:
                file.write(json.dumps({"schema": SCHEMA, **vars(header)}).encode() + b"\n")
                file.write(state)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            progress.line(
                f"warning: {name}: the state after epoch {epochs} cannot be written to {self.file} "
                f"({error.strerror}). Training continues; if its process ends, it resumes from an earlier epoch or "
                "starts from the beginning."
            )

    def set_aside(self, what: str, name: str, progress: Progress) -> None:
        """Rename the file and print why; raise `WorkspaceError` if it cannot be renamed."""
        aside = self.file.with_name(self.file.name + ASIDE)
        try:
            self.file.replace(aside)
        except OSError as error:
            raise WorkspaceError(
                f"{name}: the saved training state {self.file} {what}, and cannot be renamed: "
                f"{error.strerror}. Remove it and run again."
            ) from None
        progress.line(f"{name}: starts from the beginning: the state {self.file} {what}. It was renamed to {aside}.")

    def remove(self) -> None:
        """Remove the file when the training is done and its result is saved."""
        self.file.unlink(missing_ok=True)
        _temporary(self.file).unlink(missing_ok=True)


def progress_of(folder: Path) -> tuple[int, float]:
    """Return the epochs saved in a stage's folder, and their seconds; zeros if there are none."""
    try:
        with (folder / STATE).open("rb") as file:
            header = _header(file.readline(LONGEST_HEADER))
    except OSError:
        header = None
    return (0, 0.0) if header is None else (header.epochs, header.seconds)


def _header(line: bytes) -> Header | None:
    """Return None if the line is not one of our headers."""
    try:
        raw = json.loads(line)
        if raw["schema"] != SCHEMA:
            return None
        return Header(
            fingerprint=str(raw["fingerprint"]),
            epochs=int(raw["epochs"]),
            seconds=float(raw["seconds"]),
            sha256=str(raw["sha256"]),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


@contextmanager
def _replace_file(path: Path) -> Iterator[Path]:
    """Yield a file beside `path` that replaces it once it is complete."""
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    # Always the same name, so that the next process replaces what a killed one left.
    return path.with_name(f".{path.name}.part")
