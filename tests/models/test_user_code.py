"""A network of the user's own is found in the working folder; our modules are not looked for there."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.errors import CheckpointError
from pipeline.models.user_code import find_module, import_module


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_a_module_of_the_working_folder_is_found(here: Path) -> None:
    (here / "my_own_net.py").write_text("VALUE = 3\n")
    assert import_module("my_own_net").VALUE == 3
    assert find_module("my_own_net.deeper") is None
    assert find_module("nowhere_to_be_found") is None


@pytest.mark.parametrize("name", ["pipeline", "targets", "json", "torch"])
@pytest.mark.parametrize("is_folder", [True, False])
def test_a_name_that_is_taken_is_named(name: str, is_folder: bool, here: Path) -> None:
    if is_folder:
        (here / name).mkdir()
        (here / name / "net.py").write_text("")
    else:
        (here / f"{name}.py").write_text("")
    with pytest.raises(CheckpointError, match=rf"{name}(\.py)? has the name of an installed module .*my_{name}"):
        import_module(f"{name}.net")


@pytest.mark.slow
def test_the_processes_of_a_training_import_our_own_modules(here: Path) -> None:
    (here / "pipeline").mkdir()
    (here / "pipeline" / "__init__.py").write_text("raise SystemExit('the wrong one')")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-P", "-c", "import pipeline.training.worker; print(pipeline.__file__)"],
        env={"PYTHONPATH": f"{root}:{here}"},
        capture_output=True,
        text=True,
    )
    assert Path(done.stdout.strip()).parent.parent == root, done.stderr
