"""Files below a folder or inside a zip, by their relative names."""

import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from pipeline.data.index import Stamp, stamp_of
from pipeline.errors import DataError

MAX_FILE_BYTES = 2**29


class Tree(Protocol):
    @property
    def root(self) -> str:
        """Absolute path of the folder or zip."""

    @property
    def files(self) -> Mapping[str, Stamp]:
        """Relative names (`train/cat/1.png`) in order, hidden ones left out; the stamp begins with the size."""

    @property
    def folders(self) -> frozenset[str]:
        """Relative names of all folders, hidden ones left out."""

    def read(self, name: str) -> bytes:
        """A file's bytes; raises `DataError` with its name."""


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
        if (here.st_dev, here.st_ino) in above:  # a symbolic link back to a folder it lies in
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
    """A zip file; one folder that holds everything else is looked through."""

    def __init__(self, path: Path) -> None:
        self.root = str(path.resolve())
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise DataError(f"{path} is neither a folder nor a sound zip file: {error}.") from None
        members = {
            name: info
            for name, info in sorted(_named(self._zip.infolist()), key=lambda member: member[0])
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
        raise DataError(
            f"the data set {path} does not exist. Give a folder or zip with train/<class> and val/<class>."
        )
    return FolderTree(path) if path.is_dir() else ZipTree(path)


def is_hidden(part: str) -> bool:
    """Dot files, and what macOS and Windows leave in folders."""
    return part.startswith(".") or part in ("__MACOSX", "Thumbs.db", "desktop.ini")


def _named(members: Sequence[zipfile.ZipInfo]) -> list[tuple[str, zipfile.ZipInfo]]:
    """Members by their names; old tools of Windows part folders by backslashes, against the format."""
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
