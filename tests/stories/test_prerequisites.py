"""What would stop a build at its end stops it before it begins."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from builds import FAST, ROOT, deploy

from pipeline.containers.engine import Engine
from pipeline.errors import EngineMissing, PackageError, WorkspaceError
from pipeline.package import prerequisites as outset

pytestmark = pytest.mark.slow

WITH_IMAGE = tuple(each for each in FAST if each != "--no-image")
BUILD = ("build", "--data", "digits", "--checkpoint", "digits.safetensors")


@pytest.mark.docker
@pytest.mark.parametrize("grpc", [False, True])
def test_a_base_image_that_cannot_be_used_is_found_before_any_stage(
    engine: Engine, trained: Path, tmp_path: Path, grpc: bool
) -> None:
    assert engine.id_of("nowhere.invalid/none:1") is None
    where = ("--workspace", str(tmp_path / "ws"), "--base-image", "nowhere.invalid/none:1")
    given = (*WITH_IMAGE, *(("--grpc",) if grpc else ()))
    failed = deploy(*BUILD, *given, *where, cwd=trained, code=PackageError.exit_code)
    assert "the base image nowhere.invalid/none:1 is not on this machine and cannot be pulled" in failed.stderr
    assert list((tmp_path / "ws").glob("*/*/stage.json")) == []


def test_without_an_engine_a_base_that_nobody_knows_is_found_before_any_stage(trained: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *BUILD, *WITH_IMAGE, "--base-image", "mine:1", "--workspace", tmp_path],
        cwd=trained,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "DOCKER_HOST": "tcp://127.0.0.1:1"},
        timeout=300,
    )
    assert done.returncode == EngineMissing.exit_code, done.stderr
    assert "the Python in mine:1 is unknown" in done.stderr
    assert list(tmp_path.glob("*/*/stage.json")) == []


def test_where_no_image_is_asked_for_no_engine_is(trained: Path, tmp_path: Path) -> None:
    done = deploy("prune", *BUILD[1:], "--macs", "0.8", "--epochs", "0", "--workspace", str(tmp_path), cwd=trained)
    assert "prune" in done.stderr


def test_a_full_folder_for_temporary_files_is_named(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was called INVALID_PROTOBUF, by whoever read what ONNX Runtime could not write."""
    small = tmp_path / "small"
    small.mkdir()
    script = f"mount -t tmpfs -o size=1m none {small} && TMPDIR={small} exec {sys.executable} -m pipeline "
    words = " ".join((*BUILD, *FAST, "--workspace", str(tmp_path / "ws")))
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script + words],
        cwd=trained,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=300,
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("mounting takes rights that this user does not have")
    assert done.returncode == WorkspaceError.exit_code, done.stderr
    assert f"the folder for temporary files {small} has 1 MB free" in done.stderr
    assert "TMPDIR" in done.stderr


def test_the_room_that_is_needed_follows_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 100 << 20})
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: usage)
    outset.check_scratch(None)
    (tmp_path / "small.pth").write_bytes(bytes(1000))
    outset.check_scratch(tmp_path / "small.pth")
    with (tmp_path / "large.pth").open("wb") as file:
        file.truncate(50 << 20)
    with pytest.raises(WorkspaceError, match="105 MB free, but 277 MB are needed"):
        outset.check_scratch(tmp_path / "large.pth")
