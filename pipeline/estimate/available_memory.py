"""Memory that this process may use: the machine's, or the limit of its control groups.

Supports version 1 and 2 of control groups, see cgroups(7). A group's limit never exceeds those above it.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

KIB = 1024


@dataclass(frozen=True, kw_only=True)
class Capacity:
    total: int
    """Bytes of the machine, or the smallest limit of its control groups."""
    available: int
    """Unused bytes, without file caches."""
    limited_by: str | None = None
    """The file with a limit below the machine's memory; None: the machine itself."""


@dataclass(frozen=True, kw_only=True)
class _Group:
    folder: Path
    limit: str
    """File names: the limit, and the use."""
    used: str
    cache: str
    """Key in `memory.stat` for file pages that can be dropped, of this group and those below it."""


def capacity(root: Path = Path("/")) -> Capacity:
    """Return the capacity of this process; `root` contains `proc` and `sys`."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    facts = _facts(root / "proc" / "meminfo", unit=KIB)
    total = facts.get("MemTotal:", total)
    available, limited_by = facts.get("MemAvailable:", total), None
    for group in _groups(root):
        limit = _number(group.folder / group.limit)
        # "max", and in version 1 a number above all existing memory, mean no limit.
        if limit is None or limit >= facts.get("MemTotal:", total):
            continue
        if limit < total:
            total, limited_by = limit, str(group.folder / group.limit)
        used = (_number(group.folder / group.used) or 0) - _facts(group.folder / "memory.stat").get(group.cache, 0)
        available = min(available, max(0, limit - used))
    return Capacity(total=total, available=min(available, total), limited_by=limited_by)


def gib(size: int) -> str:
    """Return bytes as text in GiB."""
    return f"{size / 2**30:.1f} GiB"


def _groups(root: Path) -> Iterator[_Group]:
    """Yield the groups of this process, each with all visible ones above it."""
    mounts = dict(_mounts(root))
    for line in _lines(root / "proc" / "self" / "cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "" and "cgroup2" in mounts:
            files, mount = ("memory.max", "memory.current", "inactive_file"), mounts["cgroup2"]
        elif "memory" in controllers.split(",") and "cgroup" in mounts:
            files = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            mount = mounts["cgroup"]
        else:
            continue
        top, shown = mount
        limit, used, cache = files
        for folder in _upwards(root / top.lstrip("/"), path, shown):
            yield _Group(folder=folder, limit=limit, used=used, cache=cache)


def _upwards(top: Path, path: str, shown: str) -> Iterator[Path]:
    """Yield folders from a group up to `top`, where the group `shown` is mounted: a container sees only a part."""
    group, start = PurePosixPath(path), PurePosixPath(shown)
    inside = group.relative_to(start) if group.is_relative_to(start) else PurePosixPath()
    if ".." in inside.parts:
        inside = PurePosixPath()
    for part in (inside, *inside.parents):
        yield top / part


def _mounts(root: Path) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the mount points of the groups' file systems, and the group at the top of each."""
    for line in _lines(root / "proc" / "self" / "mountinfo"):
        before, _, after = line.partition(" - ")
        fields, (kind, _, options) = before.split(), after.split(maxsplit=2)
        if kind == "cgroup2" or (kind == "cgroup" and "memory" in options.split(",")):
            yield kind, (fields[4], fields[3])


def _facts(file: Path, *, unit: int = 1) -> dict[str, int]:
    rows = (line.split() for line in _lines(file))
    return {row[0]: int(row[1]) * unit for row in rows if len(row) > 1 and row[1].isdecimal()}


def _number(file: Path) -> int | None:
    text = "".join(_lines(file)).strip()
    return int(text) if text.isdecimal() else None


def _lines(file: Path) -> list[str]:
    """Return the lines, or none if there is no such file, as on another system."""
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
