"""Content hashes, used for stage keys and the identity of artifacts."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


def sha256_of_file(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: Json) -> str:
    """Return the hex SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of_folder(folder: Path, *, leave_out: Iterable[str] = ()) -> str:
    """Return the hex SHA-256 of the relative names and contents of all files under `folder`."""
    left_out = set(leave_out)
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in left_out:
            digest.update(f"{name}\0{sha256_of_file(path)}\n".encode())
    return digest.hexdigest()
