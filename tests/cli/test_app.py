"""The command line as its users meet it: help, exit codes, messages; never a traceback."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from pipeline.cli.app import NEWCOMER, app
from pipeline.errors import EXIT_CODES

ROOT = Path(__file__).parents[2]


def deploy(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        timeout=300,
    )


def test_help_lists_every_exit_code(tmp_path: Path) -> None:
    shown = deploy("--help", cwd=tmp_path).stdout
    for error in EXIT_CODES:
        assert f"{error.exit_code} {error.meaning}" in " ".join(shown.split())


def test_help_imports_no_heavy_library(tmp_path: Path) -> None:
    code = (
        "import sys\nsys.argv = ['deploy', '--help']\nfrom pipeline.cli.app import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'onnx', 'onnxruntime', 'docker', 'pydantic'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert shown.stderr.strip() == "[]"


def test_deploy_alone_names_three_commands_to_begin_with(tmp_path: Path) -> None:
    shown = deploy(cwd=tmp_path)
    assert (shown.returncode, shown.stdout, shown.stderr) == (2, f"{NEWCOMER}\n", "")
    named = re.findall(r"^  deploy (\w+) ", NEWCOMER, re.MULTILINE)
    commands = {command.name for command in app.registered_commands}
    assert len(named) == 3
    assert set(named) <= commands


BUILD = ("build", "--data", "digits")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        pytest.param(["build", "--no-such-flag"], 2, "No such option", id="wrong-flag"),
        pytest.param(["build", "--macs", "2"], 3, "prune.macs = 2.0", id="value-out-of-range"),
        pytest.param(["build", "--recipe", "gone.toml"], 3, "deploy init", id="missing-recipe"),
        pytest.param(["build"], 3, "no checkpoint: give --checkpoint", id="no-checkpoint"),
        pytest.param(
            ["build", "--data", "digits", "--checkpoint", "gone.pth"],
            4,
            "gone.pth does not exist",
            id="missing-checkpoint",
        ),
        pytest.param([*BUILD, "--checkpoint", "."], 4, "is a folder", id="checkpoint-is-a-folder"),
        pytest.param(
            [*BUILD, "--workspace", "w\udcff"], 3, r"the workspace 'w\udcff' is not valid UTF-8", id="not-utf-8"
        ),
        pytest.param(["build", "--data", "gone"], 5, "gone", id="missing-data"),
        pytest.param(["build", "--target", "cpv"], 6, "Did you mean cpu?", id="mistyped-target"),
        pytest.param(["build", "--target", "board.toml"], 6, "board.toml does not exist", id="missing-target-file"),
        pytest.param(["targets", "cpv"], 6, "Did you mean cpu?", id="targets-typo"),
        pytest.param(["schema", "x"], 3, "Known: recipe, build", id="unknown-schema"),
        pytest.param(["validate", "gone"], None, "gone", id="validate-nothing"),
        pytest.param(["clean", "--workspace", "."], 14, "is not a workspace", id="clean-elsewhere"),
    ],
)
def test_mistakes_get_a_message_and_their_own_exit_code(
    tmp_path: Path, arguments: list[str], code: int | None, message: str
) -> None:
    done = deploy(*arguments, cwd=tmp_path)
    assert message in " ".join((done.stdout + done.stderr).split())
    assert "Traceback" not in done.stderr
    assert done.returncode == code if code is not None else done.returncode > 2


def test_an_error_still_gives_one_json_document(tmp_path: Path) -> None:
    done = deploy("build", "--json", "--data", "digits", "--checkpoint", "gone.pth", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert done.returncode == 4
    assert "gone.pth does not exist" in json.dumps(document)


def test_init_writes_a_recipe_once(tmp_path: Path) -> None:
    assert deploy("init", cwd=tmp_path).returncode == 0
    assert tomllib.loads((tmp_path / "deploy.toml").read_text())["name"] == "model"
    again = deploy("init", cwd=tmp_path)
    assert again.returncode == 3
    assert "already exists" in again.stderr
    assert deploy("init", "--force", cwd=tmp_path).returncode == 0


def test_a_typo_in_the_recipe_is_named(tmp_path: Path) -> None:
    (tmp_path / "deploy.toml").write_text("sed = 1\n")
    done = deploy("build", cwd=tmp_path)
    assert done.returncode == 3
    assert "sed: unknown key. Did you mean seed?" in done.stderr


@pytest.mark.parametrize("of", ["recipe", "build"])
def test_schemas_are_printed(tmp_path: Path, of: str) -> None:
    schema = json.loads(deploy("schema", of, cwd=tmp_path).stdout)
    assert schema["type"] == "object"
    assert schema["properties"]["targets"]


def test_targets_are_listed_and_explained(tmp_path: Path) -> None:
    assert "cpu" in deploy("targets", cwd=tmp_path).stdout
    assert "instruction sets" in deploy("targets", "cpu", cwd=tmp_path).stdout
    assert json.loads(deploy("targets", "--json", cwd=tmp_path).stdout)[0]["name"]


def test_status_and_clean_of_nothing(tmp_path: Path) -> None:
    assert "nothing was built" in deploy("status", cwd=tmp_path).stdout
    assert "nothing to clean" in deploy("clean", cwd=tmp_path).stdout


def test_version(tmp_path: Path) -> None:
    assert deploy("--version", cwd=tmp_path).stdout.startswith("deploy 0.")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_training_in_order(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "train", "--epochs", "500", "-v", "-o", "out.safetensors"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stderr is not None
    assert process.stderr.readline()
    time.sleep(1)
    process.send_signal(number)
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 128 + number
    assert f"stopped by {number.name}" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_line_below_an_error_names_its_page(tmp_path: Path) -> None:
    done = deploy("build", "--json", "--data", "digits", "--checkpoint", "gone.pth", cwd=tmp_path)
    *_, last = done.stderr.splitlines()
    assert last == "More: deploy explain 4 (CheckpointError)."
    assert "deploy explain" not in done.stdout
    assert "## What to do" in deploy("explain", "4", cwd=tmp_path).stdout
