"""Check that a finished stage's files are unchanged: a flipped bit is detected before the files are used.

A file with unchanged size and time counts as unchanged; otherwise its content is hashed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pipeline.errors import WorkspaceError
from pipeline.workspace.hashing import Json, sha256_of_file


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """One file when its stage was finished."""

    size: int
    modified_ns: int
    sha256: str


def records_of(folder: Path, *, leave_out: Iterable[str] = ()) -> dict[str, FileRecord]:
    """Return all files under `folder`, by relative name in order."""
    left_out = set(leave_out)
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in left_out:
            status = path.stat()
            found[name] = FileRecord(size=status.st_size, modified_ns=status.st_mtime_ns, sha256=sha256_of_file(path))
    return found


def digest_of(records: Mapping[str, FileRecord], *, leave_out: Iterable[str] = ()) -> str:
    """Return the hex SHA-256 of names and contents, equal to `pipeline.workspace.hashing.sha256_of_folder`."""
    left_out = set(leave_out)
    digest = sha256()
    for name, record in records.items():
        if name not in left_out:
            digest.update(f"{name}\0{record.sha256}\n".encode())
    return digest.hexdigest()


def check_files(folder: Path, records: Mapping[str, FileRecord], *, thoroughly: bool = False) -> None:
    """Raise `WorkspaceError` for the first changed file.

    `thoroughly`: hash all files, even with unchanged size and time.
    """
    for name, record in records.items():
        try:
            status = (folder / name).stat()
            if status.st_size != record.size:
                raise WorkspaceError(f"{name} has {status.st_size:,} bytes, but {record.size:,} were written")
            is_touched = status.st_mtime_ns != record.modified_ns
            if (thoroughly or is_touched) and sha256_of_file(folder / name) != record.sha256:
                raise WorkspaceError(f"{name} has changed since it was written")
        except OSError as error:
            raise WorkspaceError(f"{name} cannot be read ({error.strerror})") from None


def to_json(records: Mapping[str, FileRecord]) -> dict[str, Json]:
    return {name: [record.size, record.modified_ns, record.sha256] for name, record in records.items()}


def from_json(raw: Mapping[str, list[object]]) -> dict[str, FileRecord]:
    """Parse the output of `to_json`; raise `ValueError` or `TypeError` for anything else."""
    found = {}
    for name, (size, modified_ns, content) in raw.items():
        if not (isinstance(size, int) and isinstance(modified_ns, int) and isinstance(content, str)):
            raise TypeError(f"the record of {name} is damaged")
        found[name] = FileRecord(size=size, modified_ns=modified_ns, sha256=content)
    return found
