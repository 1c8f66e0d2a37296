"""Files in a folder or a zip, by their relative names.

Also an index of facts about files, so that an unchanged dataset is recognized without reading it again.
"""

import errno
import json
import os
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from pipeline.errors import DataError
from pipeline.progress import Progress, Silent

Stamp = tuple[int, ...]
"""Size, modification and change time in ns; concatenated for several files."""

# A file changed twice within one tick of the file system's clock keeps its stamp: files that new are not indexed.
SETTLED_NS = 2_000_000_000
SCHEMA = 1
Roots = dict[str, dict[str, tuple[list[int], str]]]
"""Stamp and fact by root and name."""


def stamp_of(status: os.stat_result) -> Stamp:
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Index:
    """Facts (strings) by root, name and stamp, kept in one JSON file; without a file nothing is kept."""

    def __init__(self, path: Path | None, progress: Progress | None = None) -> None:
        self._path = path
        self._progress = progress or Silent()

    def facts(self, root: str, stamps: Mapping[str, Stamp], find_out: Callable[[str], str]) -> dict[str, str]:
        """Return the fact of every name: the kept one if the stamp is unchanged, else `find_out(name)`, in parallel.

        An empty fact means that it could not be determined; it is not kept.
        """
        roots = self._read()
        known = roots.get(root, {})
        facts: dict[str, str] = {}
        for name, stamp in stamps.items():
            if name in known and known[name][0] == list(stamp):
                facts[name] = known[name][1]
        missing = [name for name in stamps if name not in facts]
        settled_before = time.time_ns() - SETTLED_NS
        with (
            ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool,
            self._progress.task("read files", len(missing)) as advance,
        ):
            for name, fact in zip(missing, pool.map(find_out, missing), strict=True):
                facts[name] = fact
                advance()
        if missing or len(known) != len(facts):
            # The times are by far the largest numbers of a stamp, so its maximum is the newest time.
            settled = {
                name: (list(s), facts[name]) for name, s in stamps.items() if facts[name] and max(s) < settled_before
            }
            self._write(roots | {root: settled})
        return facts

    def _read(self) -> Roots:
        if self._path is None:
            return {}
        try:
            raw = json.loads(self._path.read_text())
            return dict(raw["roots"]) if raw["schema"] == SCHEMA else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}  # all facts are determined again

    def _write(self, roots: Roots) -> None:
        if self._path is None:
            return
        kept = {root: facts for root, facts in roots.items() if Path(root).exists()}
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps({"schema": SCHEMA, "roots": kept}))
            temporary.replace(self._path)
        except OSError as error:
            # The workspace is read-only; facts that are not kept are determined again.
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise


MAX_FILE_BYTES = 2**29


class Tree(Protocol):
    @property
    def root(self) -> str:
        """Absolute path of the folder or zip."""

    @property
    def files(self) -> Mapping[str, Stamp]:
        """Relative names (`train/cat/1.png`) in order, without hidden files; the stamp begins with the size."""

    @property
    def folders(self) -> frozenset[str]:
        """Relative names of all folders, without hidden ones."""

    def read(self, name: str) -> bytes:
        """Return a file's bytes; raise `DataError` with its name."""


class FolderTree:
    def __init__(self, path: Path) -> None:
        self.root = str(path.resolve())
        self._found_folders: set[str] = set()
        self.files: dict[str, Stamp] = dict(sorted(self._walk("", frozenset())))
        self.folders = frozenset(self._found_folders)

    def read(self, name: str) -> bytes:
        try:
            return Path(self.root, name).read_bytes()
        except OSError as error:
            raise DataError(f"{name} cannot be read: {error.strerror}") from None

    def _walk(self, folder: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, Stamp]]:
        here = Path(self.root, folder).stat()
        if (here.st_dev, here.st_ino) in above:  # a symbolic link to a parent folder
            return
        with os.scandir(Path(self.root, folder)) as entries:
            for entry in entries:
                name = f"{folder}{entry.name}"
                if is_hidden(entry.name):
                    continue
                if entry.is_dir():
                    self._found_folders.add(name)
                    yield from self._walk(f"{name}/", above | {(here.st_dev, here.st_ino)})
                else:
                    yield name, self._stamp(entry, name)

    @staticmethod
    def _stamp(entry: os.DirEntry[str], name: str) -> Stamp:
        try:
            return stamp_of(entry.stat())
        except OSError as error:  # a broken link
            raise DataError(f"{name} cannot be read: {error.strerror}. Replace or remove it.") from None


class ZipTree:
    """A zip file; if a single folder contains everything else, it is the root."""

    def __init__(self, path: Path) -> None:
        self.root = str(path.resolve())
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise DataError(f"{path} is neither a folder nor a valid zip file: {error}.") from None
        members = {
            name: info
            for name, info in sorted(_list_members(self._zip.infolist()), key=lambda member: member[0])
            if not any(is_hidden(part) for part in name.rstrip("/").split("/"))
        }
        self._prefix = _only_top_folder(members)
        status = path.stat()
        self._members = {
            name.removeprefix(self._prefix): info for name, info in members.items() if not name.endswith("/")
        }
        self.files: dict[str, Stamp] = {
            name: (info.file_size, info.CRC, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            for name, info in self._members.items()
        }
        self.folders = frozenset(_folders(name.removeprefix(self._prefix) for name in members))

    def __reduce__(self) -> tuple[type["ZipTree"], tuple[Path]]:
        return ZipTree, (Path(self.root),)

    def read(self, name: str) -> bytes:
        info = self._members[name]
        if info.file_size > MAX_FILE_BYTES:
            raise DataError(f"{name} cannot be read: it unpacks to {info.file_size} bytes")
        try:
            return self._zip.read(info)
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise DataError(f"{name} cannot be read: {error}") from None


def open_tree(path: Path) -> Tree:
    if not path.exists():
        raise DataError(f"the dataset {path} does not exist. Give a folder or zip with train/<class> and val/<class>.")
    return FolderTree(path) if path.is_dir() else ZipTree(path)


def is_hidden(part: str) -> bool:
    """Whether it is a dot file, or a file that macOS and Windows leave in folders."""
    return part.startswith(".") or part in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _list_members(members: Sequence[zipfile.ZipInfo]) -> list[tuple[str, zipfile.ZipInfo]]:
    """Return members by name; old Windows tools separate folders by backslashes, against the format."""
    is_foreign = not any("/" in info.filename for info in members)
    return [(info.filename.replace("\\", "/") if is_foreign else info.filename, info) for info in members]


def _only_top_folder(members: Mapping[str, zipfile.ZipInfo]) -> str:
    tops = {name.split("/", 1)[0] for name in members}
    if len(tops) != 1 or not all("/" in name for name in members) or tops & {"train", "val"}:
        return ""
    return f"{tops.pop()}/"


def _folders(names: Iterator[str]) -> Iterator[str]:
    for name in names:
        parts = name.split("/")[:-1]
        yield from ("/".join(parts[: depth + 1]) for depth in range(len(parts)))
