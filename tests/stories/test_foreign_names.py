"""Names from files of others never lead out of the workspace, and nothing outside is replaced."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from builds import deploy

from pipeline.containers.engine import Engine
from pipeline.data.readers import open_dataset
from pipeline.devices import fleet
from pipeline.devices.inventory import Device, read_devices
from pipeline.errors import PackageError, RecipeError, WorkspaceError
from pipeline.package.base_image import _python_in
from pipeline.progress import Silent
from pipeline.recipe import Recipe, read_recipe
from pipeline.run import Run
from pipeline.validate.stage import publish_models
from pipeline.workspace.store import Workspace, child
from targets.target import CATALOGUE, find_target

WAYS_OUT = (
    "../../../victim",
    "..",
    ".",
    "/tmp/victim",
    "a/b",
    "a\\b",
    "",
    ".hidden",
    "a\n",
    "a\0b",
    "-x",
    "é",
    "a" * 300,
)


@pytest.mark.parametrize("name", WAYS_OUT)
def test_no_folder_is_made_of_a_name_that_leads_out(name: str, tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match="is not a valid name in"):
        child(tmp_path, name)


@pytest.mark.parametrize("name", ["cpu", "model-0.1.0-cpu.undecided", "orin-7", "_x"])
def test_names_as_there_are(name: str, tmp_path: Path) -> None:
    assert child(tmp_path, name) == tmp_path / name


def test_a_foreign_target_file_deletes_nothing_outside_the_workspace(tmp_path: Path) -> None:
    """As it was found: it published to ../../../victim, and removed the folder that was there."""
    victim, work = tmp_path / "victim", tmp_path / "work"
    victim.mkdir()
    work.mkdir()
    (victim / "precious").write_text("of somebody else")
    cpu = (CATALOGUE / "cpu.toml").read_text()
    (work / "line.toml").write_text(f'name = "../../../victim"\n{cpu}')
    done = deploy("build", "--data", "digits", "--checkpoint", "x.pth", "--target", "line.toml", cwd=work, code=6)
    assert "name = '../../../victim' has another form. Up to 64 letters" in done.stderr
    assert (victim / "precious").read_text() == "of somebody else"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["victim", "work"]


@pytest.mark.parametrize("key", ["name", "version"])
@pytest.mark.parametrize("value", WAYS_OUT)
def test_a_recipes_names_do_not_lead_out(key: str, value: str) -> None:
    with pytest.raises(RecipeError, match=key):
        read_recipe(None, {key: value})


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", ".x", "a\\nb"])
def test_a_devices_name_does_not_lead_out(name: str, tmp_path: Path) -> None:
    (tmp_path / "devices.toml").write_text(f'[devices."{name}"]\naddress = "me@orin"\ntarget = "cpu"\n')
    with pytest.raises(RecipeError):
        read_devices(tmp_path / "devices.toml")


def test_where_a_check_was_forgotten_nothing_is_published(tmp_path: Path) -> None:
    """What publishes asks again: here with a target that no file could have made."""
    target = find_target("cpu")
    object.__setattr__(target, "name", "/../../../victim")
    run = Run(
        recipe=Recipe.model_validate({}),
        target=target,
        dataset=open_dataset("digits"),
        workspace=Workspace(tmp_path / "a" / ".deploy"),
        progress=Silent(),
    )
    nothing = SimpleNamespace(path=tmp_path, verdict="pass", folder=tmp_path)
    model = SimpleNamespace(artifact=nothing, answers=nothing, report=nothing, predictions=tmp_path)
    with pytest.raises(WorkspaceError, match="is not a valid name in"):
        publish_models(run, nothing, [model])  # type: ignore[arg-type, list-item]
    with pytest.raises(WorkspaceError, match="is not a valid name in"):
        fleet.deliver(
            [Device(name="../x", address="a")],
            None,  # type: ignore[arg-type]
            published=tmp_path / "published",
            progress=Silent(),
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published"]


@pytest.mark.parametrize("version", ['["..", "..", "x"]', '["../../3", 1]', '[3, "1/../x"]', "[2, 7]"])
def test_a_base_images_answer_names_no_file(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = f'["CPython", {version}, true]'
    monkeypatch.setattr("pipeline.package.base_image.output_of", lambda *_arguments: answer)
    with pytest.raises(PackageError, match="gives no usable answer"):
        _python_in(cast("Engine", None), "some:1", find_target("cpu"))
