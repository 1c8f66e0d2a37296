"""The recipe's fields, the table of flags and the template of `deploy init` name the same things."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

from pipeline import recipe as recipes
from pipeline.cli import build as build_module
from pipeline.cli.app import app
from pipeline.cli.init import TEMPLATE
from pipeline.cli.options import RecipeFlags, overrides, recipe_keys
from pipeline.cli.profile import ProfileCommand
from pipeline.cli.request import RecipeCommand, Request
from pipeline.errors import CheckpointError
from pipeline.recipe import Recipe

RECIPE_ONLY = {
    "classes": "a list that belongs to the data, and is too long for a command line",
    "preprocessing.resize": "the training's, written down once beside the model",
    "preprocessing.crop": "the training's, written down once beside the model",
    "preprocessing.mean": "the training's, written down once beside the model",
    "preprocessing.std": "the training's, written down once beside the model",
    "preprocessing.color": "the training's, written down once beside the model",
    "preprocessing.interpolation": "the training's, written down once beside the model",
    "preprocessing.reduced_jpeg": "the training's, written down once beside the model",
    "quantize.keep_float": "a list of this network's layers",
    "quantize.fallback": "what a release may be, which is not decided from run to run",
    "validate.correct_looks": "how a release is judged, which is not decided from run to run",
    "validate.required_place": "how a release is judged, which is not decided from run to run",
    "package.fallback": "what a release may be, which is not decided from run to run",
    "package.shard_images": "what a release may be, which is not decided from run to run",
}
"""Fields that no flag overrides, with the reason."""

NOT_OF_THE_RECIPE = {"recipe", "workspace", "as_json", "verbose"}
"""Rows of the table that say where things are and how they are printed."""


def fields_of(section: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in section.model_fields.items():
        key = prefix + (field.alias or name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from fields_of(field.annotation, f"{key}.")
        else:
            yield key


FIELDS = set(fields_of(Recipe))


def test_every_field_has_one_flag_or_a_reason_to_have_none() -> None:
    keys = list(recipe_keys().values())
    assert len(keys) == len(set(keys))
    assert set(keys).isdisjoint(RECIPE_ONLY)
    assert set(keys) | set(RECIPE_ONLY) == FIELDS
    assert all(RECIPE_ONLY.values())


def test_every_row_of_the_table_is_of_the_recipe_or_known_not_to_be() -> None:
    assert set(RecipeFlags.__dataclass_fields__) == set(recipe_keys()) | NOT_OF_THE_RECIPE


def sections_of_the_template() -> dict[str, str]:
    """The text of each section, the top level's under an empty name."""
    found, current = {"": ""}, ""
    for line in TEMPLATE.splitlines():
        if line.startswith("["):
            current = line[1 : line.index("]")]
            found[current] = ""
        else:
            found[current] += line + "\n"
    return found


@pytest.mark.parametrize("key", sorted(FIELDS))
def test_the_template_names_every_field_in_its_section(key: str) -> None:
    section, _, name = key.rpartition(".")
    lines = [line.removeprefix("# ") for line in sections_of_the_template()[section].splitlines()]
    assert [line for line in lines if line.startswith(f"{name} = ")], key


def test_the_template_names_nothing_else() -> None:
    named = set()
    for section, text in sections_of_the_template().items():
        for line in text.splitlines():
            name, equals, _ = line.removeprefix("# ").partition(" = ")
            if equals and name.isidentifier():
                named.add(f"{section}.{name}".lstrip("."))
    assert named == FIELDS


def test_a_value_given_to_each_flag_reaches_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every row another value than the default, through Typer and the check of the recipe."""
    values = {
        "--target": "cpu-arm64",
        "--checkpoint": "a.pth",
        "--model": "package.module:make",
        "--data": "photos",
        "--expect-accuracy": "0.9",
        "--weights": "ema",
        "--seed": "7",
        "--speedup": "2",
        "--table": "t.json",
        "--epochs": "3",
        "--qat-epochs": "4",
        "--nproc": "2",
        "--weight-bits": "7",
        "--max-drop": "2.5",
        "--undecided": "package",
        "--threads": "4",
        "--name": "cars",
        "--image-version": "1.2",
        "--base-image": "python:3.12",
    }
    switches = ["--saturation-safe", "--no-image", "--grpc", "--dla", "--personal-images"]
    exclusive = {"--macs": "0.5", "--params": "0.6", "--latency": "8ms"}
    asked: list[Request] = []
    monkeypatch.setattr(build_module, "build_all", lambda request, **_: asked.append(request))
    words = [*(word for pair in values.items() for word in pair), *switches]
    assert CliRunner().invoke(app, ["build", *words]).exit_code == 0
    for pair in exclusive.items():
        assert CliRunner().invoke(app, ["build", *pair]).exit_code == 0
    given = {key for request in asked for key, value in request.flags.items() if value is not None}
    assert given == set(recipe_keys().values())
    changed = {key for request in asked for key in FIELDS if valued(request.recipe, key) != valued(Recipe(), key)}
    assert changed == given
    assert valued(asked[0].recipe, "quantize.weight_bits") == 7


def valued(recipe: Recipe, key: str) -> object:
    *sections, name = key.split(".")
    section: object = recipe
    for each in sections:
        section = getattr(section, "validate_" if each == "validate" else each)
    return getattr(section, name)


def test_flags_that_are_not_given_override_nothing() -> None:
    assert set(overrides(RecipeFlags()).values()) == {None}


def test_the_commands_of_a_table_know_its_rows() -> None:
    rows = set(RecipeFlags.__dataclass_fields__)
    assert RecipeCommand.names is None
    assert set(ProfileCommand.names) < rows


def test_options_of_the_command_come_besides_those_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(build_module, "build_all", lambda request, **given: seen.append((request, given)))
    arguments = ["build", "--device", "orin", "-t", "cpu", "--device", "local", "-t", "jetson", "-v", "--json"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    ((request, given),) = seen
    assert request.flags["targets"] == ["cpu", "jetson"]
    assert (request.is_verbose, request.as_json) == (True, True)
    assert given["placement"].names == ("orin", "local")


@pytest.mark.parametrize(
    "arguments",
    [["build"], ["plan"], ["profile"], ["package"], ["package", "--emit", "compose", "--output", "file"]],
    ids=" ".join,
)
def test_the_recipe_is_read_once(arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("deploy.toml").write_text('checkpoint = "gone.pth"\ndata = "digits"\n')
    read: list[Path] = []
    parse = recipes._parse

    def counted(path: Path) -> dict[str, object]:
        read.append(path)
        return parse(path)

    monkeypatch.setattr(recipes, "_parse", counted)
    failed = CliRunner().invoke(app, arguments)
    assert isinstance(failed.exception, CheckpointError), failed.output
    assert read == [Path("deploy.toml")]


@pytest.mark.parametrize("path", sorted(Path(build_module.__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_signatures_are_written_down_and_short(path: Path) -> None:
    text = path.read_text()
    assert not [word for word in ("__signature__", "__annotations__", "locals()") if word in text]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert len([each for each in given if each.arg not in ("self", "cls")]) <= 8, node.name
