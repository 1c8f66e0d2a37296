"""A content-addressed workspace: finished work is never repeated, a partly written folder never counts as finished.

Layout: `<root>/<stage>/<key>/` with the stage's files and `manifest.json`. A key is the hash of the stage's inputs
(contents, never paths or times), its options and the source of its code. A folder appears by one
rename after all of it is on the disk; unfinished work is in `<root>/tmp`, a training that can be resumed
after a kill in `<root>/training`, until its stage is finished.
"""

import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline import __version__
from pipeline.errors import WorkspaceError
from pipeline.progress import Progress, Silent
from pipeline.untrusted import on_one_line
from pipeline.workspace.code_version import code_version
from pipeline.workspace.hashing import Json, sha256_of_json
from pipeline.workspace.integrity import FileRecord, check_files, digest_of, from_json, records_of, to_json
from pipeline.workspace.training_state import STATE, Continuation, progress_of

SCHEMA = 1
RECORD = "stage.json"
# Files that differ between two runs of the same work: kept, but not part of a stage's digest.
TIMINGS = "timings.json"
TRAINING = "training"
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,250}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class StageKey:
    """The identity of one piece of work."""

    stage: str
    inputs: Mapping[str, str]
    options: Mapping[str, Json]
    code: str

    @property
    def key(self) -> str:
        return sha256_of_json(
            {
                "stage": self.stage,
                "inputs": dict(self.inputs),
                "options": dict(self.options),
                "code": self.code,
            }
        )[:16]


@dataclass(frozen=True, kw_only=True)
class Folder:
    """A finished stage."""

    path: Path
    digest: str
    """Hash of its files without record and timings: equal work gives equal digests."""
    seconds: float
    """Duration of the work."""
    was_cached: bool


@dataclass(frozen=True, kw_only=True)
class Record:
    """Content of a finished stage's `stage.json`."""

    stage: str
    digest: str
    seconds: float
    files: Mapping[str, FileRecord]


def read_record(folder: Path) -> Record:
    """Read the record; raise `WorkspaceError` if it is damaged, for example by a power loss."""
    try:
        raw = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return Record(
            stage=str(raw["stage"]),
            digest=str(raw["digest"]),
            seconds=float(raw["seconds"]),
            files=from_json(raw["files"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WorkspaceError(f"{RECORD} cannot be read ({error})") from None


class NotDone(Exception):
    """Raised instead of working in a read-only view of the workspace; `deploy plan` ends there."""

    def __init__(self, stage: str, *, epochs_done: int = 0) -> None:
        super().__init__(stage)
        self.stage = stage
        self.epochs_done = epochs_done
        """Epochs of its interrupted training."""


class Workspace:
    """One `.deploy` folder; hold `locked()` while stages are obtained."""

    def __init__(self, root: Path, *, only_look: bool = False, progress: Progress | None = None) -> None:
        """`progress` gets a line for each damaged stage that is made again."""
        self.root = root
        self.only_look = only_look
        self.is_read_only = False
        """Whether only finished stages can be used, because it cannot be written."""
        self._progress = progress or Silent()
        self._places: dict[str, Path] = {}
        """Of the finished stages that were found, by digest."""
        self.before_work: Callable[[str], None] | None = None
        """Called with the name of each stage that is not done yet."""

    def dry_run(self) -> "Workspace":
        """Return the same workspace without work: a missing stage raises `NotDone`."""
        return Workspace(self.root, only_look=True, progress=self._progress)

    def key(
        self,
        stage: str,
        *,
        module: str,
        inputs: Mapping[str, str],
        options: Mapping[str, Json],
        leave_out: tuple[str, ...] = (),
    ) -> StageKey:
        """Return the key of a stage whose code is `module` (a dotted name) and all of our modules that it imports.

        `leave_out`: packages that it imports but does not run.
        """
        code = code_version(module, leave_out=leave_out)
        return StageKey(stage=stage, inputs=inputs, options=options, code=code)

    def path(self, key: StageKey) -> Path:
        return self.root / key.stage / key.key

    def find(self, key: StageKey) -> Folder | None:
        """Return the finished folder of this key, or None; a damaged one counts as not done, with a message."""
        path = self.path(key)
        if not (path / RECORD).is_file():
            return None
        try:
            record = read_record(path)
            check_files(path, record.files)
        except WorkspaceError as error:
            self._progress.line(f"{path} is damaged: {error}. Stage {key.stage} is repeated")
            return None
        self._places[record.digest] = path
        return Folder(path=path, digest=record.digest, seconds=record.seconds, was_cached=True)

    def check(self, *files: Path) -> None:
        """Hash the stages' files that are judged or leave the workspace, and everything made together with them.

        Comparing size and time, as `find` does, is not enough here. Raises `WorkspaceError` for a changed file; its
        stage is repeated in the next build.
        """
        folders = {self.root / Path(*file.relative_to(self.root).parts[:2]) for file in files}
        for folder in sorted(folders):
            try:
                check_files(folder, read_record(folder).files, thoroughly=True)
            except WorkspaceError as error:
                shutil.rmtree(folder, ignore_errors=True)
                raise WorkspaceError(
                    f"{folder} is damaged: {error}. It was removed, and nothing of it was published. Run again: its "
                    "stage is repeated. If this happens again, check the disk and the memory."
                ) from None

    def obtain(self, key: StageKey, produce: Callable[[Path], None]) -> Folder:
        """Return the stage's folder: an existing one, or one produced now and moved into place atomically."""
        found = self.find(key)
        if found is not None:
            return found
        if not self.only_look:
            shutil.rmtree(self.path(key), ignore_errors=True)
        epochs_done, earlier = progress_of(self._training(key))
        if self.only_look:
            raise self._not_done(key.stage, epochs_done)
        if self.before_work is not None:
            self.before_work(key.stage)
        # Minutes of work will depend on them.
        self.check(*(self._places[digest] for digest in key.inputs.values() if digest in self._places))
        started = time.monotonic()
        with _disk_errors(self.root):
            working = self._working_folder(key)
            try:
                produce(working)
                self._finish(key, working, earlier + time.monotonic() - started)
                shutil.rmtree(self._training(key), ignore_errors=True)
            finally:
                shutil.rmtree(working, ignore_errors=True)
        done = self.find(key)
        assert done is not None
        return Folder(path=done.path, digest=done.digest, seconds=done.seconds, was_cached=False)

    def continuation(self, key: StageKey) -> Continuation:
        """Return the file of a stage's training until the stage is finished."""
        return Continuation(file=self._training(key) / STATE, fingerprint=key.key)

    def forget(self, key: StageKey) -> None:
        """Remove a finished folder whose result no longer exists, such as an image that the engine has lost."""
        if self.only_look:
            raise self._not_done(key.stage, 0)
        shutil.rmtree(self.path(key), ignore_errors=True)

    def _not_done(self, stage: str, epochs_done: int) -> Exception:
        if not self.is_read_only:
            return NotDone(stage, epochs_done=epochs_done)
        return WorkspaceError(
            f"stage {stage} is not done yet, and the workspace {self.root} cannot be written. Make it writable, "
            "or give another with --workspace."
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the workspace for one process; remove what killed processes left."""
        with _disk_errors(self.root):
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                (self.root / ".gitignore").write_text("*\n")
                lock = (self.root / "lock").open("a+")
            except OSError as error:
                if error.errno not in (errno.EROFS, errno.EACCES) or not self.root.is_dir():
                    raise
                # No other process can change it either, so no lock is needed.
                self.only_look = self.is_read_only = True
                self._progress.line(
                    f"note: {self.root} cannot be written ({error.strerror}): only finished stages are used"
                )
                yield
                return
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                owner = lock.read().strip() or "unknown"
                raise WorkspaceError(
                    f"the workspace {self.root} is in use by process {owner}. "
                    "Wait for it, or give another one with --workspace."
                ) from None
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            shutil.rmtree(self.root / "tmp", ignore_errors=True)
            yield
        finally:
            lock.close()

    def _training(self, key: StageKey) -> Path:
        return self.root / TRAINING / f"{key.stage}-{key.key}"

    def _working_folder(self, key: StageKey) -> Path:
        (self.root / "tmp").mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{key.stage}-", dir=self.root / "tmp"))

    def _finish(self, key: StageKey, working: Path, seconds: float) -> None:
        files = records_of(working)
        record: Json = {
            "schema": SCHEMA,
            "stage": key.stage,
            "inputs": dict(key.inputs),
            "options": dict(key.options),
            "code": key.code,
            "tool": __version__,
            "seconds": round(seconds, 3),
            "digest": digest_of(files, leave_out=(TIMINGS,)),
            "files": to_json(files),
        }
        (working / RECORD).write_text(json.dumps(record, indent=2, sort_keys=True))
        for path in working.rglob("*"):
            if path.is_file():
                _sync(path)
        destination = self.path(key)
        destination.parent.mkdir(parents=True, exist_ok=True)
        working.rename(destination)
        _sync(destination.parent)


def child(folder: Path, name: str) -> Path:
    """Return `folder`/`name` for the name of one entry; raise `WorkspaceError` for a path that leaves the folder.

    Names are checked when they are parsed; this is a second check before anything is replaced.
    """
    if not PLAIN.fullmatch(name):
        raise WorkspaceError(f"{on_one_line(name)!r} is not a valid name in {folder}: use letters, digits, . _ and -.")
    return folder / name


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` so that a reader sees the old or the new content, never a part."""
    with _disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(text)
        _sync(temporary)
        temporary.rename(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise WorkspaceError(
                f"the disk of {root} is full ({error.strerror}). Free some space (`deploy clean` removes old work) "
                "and run again: finished stages are kept."
            ) from None
        if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP):
            raise WorkspaceError(
                f"the workspace {root} cannot be a folder: {error.strerror} ({error.filename}). Give another with "
                "--workspace."
            ) from None
        if error.errno == errno.EISDIR:
            raise WorkspaceError(
                f"{error.filename2 or error.filename} is a folder, but the workspace {root} needs a file there. "
                "Remove it, or give another workspace with --workspace."
            ) from None
        if error.errno in (errno.EROFS, errno.EACCES) and str(error.filename or "").startswith(str(root)):
            raise WorkspaceError(f"{error.filename} cannot be written: {error.strerror}. Use --workspace.") from None
        raise
