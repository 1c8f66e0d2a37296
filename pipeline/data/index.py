"""Remembered facts about files, so that an unchanged data set is not read again just to be recognised."""

import errno
import json
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.progress import Progress, Silent

Stamp = tuple[int, ...]
"""Size, modification and change time in ns; of several files one after the other."""

# A file changed twice within one tick of the file system's clock keeps its stamp: such young ones are not remembered.
SETTLED_NS = 2_000_000_000
SCHEMA = 1
Roots = dict[str, dict[str, tuple[list[int], str]]]
"""Stamp and fact by root and name."""


def stamp_of(status: os.stat_result) -> Stamp:
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


class Index:
    """Facts (strings) by root, name and stamp, kept in one JSON file; without a file nothing is remembered."""

    def __init__(self, path: Path | None, progress: Progress | None = None) -> None:
        self._path = path
        self._progress = progress or Silent()

    def facts(self, root: str, stamps: Mapping[str, Stamp], find_out: Callable[[str], str]) -> dict[str, str]:
        """The fact of every name: remembered where the stamp is unchanged, else by `find_out(name)`, in parallel.

        An empty fact says that nothing could be found out; it is not remembered.
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
            # The times are by far the largest numbers of a stamp, so its maximum is the newest of them.
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
            return {}  # nothing is lost: everything is found out again

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
            # Of a workspace that is only read; what is not remembered is found out again.
            if error.errno not in (errno.EROFS, errno.EACCES):
                raise
