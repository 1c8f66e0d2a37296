"""`status`, `clean`, `validate` and `collect` look into the workspace that `build` works in."""

from pathlib import Path

import pytest
from tiny_package import write_tiny_package
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.cli.request import Request, workspace_folder
from pipeline.devices import collect as collecting
from pipeline.errors import DataError, DeployError, RecipeError
from pipeline.validate.published import report_json
from pipeline.workspace.store import Workspace


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe and the workspace of its builds; the current folder is another one."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "deploy.toml").write_text('data = "digits"\n')
    with Workspace(folder / ".deploy").locked():
        pass
    tiny = write_tiny_package(folder / ".deploy" / "artifacts" / "tiny-0.1.0-cpu")
    (tiny.folder / "report.json").write_text(report_json(tiny.report))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return folder


def said(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return " ".join(done.stdout.split())


def error_of(*arguments: str) -> DeployError:
    failed = CliRunner().invoke(app, arguments)
    assert isinstance(failed.exception, DeployError), failed.output
    return failed.exception


def test_status_shows_what_was_built_beside_the_recipe(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = str(project / "deploy.toml")
    assert "tiny-0.1.0-cpu: pass" in said("status", "--recipe", recipe)
    assert "does not exist" in said("status")
    assert "does not exist" in said("status", "--recipe", recipe, "--workspace", "other")
    monkeypatch.chdir(project)
    assert "tiny-0.1.0-cpu: pass" in said("status")


def test_clean_removes_what_was_built_beside_the_recipe(project: Path) -> None:
    assert "nothing to clean" in said("clean", "--all")
    assert (project / ".deploy" / "artifacts").is_dir()
    assert f"cleaned {project / '.deploy'}" in said("clean", "--all", "--recipe", str(project / "deploy.toml"))
    assert not (project / ".deploy" / "artifacts").exists()


def test_validate_looks_for_the_shard_beside_the_recipe(project: Path) -> None:
    """Of an artifact without its shard the message names the place that was looked into."""
    artifact = project / ".deploy" / "artifacts" / "tiny-0.1.0-cpu"
    assert error_of("validate", str(artifact), "--recipe", str(project / "gone.toml")).exit_code == 3
    (artifact / "shard.zip").unlink()
    error = error_of("validate", str(artifact), "--recipe", str(project / "deploy.toml"))
    assert isinstance(error, DataError)
    assert str(project / ".deploy") in str(error)


def test_collect_keeps_a_proof_beside_the_recipe(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def fetch(address: str, *, name: str, workspace: Path, access: object) -> None:
        asked.append(workspace)
        raise DataError(f"{address} is not asked in a test")

    monkeypatch.setattr(collecting, "collect", fetch)
    error_of("collect", "http://orin.local:8000", "--recipe", str(project / "deploy.toml"))
    error_of("collect", "http://orin.local:8000")
    error_of("collect", "http://orin.local:8000", "--workspace", "other")
    assert asked == [project / ".deploy", Path(".deploy"), Path("other")]


@pytest.mark.parametrize("command", [["status"], ["clean"], ["validate", "."], ["collect", "http://orin.local"]])
def test_a_recipe_that_does_not_exist_is_named(command: list[str], project: Path) -> None:
    error = error_of(*command, "--recipe", "gone.toml")
    assert isinstance(error, RecipeError)
    assert "gone.toml does not exist" in str(error)


@pytest.mark.parametrize(
    ("recipe", "workspace"),
    [
        (None, None),
        ("deploy.toml", None),
        ("../project/deploy.toml", None),
        (None, "w"),
        ("../project/deploy.toml", "w"),
    ],
)
def test_every_command_has_the_workspace_of_a_build(
    recipe: str | None, workspace: str | None, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    file, folder = recipe and Path(recipe), workspace and Path(workspace)
    request = Request(recipe_file=file or None, flags={}, workspace=folder or None, as_json=False, is_verbose=False)
    assert request.workspace_folder == workspace_folder(file or None, folder or None)
