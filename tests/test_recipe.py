import tomllib
from pathlib import Path

import pytest

from pipeline.cli.init import TEMPLATE
from pipeline.errors import RecipeError
from pipeline.recipe import Recipe, read_recipe


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "deploy.toml"
    path.write_text(text)
    return path


def test_flags_override_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, 'name = "from-file"\n[prune]\nmacs = 0.5\nepochs = 3\n')
    recipe = read_recipe(path, {"prune.macs": 0.7, "name": None})
    assert (recipe.name, recipe.prune.macs, recipe.prune.epochs) == ("from-file", 0.7, 3)


def test_paths_are_relative_to_the_recipe(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, 'checkpoint = "a.pth"\ndata = "cifar10:batches"\n'), {})
    assert recipe.checkpoint == str(tmp_path / "a.pth")
    assert recipe.data == f"cifar10:{tmp_path / 'batches'}"


def test_the_embedded_data_is_no_path(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, 'data = "digits"\n'), {}).data == "digits"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("nmae = 'x'", r"nmae: unknown key\. Did you mean name\?", id="top-level-typo"),
        pytest.param("[prune]\nmac = 0.5", r"prune\.mac: unknown key\. Did you mean macs\?", id="section-typo"),
        pytest.param(
            "[validate]\nmax_dorp = 1", r"validate\.max_dorp: unknown key\. Did you mean max_drop\?", id="alias"
        ),
        pytest.param("[prune]\nmacs = 1.5", r"prune\.macs = 1\.5: .*less than or equal to 1", id="out-of-range"),
        pytest.param("[prune]\nmacs = 0.5\nparams = 0.5", r"give only one of them", id="two-budgets"),
        pytest.param(
            "[prune]\nmacs = 0.5\nspeedup = 2", r"macs = 0\.5 and speedup = 2: give only one", id="both-kinds"
        ),
        pytest.param(
            '[prune]\nlatency = "8ms"\nspeedup = 2', r"  prune: latency = 8 and speedup = 2:", id="two-times"
        ),
        pytest.param('[prune]\nlatency = "8 hours"', r"latency = '8 hours': give a time such as 8ms", id="odd-unit"),
        pytest.param('[prune]\nlatency = "-3ms"', r"prune\.latency = '-3ms': give a time", id="negative-time"),
        pytest.param("[prune]\nlatency = 0", r"prune\.latency = 0: .*greater than 0", id="no-time"),
        pytest.param("[prune]\nspeedup = 1", r"prune\.speedup = 1: .*greater than 1", id="no-speedup"),
        pytest.param('[prune]\ntable = "t.json"', r"needs latency or speedup, and neither is set", id="idle-table"),
        pytest.param("targets = []", r"targets = \[\]", id="no-target"),
        pytest.param(
            "name = 'Upper Case'", r"'Upper Case' .*Lower-case|lower-case .*such as resnet20-cars", id="bad-name"
        ),
        pytest.param("version = '1 2'", r"version = '1 2' .*such as 0\.1\.0", id="bad-version"),
        pytest.param(
            "model = 'net'",
            r"model = 'net' .*ackage\.module:factory of your own nn\.Module; such as my_net",
            id="bad-factory",
        ),
        pytest.param("[package]\nbase_image = ''", r"base_image = '' .*such as python:3\.12", id="empty-base-image"),
        pytest.param("checkpoint = 'a.pth'", r"but data is not set: give the images it was trained", id="no-data"),
        pytest.param("expected_accuracy = 91.7", r"a share between 0 and 1, such as 0\.917 for 91\.7 %", id="percent"),
        pytest.param("expected_accuracy = 0.0", r"a share between 0 and 1", id="no-accuracy"),
        pytest.param("expected_accuracy = nan", r"expected_accuracy = nan", id="nan-accuracy"),
        pytest.param(
            "[preprocessing]\nmean = [127.5, 127.5, 127.5]", r"pixels of 0\.\.255.*\[0\.5, 0\.5, 0\.5\]", id="mean-255"
        ),
        pytest.param("[preprocessing]\nstd = [58.4, 57.1, 57.4]", r"Divided by 255: \[0\.229, 0\.2239", id="std-255"),
        pytest.param("[preprocessing]\nstd = [0, 0.2, 0.2]", r"standard deviation between 0\.01 and 1\.5", id="std-0"),
        pytest.param("[preprocessing]\nmean = [-0.1, 0, 0]", r"a mean lies between 0 and 1", id="negative-mean"),
        pytest.param("[preprocessing]\nmean = [nan, 0, 0]", r"mean\.0 = nan: .*finite", id="nan-mean"),
        pytest.param("[preprocessing]\nstd = [inf, 1, 1]", r"std\.0 = inf: .*finite", id="infinite-std"),
        pytest.param("[preprocessing]\ncrop = 1000000", r"crop = 1000000: .*4096", id="huge-crop"),
        pytest.param(f"a = {'[' * 5000}{']' * 5000}", r"nested too deeply|not valid TOML", id="deep-toml"),
        pytest.param("name = ", r"not valid TOML", id="not-toml"),
        pytest.param("[quantize]\nweight_bits = 4", r"quantize\.weight_bits = 4", id="weight-bits"),
        pytest.param("seed = -1\nthreads = 0", r"2 mistakes", id="all-mistakes-at-once"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        read_recipe(written(tmp_path, text), {})


def test_networks_that_take_pixels_of_0_to_255_have_a_standard_deviation_of_one_of_them(tmp_path: Path) -> None:
    text = "[preprocessing]\nmean = [0.4, 0.45, 0.5]\nstd = [0.00392157, 0.00392157, 0.00392157]\n"
    assert read_recipe(written(tmp_path, text), {}).preprocessing.std == (0.00392157,) * 3


def test_no_message_is_a_regular_expression(tmp_path: Path) -> None:
    for key in ("name", "version", "model"):
        with pytest.raises(RecipeError) as caught:
            read_recipe(written(tmp_path, f"{key} = '/ /'\n"), {})
        assert "pattern" not in str(caught.value)
        assert "^" not in str(caught.value)


def test_a_missing_recipe_names_the_command_that_writes_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="deploy init"):
        read_recipe(tmp_path / "deploy.toml", {})


def test_the_template_states_the_defaults() -> None:
    assert Recipe.model_validate(tomllib.loads(TEMPLATE)) == Recipe()


def test_the_template_names_every_key() -> None:
    def keys(section: type, prefix: str = "") -> set[str]:
        found: set[str] = set()
        for name, field in section.model_fields.items():  # type: ignore[attr-defined]
            nested = field.annotation if hasattr(field.annotation, "model_fields") else None
            found |= keys(nested) if nested is not None else {field.alias or name}
        return found

    for key in keys(Recipe):
        assert f"{key} = " in TEMPLATE, key


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [('"8ms"', 8.0), ('"800 us"', 0.8), ('"0.5s"', 500.0), ("8", 8.0), ("0.25", 0.25), ('"7.5"', 7.5)],
)
def test_a_latency_has_a_unit_or_is_in_milliseconds(text: str, milliseconds: float, tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, f"[prune]\nlatency = {text}\n"), {})
    assert recipe.prune.latency == pytest.approx(milliseconds)
    assert recipe.prune.by_clock
    assert recipe.prune.prunes


def test_a_table_is_looked_for_beside_the_recipe(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, '[prune]\nspeedup = 1.5\ntable = "t.json"\n'), {})
    assert recipe.prune.table == str(tmp_path / "t.json")
