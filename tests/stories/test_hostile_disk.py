"""Disks that are full or read-only, folders in the place of files, and a shell that lets everybody write."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from builds import FAST, ROOT, deploy

from pipeline.errors import WorkspaceError
from pipeline.report.document import Document

pytestmark = pytest.mark.slow

BUILD = ("build", "--data", "digits", "--checkpoint", "digits.safetensors", *FAST)
SAID = "error: the output cannot be written: No space left on device"


def shell(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`script`, in which $DEPLOY is the command."""
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", script] if "mount " in script else ["sh", "-c", script],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DEPLOY": f"{sys.executable} -m pipeline"},
        timeout=300,
    )


@pytest.mark.parametrize("command", ["schema", "targets --json", "targets show cpu", "--version", "--help"])
def test_output_that_cannot_be_written_is_an_error_with_the_reason(command: str, tmp_path: Path) -> None:
    done = shell(f"$DEPLOY {command} >/dev/full", tmp_path)
    assert done.returncode == WorkspaceError.exit_code, done.stderr
    assert SAID in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_so_is_the_document_of_a_build(built: Document, trained: Path) -> None:
    assert built.targets
    done = shell(f"$DEPLOY {' '.join(BUILD)} --json >/dev/full", trained)
    assert done.returncode == WorkspaceError.exit_code, done.stderr
    assert SAID in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.long
def test_whatever_the_umask_not_everybody_may_write(trained: Path, tmp_path: Path) -> None:
    done = shell(f"umask 000; $DEPLOY {' '.join(BUILD)} --workspace {tmp_path}/ws", trained)
    assert done.returncode == 0, done.stderr
    paths = [path for path in (tmp_path / "ws").rglob("*") if not path.is_symlink()]
    assert paths
    assert [path for path in [tmp_path / "ws", *paths] if path.stat().st_mode & stat.S_IWOTH] == []


@pytest.mark.parametrize("name", ["lock", ".gitignore", pytest.param("looks.json", marks=pytest.mark.long)])
def test_a_folder_where_the_workspace_keeps_a_file_is_named(name: str, trained: Path, tmp_path: Path) -> None:
    (tmp_path / "ws" / name).mkdir(parents=True)
    failed = deploy(*BUILD, "--workspace", str(tmp_path / "ws"), cwd=trained, code=WorkspaceError.exit_code)
    assert name in failed.stderr
    assert "Traceback" not in failed.stderr


READ_ONLY = "mount --bind .deploy .deploy && mount -o remount,ro,bind .deploy && "


def test_a_finished_build_on_a_disk_that_is_read_only_is_shown(built: Document, trained: Path) -> None:
    assert built.targets
    deploy(*BUILD, cwd=trained)
    done = shell(f"{READ_ONLY}$DEPLOY {' '.join(BUILD)} --json", trained)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("mounting takes rights that this user does not have")
    assert done.returncode == 0, done.stderr
    assert "cannot be written (Read-only file system): only finished stages are used" in done.stderr
    (target,) = Document.model_validate_json(done.stdout).targets
    assert (target.verdict, target.gate_looks) == ("pass", built.targets[0].gate_looks)


@pytest.mark.parametrize("command", ["build", "plan"])
def test_work_that_is_left_cannot_be_done_there(built: Document, trained: Path, command: str) -> None:
    assert built.targets
    words = " ".join((command, *BUILD[1:], "--seed", "7", "--macs", "0.7"))
    done = shell(f"{READ_ONLY}$DEPLOY {words}", trained)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("mounting takes rights that this user does not have")
    assert "Traceback" not in done.stderr
    if command == "build":
        assert done.returncode == WorkspaceError.exit_code, done.stderr
        assert "is not done yet, and the workspace .deploy cannot be written" in done.stderr


def test_nor_is_anything_removed(built: Document, trained: Path) -> None:
    assert built.targets
    done = shell(f"{READ_ONLY}$DEPLOY clean", trained)
    if "unshare" in done.stderr or "mount:" in done.stderr:
        pytest.skip("mounting takes rights that this user does not have")
    assert done.returncode == WorkspaceError.exit_code, done.stderr
    assert "nothing was removed" in done.stderr
