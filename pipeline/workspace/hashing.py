"""Content hashes: what a stage's key and an artifact's identity are made of."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


def sha256_of_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_json(value: Json) -> str:
    """Hex SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_of_folder(folder: Path, *, leave_out: Iterable[str] = ()) -> str:
    """Hex SHA-256 over the relative names and contents of all files under `folder`."""
    left_out = set(leave_out)
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in left_out:
            digest.update(f"{name}\0{sha256_of_file(path)}\n".encode())
    return digest.hexdigest()
