"""`deploy package --emit`: refused before any work where it could not be done."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.errors import CheckpointError, DeployError, RecipeError


def error_of(*arguments: str) -> DeployError:
    failed = CliRunner().invoke(app, ["package", "--checkpoint", "gone.pth", "--data", "digits", *arguments])
    assert isinstance(failed.exception, DeployError), failed.output
    return failed.exception


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["--emit", "quadlets"], "Did you mean quadlet?", id="unknown form"),
        pytest.param(["--emit", "compose", "--port", "70000"], "--port 70000 is not a port", id="port"),
        pytest.param(["--emit", "compose", "--memory", "1"], "at least 96 MiB", id="memory"),
        pytest.param(["--emit", "compose", "--json"], "both write to stdout", id="two documents"),
        pytest.param(["--emit", "compose", "--no-image"], "needs an image", id="no image"),
        pytest.param(["--emit", "compose", "-t", "cpu", "-t", "x.toml"], "there are 2 targets", id="two targets"),
        pytest.param(["--emit", "compose", "--grpc-port", "8001"], "add --grpc", id="gRPC's port without gRPC"),
        pytest.param(["--emit", "compose", "--grpc", "--port", "8001"], "besides --port 8001", id="gRPC's port"),
        pytest.param(["--grpc-port", "8001"], "add --emit", id="gRPC's port alone"),
        pytest.param(["--output", "x"], "add --emit", id="output alone"),
        pytest.param(["--memory", "513"], "add --emit", id="memory alone"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_build(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = error_of(*arguments)
    assert isinstance(error, RecipeError)
    assert message in str(error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--emit", "systemd", "-o", "unit", "--memory", "1"], ["--port", "1"]])
def test_a_refusal_is_a_document_where_one_was_asked_for(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    asked = ["package", "--checkpoint", "gone.pth", "--data", "digits", "--json", *arguments]
    answer = json.loads(CliRunner().invoke(app, asked).stdout)
    assert answer["exit_code"] == RecipeError.exit_code
    assert answer["error"]
    assert answer["targets"] == []


@pytest.mark.parametrize(
    "arguments",
    [[], ["--emit", "compose"], ["--emit", "compose", "--grpc"], ["--emit", "systemd", "--json", "-o", "unit"]],
)
def test_the_options_of_the_recipe_are_taken_besides(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The build begins, and finds that there is no such checkpoint."""
    monkeypatch.chdir(tmp_path)
    error = error_of(*arguments)
    assert isinstance(error, CheckpointError)
    assert "gone.pth does not exist" in str(error)
