import errno
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_trained import Recorded

from pipeline.cli.clean import clean
from pipeline.cli.status import status
from pipeline.errors import WorkspaceError
from pipeline.progress import Silent
from pipeline.workspace.store import RECORD, NotDone, StageKey, Workspace, write_atomically


def stage(**options: int) -> StageKey:
    return StageKey(stage="prune", inputs={"a": "1"}, options=dict(options), code="c")


def write(folder: Path) -> None:
    (folder / "result").write_text("42")


def test_done_work_is_not_redone(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    first = workspace.obtain(stage(), write)
    second = workspace.obtain(stage(), lambda folder: pytest.fail("worked again"))
    assert not first.was_cached
    assert second.was_cached
    assert second.path == first.path
    assert second.digest == first.digest


def test_another_option_is_another_key(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert workspace.obtain(stage(seed=0), write).path != workspace.obtain(stage(seed=1), write).path


def test_the_key_depends_on_every_part() -> None:
    base = StageKey(stage="s", inputs={"a": "1"}, options={"o": 1}, code="c")
    others = [
        StageKey(stage="t", inputs={"a": "1"}, options={"o": 1}, code="c"),
        StageKey(stage="s", inputs={"a": "2"}, options={"o": 1}, code="c"),
        StageKey(stage="s", inputs={"a": "1"}, options={"o": 2}, code="c"),
        StageKey(stage="s", inputs={"a": "1"}, options={"o": 1}, code="d"),
    ]
    assert len({base.key, *(other.key for other in others)}) == 5


def test_timings_are_no_part_of_the_digest(tmp_path: Path) -> None:
    def timed(folder: Path, ms: str) -> None:
        write(folder)
        (folder / "timings.json").write_text(ms)

    one = Workspace(tmp_path / "1").obtain(stage(), lambda folder: timed(folder, "1.0"))
    two = Workspace(tmp_path / "2").obtain(stage(), lambda folder: timed(folder, "2.0"))
    assert one.digest == two.digest


def test_a_failed_stage_leaves_nothing(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)

    def fail(folder: Path) -> None:
        write(folder)
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        workspace.obtain(stage(), fail)
    assert workspace.find(stage()) is None
    assert not any((tmp_path / "tmp").iterdir())


def test_a_folder_without_its_record_is_not_taken_for_finished(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    done = workspace.obtain(stage(), write)
    (done.path / RECORD).unlink()
    assert workspace.find(stage()) is None


DAMAGES: dict[str, Callable[[Path], object]] = {
    "one bit": lambda folder: (folder / "result").write_text("43"),
    "shorter": lambda folder: (folder / "result").write_text("4"),
    "gone": lambda folder: (folder / "result").unlink(),
    "a record cut by a power loss": lambda folder: (folder / RECORD).write_text('{"digest":'),
    "an empty record": lambda folder: (folder / RECORD).write_text(""),
    "a record of another kind": lambda folder: (folder / RECORD).write_text('["digest"]'),
    "timings": lambda folder: (folder / "timings.json").write_text("}"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_stage_is_named_and_done_again(damage: str, tmp_path: Path) -> None:
    progress = Recorded()
    workspace = Workspace(tmp_path, progress=progress)

    def fill(folder: Path) -> None:
        write(folder)
        (folder / "timings.json").write_text("{}")

    done = workspace.obtain(stage(), fill)
    DAMAGES[damage](done.path)
    with pytest.raises(NotDone):
        workspace.dry_run().obtain(stage(), fill)
    again = workspace.obtain(stage(), fill)
    assert not again.was_cached
    assert again.digest == done.digest
    assert (again.path / "result").read_text() == "42"
    assert all(line.startswith(f"{done.path} is damaged: ") for line in progress.lines)
    assert progress.lines[-1].endswith("Stage prune is repeated")
    assert workspace.obtain(stage(), fill).was_cached


def test_a_copied_workspace_is_as_good_as_its_original(tmp_path: Path) -> None:
    done = Workspace(tmp_path / "here").obtain(stage(), write)
    shutil.copytree(tmp_path / "here", tmp_path / "there", copy_function=shutil.copyfile)
    found = Workspace(tmp_path / "there").find(stage())
    assert found is not None
    assert found.digest == done.digest


def test_what_leaves_the_workspace_is_hashed_though_size_and_time_are_as_they_were(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    done = workspace.obtain(stage(), write)
    file = done.path / "result"
    status = file.stat()
    file.write_text("43")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert workspace.find(stage()) is not None
    with pytest.raises(WorkspaceError, match=r"result has changed since it was written.*Run again"):
        workspace.check(file)
    assert not workspace.obtain(stage(), write).was_cached
    workspace.check(file)


def test_status_says_which_stages_are_damaged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = Workspace(tmp_path)
    file = workspace.obtain(stage(), write).path / "result"
    status(workspace=tmp_path)
    assert "as written" in capsys.readouterr().out
    before = file.stat()
    file.write_text("43")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    status(workspace=tmp_path)
    assert "as written" in capsys.readouterr().out
    with pytest.raises(WorkspaceError, match=r"result has changed.*The next build makes them again"):
        status(workspace=tmp_path, verify=True)
    assert "damaged" in capsys.readouterr().out


def test_a_training_is_kept_until_its_stage_is_finished_and_counts_in_its_time(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    continuation = workspace.continuation(stage())

    def stop(folder: Path) -> None:
        continuation.keep(b"state", epochs=3, seconds=1000.0, name="recovery", progress=Silent())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        workspace.obtain(stage(), stop)
    with workspace.locked():
        kept = workspace.continuation(stage()).read("recovery", Silent())
    assert kept is not None
    assert kept.epochs == 3
    assert workspace.continuation(stage(seed=1)).read("recovery", Silent()) is None
    with pytest.raises(NotDone) as looked:
        workspace.dry_run().obtain(stage(), write)
    assert looked.value.epochs_done == 3
    done = workspace.obtain(stage(), write)
    assert 1000 <= done.seconds < 1100
    assert workspace.obtain(stage(), write).seconds == done.seconds
    assert list((tmp_path / "training").iterdir()) == []


def test_an_unfinished_training_is_shown_and_cleaned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    workspace = Workspace(tmp_path)
    workspace.continuation(stage()).keep(b"state", epochs=3, seconds=40.2, name="recovery", progress=Silent())
    with workspace.locked():
        pass
    status(workspace=tmp_path)
    assert "an unfinished training, resumes after epoch 3 (40 s of work)" in capsys.readouterr().out
    clean(workspace=tmp_path, everything=False)
    assert {path.name for path in tmp_path.iterdir()} == {"lock", ".gitignore"}


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(WorkspaceError, match=r"disk of .* is full.*deploy clean"):
        Workspace(tmp_path).obtain(stage(), fill)


def test_only_one_process_works_in_a_workspace(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with (
        workspace.locked(),
        pytest.raises(WorkspaceError, match=f"in use by process {os.getpid()}"),
        workspace.locked(),
    ):
        pytest.fail("locked twice")
    with workspace.locked():
        pass


def _work_slowly(root: Path) -> None:
    workspace = Workspace(root)

    def produce(folder: Path) -> None:
        for index in range(1000):
            (folder / str(index)).write_text("x" * 1000)
            time.sleep(0.002)

    with workspace.locked():
        workspace.obtain(stage(), produce)


def test_a_killed_process_leaves_no_finished_folder_and_no_lock(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_work_slowly, args=(tmp_path,))
    process.start()
    while not list((tmp_path / "tmp").glob("*/10")):
        assert process.is_alive()
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    workspace = Workspace(tmp_path)
    with workspace.locked():
        assert workspace.find(stage()) is None
        assert not (tmp_path / "tmp").exists()
        assert not workspace.obtain(stage(), write).was_cached


def test_an_atomic_write_replaces_the_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "report.json"
    write_atomically(path, "a longer text")
    write_atomically(path, json.dumps({"n": 1}))
    assert json.loads(path.read_text()) == {"n": 1}
    assert list(path.parent.iterdir()) == [path]
