"""`seal.json`: one hash over every file of an image's model folder; what differs from it by a byte is not served.

It binds the manifest (with classes and preprocessing), the gate's report, the golden images, the model, and of
TensorRT the shard, the terms of the first start and the other precisions. The image states the hash outside the
folder, too: as MODEL_SEAL and on a label. An artifact that was not packaged has no seal and is read without one.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, Optional

from targets.device.manifest import ManifestError, sha256_of
from targets.device.settings import Settings

SCHEMA = 1
FILE = "seal.json"
VARIABLE = "MODEL_SEAL"
CURE = "Build the image again, or pull it again where it was stored; if this comes back, suspect the disk."


class SealError(ManifestError):
    """A file of the model folder is not the one that was packaged."""


def write_seal(folder: Path) -> str:
    """Write `seal.json` over all files below `folder`, those of sealed folders in it included; returns the hash."""
    files = {name: sha256_of(path) for name, path in _files_in(folder).items()}
    (folder / FILE).write_bytes(_rendered(files))
    return _hash_of(files)


def check_seal(folder: Path, stated: Optional[str] = None) -> None:
    """Raise `SealError` where a file of `folder` is missing, added or not what was packaged.

    `stated` is the hash that the image gives outside the folder. A folder without a seal, of which none is stated,
    was never packaged.
    """
    path = folder / FILE
    try:
        contents = path.read_bytes()
    except FileNotFoundError:
        if stated is None:
            return
        raise SealError(f"{path} is missing, whose hash the image states ({VARIABLE}). {CURE}") from None
    except OSError as error:
        raise SealError(f"{path} cannot be read: {error}. {CURE}") from None
    files = _parsed(path, contents)
    found = _hash_of(files)
    if stated is not None and found != stated:
        raise SealError(f"{path} has the hash {found[:16]}..., the image states {stated[:16]}.... {CURE}")
    _check_files(folder, files)


def stated_for(folder: Path) -> Optional[str]:
    """The hash that the image states, where `folder` is its own; another that is mounted has nothing to do with it."""
    is_own = folder.resolve() == Settings().model_folder.resolve()
    return os.environ.get(VARIABLE) if is_own else None


def _check_files(folder: Path, files: Dict[str, str]) -> None:
    try:
        there = _files_in(folder)
        differing = sorted(set(there) ^ set(files))
        if differing:
            what = "is not among the files that were packaged" if differing[0] in there else "is missing"
            raise SealError(f"{folder / differing[0]} {what}. {CURE}")
        for name, path in there.items():
            if sha256_of(path) != files[name]:
                raise SealError(f"{path} is not the file that was packaged: its contents have changed. {CURE}")
    except OSError as error:
        raise SealError(f"{folder} cannot be read: {error}. {CURE}") from None


def _files_in(folder: Path) -> Dict[str, Path]:
    """All but the seal itself, by relative name in order."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    found.pop(FILE, None)
    return found


def _hash_of(files: Dict[str, str]) -> str:
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def _rendered(files: Dict[str, str]) -> bytes:
    raw = {"schema": SCHEMA, "seal": _hash_of(files), "files": files}
    return (json.dumps(raw, indent=2, sort_keys=True) + "\n").encode()


def _parsed(path: Path, contents: bytes) -> Dict[str, str]:
    """The files' hashes. The seal is written in one way only, so that any other byte in it is found."""
    try:
        raw: Any = json.loads(contents)
        schema, files = raw["schema"], raw["files"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SealError(f"{path} is damaged: {error!r}. {CURE}") from None
    if schema != SCHEMA:
        raise SealError(f"{path} has schema {schema!r}, this version reads {SCHEMA}. {CURE}")
    is_listing = isinstance(files, dict) and all(isinstance(digest, str) for digest in files.values())
    if not is_listing or contents != _rendered(files):
        raise SealError(f"{path} is damaged: its contents are not what its own hash says. {CURE}")
    return dict(files)
