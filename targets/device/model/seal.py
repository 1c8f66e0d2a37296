"""`seal.json`: one hash over all files of an image's model folder; the server refuses a folder that does not match.

It covers the manifest (with classes and preprocessing), the gate's report, the golden images, the model, and for
TensorRT the shard, the terms of the first start and the other precisions. The image stores the hash outside the
folder, too: in MODEL_SEAL and in a label. An artifact that was not packaged has no seal and is read without one.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Dict, Optional

from targets.device.files import IMAGES_MODEL
from targets.device.model.manifest import ManifestError, sha256_of

SCHEMA = 1
FILE = "seal.json"
VARIABLE = "MODEL_SEAL"
CURE = "Build or pull the image again; if the error recurs, check the disk."


class SealError(ManifestError):
    """The model folder does not match the packaged one."""


def write_seal(folder: Path) -> str:
    """Write `seal.json` over all files below `folder`, including sealed subfolders; return the hash."""
    files = {name: sha256_of(path) for name, path in _files_in(folder).items()}
    (folder / FILE).write_bytes(_render(files))
    return _hash_of(files)


def check_seal(folder: Path, stated: Optional[str] = None) -> None:
    """Raise `SealError` if a file of `folder` is missing, added or changed since packaging.

    `stated` is the hash that the image stores outside the folder. A folder without a seal and without a stated hash
    was never packaged.
    """
    path = folder / FILE
    try:
        contents = path.read_bytes()
    except FileNotFoundError:
        if stated is None:
            return
        raise SealError(f"{path} is missing, although the image has its hash ({VARIABLE}). {CURE}") from None
    except OSError as error:
        raise SealError(f"{path} cannot be read: {error}. {CURE}") from None
    files = _parse(path, contents)
    found = _hash_of(files)
    if stated is not None and found != stated:
        raise SealError(f"{path} has the hash {found[:16]}..., but the image expects {stated[:16]}.... {CURE}")
    _check_files(folder, files)


def stated_for(folder: Path) -> Optional[str]:
    """Return the hash in MODEL_SEAL if `folder` is the image's own model folder; None for a mounted one."""
    is_own = folder.resolve() == Path(os.environ.get("MODEL_FOLDER", IMAGES_MODEL)).resolve()
    return os.environ.get(VARIABLE) if is_own else None


def _check_files(folder: Path, files: Dict[str, str]) -> None:
    try:
        there = _files_in(folder)
        differing = sorted(set(there) ^ set(files))
        if differing:
            what = "was not packaged" if differing[0] in there else "is missing"
            raise SealError(f"{folder / differing[0]} {what}. {CURE}")
        for name, path in there.items():
            if sha256_of(path) != files[name]:
                raise SealError(f"{path} has changed since it was packaged. {CURE}")
    except OSError as error:
        raise SealError(f"{folder} cannot be read: {error}. {CURE}") from None


def _files_in(folder: Path) -> Dict[str, Path]:
    """Return all files except the seal, by relative name, sorted."""
    found = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if not path.is_dir()}
    found.pop(FILE, None)
    return found


def _hash_of(files: Dict[str, str]) -> str:
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(files.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def _render(files: Dict[str, str]) -> bytes:
    raw = {"schema": SCHEMA, "seal": _hash_of(files), "files": files}
    return (json.dumps(raw, indent=2, sort_keys=True) + "\n").encode()


def _parse(path: Path, contents: bytes) -> Dict[str, str]:
    """Return the files' hashes. The seal has one canonical form, so that any changed byte is found."""
    try:
        raw: Any = json.loads(contents)
        schema, files = raw["schema"], raw["files"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise SealError(f"{path} is damaged: {error!r}. {CURE}") from None
    if schema != SCHEMA:
        raise SealError(f"{path} has schema {schema!r}, but this version supports {SCHEMA}. {CURE}")
    is_listing = isinstance(files, dict) and all(isinstance(digest, str) for digest in files.values())
    if not is_listing or contents != _render(files):
        raise SealError(f"{path} is damaged: its contents do not match its own hash. {CURE}")
    return dict(files)
