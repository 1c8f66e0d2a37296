"""Stages in the workspace: what each one's work depends on, and that nothing is done twice."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_artifact import write_tiny_artifact
from tiny_package import write_tiny_package
from tiny_table import table_of
from tiny_trained import Recorded, architecture, digits, preprocessing, write_weights

from pipeline import run as run_module
from pipeline.artifacts import Artifact, Audit, Candidate, Dialect, Latency, Place, Precision
from pipeline.compile.stage import compile_candidates
from pipeline.data.readers import Dataset
from pipeline.errors import CheckpointError, DataError, RecipeError
from pipeline.export import stage as export_stage
from pipeline.latency.stage import pace, profile, stopwatch
from pipeline.load.stage import load
from pipeline.models.resnet import build_resnet
from pipeline.package.stage import package
from pipeline.prune.stage import prune
from pipeline.quantize.stage import quantize_all, rescue
from pipeline.recipe import Recipe
from pipeline.results import Judged, Loaded, Pruned, Quantized, Validated
from pipeline.run import Run
from pipeline.validate.stage import count_look, write_gate_shard
from pipeline.workspace.store import Folder, NotDone, StageKey, Workspace
from targets.runtimes import timing
from targets.runtimes.onnxruntime import layer_times
from targets.target import Target, find_target


@pytest.fixture
def weights(tmp_path: Path) -> str:
    write_weights(tmp_path / "digits.safetensors")
    return str(tmp_path / "digits.safetensors")


def recipe_of(checkpoint: str | None, **sections: Any) -> Recipe:
    return Recipe.model_validate(
        {"checkpoint": checkpoint, "data": "digits", "preprocessing": {"crop": 16}, **sections}
    )


def run_of(
    root: Path,
    recipe: Recipe,
    *,
    target: Target | None = None,
    dataset: Dataset | None = None,
    progress: Recorded | None = None,
) -> Run:
    return Run(
        recipe=recipe,
        target=target or replace(find_target("cpu"), channel_multiple=4),
        dataset=dataset or digits(),
        workspace=Workspace(root / ".deploy"),
        progress=progress or Recorded(),
    )


@pytest.mark.slow
def test_a_stage_is_done_once(weights: str, tmp_path: Path) -> None:
    recipe = recipe_of(weights, prune={"macs": 0.7, "epochs": 0})
    progress = Recorded()
    run = run_of(tmp_path, recipe, progress=progress)
    loaded = load(run)
    pruned = prune(run, loaded)
    assert not loaded.folder.was_cached
    assert not pruned.folder.was_cached
    assert pruned.checkpoint.cost.macs <= 0.7 * loaded.checkpoint.cost.macs
    assert loaded.preprocessing == preprocessing()
    said = len(progress.lines)
    again = run_of(tmp_path, recipe, progress=progress)
    assert load(again).folder == replace(loaded.folder, was_cached=True)
    assert prune(again, loaded).folder == replace(pruned.folder, was_cached=True)
    assert len(progress.lines) == said


@pytest.mark.parametrize(
    ("target", "dialects"),
    [
        ("cpu", (Dialect.FLOAT, Dialect.ONNXRUNTIME)),
        ("cpu-arm64", (Dialect.FLOAT, Dialect.ONNXRUNTIME)),
        ("jetson", (Dialect.FLOAT, Dialect.TENSORRT)),
    ],
)
def test_only_what_the_target_reads_is_written(target: str, dialects: tuple[Dialect, ...], tmp_path: Path) -> None:
    assert run_of(tmp_path, recipe_of("net.pth"), target=find_target(target)).dialects == dialects


def test_a_target_without_int8_gets_the_float_file_alone(tmp_path: Path) -> None:
    target = replace(find_target("cpu"), precisions=(Precision.FP32,))
    assert run_of(tmp_path, recipe_of("net.pth"), target=target).dialects == (Dialect.FLOAT,)


@pytest.mark.parametrize(("sections", "before"), [({}, "loaded"), ({"macs": 0.7, "epochs": 0}, "pruned")])
def test_float_files_are_of_the_network_before_it_was_quantized(
    sections: dict[str, Any], before: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[Dialect, str]] = []

    def export_one(_run: Run, _loaded: Loaded, network: Folder, dialect: Dialect) -> Folder:
        made.append((dialect, network.path.name))
        return network

    monkeypatch.setattr(export_stage, "export_one", export_one)
    loaded, pruned, quantized = (
        Folder(path=tmp_path / name, digest=name, seconds=0.0, was_cached=True)
        for name in ("loaded", "pruned", "quantized")
    )
    export_stage.export(
        run_of(tmp_path, recipe_of("net.pth", prune=sections)),
        Loaded(folder=loaded),
        Pruned(folder=pruned),
        Quantized(folder=quantized, all_int8=quantized),
    )
    baseline, *models = made
    assert baseline == (Dialect.FLOAT, "loaded")
    assert sorted(models) == [(Dialect.FLOAT, before), (Dialect.ONNXRUNTIME, "quantized")]


def keys_of(monkeypatch: pytest.MonkeyPatch, run: Run) -> dict[str, str]:
    """What each stage's work is filed under, the stages before being equal."""
    before = Folder(path=Path("none"), digest="0", seconds=0.0, was_cached=True)
    keys: dict[str, str] = {}

    def note(stage: str, act: Callable[[], object]) -> None:
        with pytest.raises(NotDone):
            act()
        keys[stage] = asked[-1]

    asked: list[str] = []
    find = Workspace.find

    def remember(self: Workspace, key: StageKey) -> Folder | None:
        asked.append(key.key)
        return find(self, key)

    with monkeypatch.context() as patched:
        patched.setattr(Workspace, "find", remember)
        looking = run.dry_run()
        loaded, pruned = Loaded(folder=before), Pruned(folder=before)
        note("load", lambda: load(looking))
        note("prune", lambda: prune(looking, loaded))
        note("quantize", lambda: quantize_all(looking, loaded, pruned))
        note("compile", lambda: compile_candidates(looking, loaded, before, {Dialect.FLOAT: before}))
        note("shard", lambda: write_gate_shard(looking, loaded))
    return keys


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        pytest.param({"name": "other"}, {"compile"}, id="name"),
        pytest.param({"threads": 2}, {"compile"}, id="threads"),
        pytest.param({"seed": 1}, {"prune", "quantize"}, id="seed"),
        pytest.param({"quantize": {"qat_epochs": 5}}, {"quantize"}, id="qat-epochs"),
        pytest.param({"quantize": {"weight_bits": "other"}}, {"quantize", "compile"}, id="weight-bits"),
        pytest.param({"quantize": {"saturation_safe": True}}, set(), id="saturation-safe"),
        pytest.param({"quantize": {"fallback": "none"}}, set(), id="fallback"),
        pytest.param({"prune": {"macs": 0.5}}, {"prune"}, id="macs"),
        pytest.param({"prune": {"epochs": 3}}, set(), id="recovery-of-what-is-not-pruned"),
        pytest.param({"preprocessing": {"crop": 32}}, {"load"}, id="preprocessing"),
        pytest.param({"validate": {"max_drop": 5.0}}, set(), id="margin"),
        pytest.param({"package": {"image": False}}, set(), id="image"),
        pytest.param({"package": {"grpc": True}}, set(), id="grpc"),
    ],
)
def test_only_the_stages_that_depend_on_an_option_are_done_again(
    change: dict[str, Any], stages: set[str], weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if change == {"quantize": {"weight_bits": "other"}}:
        bits = run_of(tmp_path, recipe_of(weights)).weight_bits
        change = {"quantize": {"weight_bits": 15 - bits}}
    before = keys_of(monkeypatch, run_of(tmp_path, recipe_of(weights)))
    after = keys_of(monkeypatch, run_of(tmp_path, recipe_of(weights, **change)))
    assert {stage for stage in before if before[stage] != after[stage]} == stages


@pytest.mark.parametrize(
    ("right", "sections", "is_asked"),
    [
        pytest.param(97, {}, True, id="three points lost"),
        pytest.param(99, {}, False, id="just the budget"),
        pytest.param(97, {"validate": {"max_drop": 3.0}}, False, id="within a wider budget"),
        pytest.param(97, {"quantize": {"fallback": "none"}}, False, id="not wanted"),
    ],
)
def test_layers_go_to_float_only_where_int8_would_miss_the_budget(
    right: int, sections: dict[str, Any], is_asked: bool, tmp_path: Path
) -> None:
    facts = {"images": 100, "float": {"right": 100}, "kept": "calibrated", "calibrated": {"right": right}}
    (tmp_path / "quantize.json").write_text(json.dumps(facts))
    quantized = Folder(path=tmp_path, digest="0", seconds=0.0, was_cached=True)
    run = run_of(tmp_path, recipe_of("w.pth", **sections)).dry_run()
    if is_asked:
        with pytest.raises(NotDone):
            rescue(run, Loaded(folder=quantized), Pruned(folder=quantized), quantized)
    else:
        assert rescue(run, Loaded(folder=quantized), Pruned(folder=quantized), quantized) is None
    without = replace(run, target=replace(run.target, precisions=(Precision.FP32,)))
    assert rescue(without, Loaded(folder=quantized), Pruned(folder=quantized), quantized) is None


def test_an_image_with_grpc_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = write_tiny_package(tmp_path / "artifact")
    before = Folder(path=Path("none"), digest="0", seconds=0.0, was_cached=True)
    main = Judged(artifact=tiny.artifact, answers=before, report=tiny.report)
    keys: list[str] = []
    find = Workspace.find

    def remember(self: Workspace, key: StageKey) -> Folder | None:
        keys.append(key.key)
        return find(self, key)

    monkeypatch.setattr(Workspace, "find", remember)
    for grpc in (False, True, False):
        looking = run_of(tmp_path, recipe_of("w.pth", package={"grpc": grpc})).dry_run()
        with pytest.raises(NotDone):
            package(looking, Validated(shard_folder=before, models=(main,), published=Path()))
    assert len(set(keys)) == 2


def test_pruning_depends_on_the_target_only_where_it_prunes(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prune_key(multiple: int, **sections: Any) -> str:
        target = replace(find_target("cpu"), channel_multiple=multiple)
        return keys_of(monkeypatch, run_of(tmp_path, recipe_of(weights, **sections), target=target))["prune"]

    assert prune_key(4) == prune_key(16)
    assert prune_key(4, prune={"macs": 0.5}) != prune_key(16, prune={"macs": 0.5})


def test_a_table_decides_by_what_is_in_it_and_not_by_where_it_lies(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build_resnet(architecture())
    for name, per_layer in (("a", 2.0), ("b", 2.0), ("c", 3.0)):
        table = table_of(network, architecture().input_shape, per_layer=per_layer)
        (tmp_path / f"{name}.json").write_text(table.to_json())

    def prune_key(name: str, speedup: float) -> str:
        recipe = recipe_of(weights, prune={"speedup": speedup, "table": str(tmp_path / f"{name}.json")})
        return keys_of(monkeypatch, run_of(tmp_path, recipe))["prune"]

    assert prune_key("a", 1.5) == prune_key("b", 1.5)
    assert prune_key("a", 1.5) != prune_key("c", 1.5)
    assert prune_key("a", 1.5) != prune_key("a", 1.6)
    run = run_of(tmp_path, recipe_of(weights, prune={"speedup": 1.5, "table": str(tmp_path / "a.json")}))
    loaded = load(run)
    asked, _ = pace(run, loaded)
    # Another machine's times cannot be confirmed here.
    assert str(asked.elsewhere).startswith("the table is for none, none, this machine is ")
    assert stopwatch(run, loaded, asked) is None


@pytest.mark.long
def test_the_table_of_this_machine_is_made_once_for_all_weights_of_a_network(weights: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, recipe_of(weights, prune={"speedup": 1.2, "epochs": 0}))
    loaded = load(run)
    with pytest.raises(NotDone) as raised:
        prune(run.dry_run(), loaded)
    assert raised.value.stage == "profile"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(layer_times, "MODEL_SECONDS", 0.01)
        patched.setattr(timing, "MODEL_SECONDS", 0.01)
        patched.setattr(timing, "BLOCK_SECONDS", 0.001)
        made = profile(run, loaded)
    assert not made.was_cached
    assert profile(run.dry_run(), loaded) == replace(made, was_cached=True)
    asked, _ = pace(run, loaded)
    assert asked.elsewhere is None
    assert stopwatch(run, loaded, asked) is not None
    with pytest.raises(NotDone) as raised:
        profile(replace(run, recipe=recipe_of(weights, threads=2)).dry_run(), loaded)
    assert raised.value.stage == "profile"


def test_a_targets_description_is_only_words(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = find_target("cpu")
    recipe = recipe_of(weights)
    plain, described, narrower = (
        keys_of(monkeypatch, run_of(tmp_path, recipe, target=each))
        for each in (
            target,
            replace(target, description="the box under the stairs"),
            replace(target, precisions=target.precisions[:1]),
        )
    )
    assert plain == described
    assert {stage for stage in plain if plain[stage] != narrower[stage]} == {"compile"}


def test_other_weights_and_other_data_are_other_work(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = keys_of(monkeypatch, run_of(tmp_path, recipe_of(weights)))
    moved = tmp_path / "moved.safetensors"
    moved.write_bytes(Path(weights).read_bytes())
    assert keys_of(monkeypatch, run_of(tmp_path, recipe_of(str(moved)))) == before
    content = bytearray(moved.read_bytes())
    content[-1] ^= 1
    moved.write_bytes(content)
    changed = keys_of(monkeypatch, run_of(tmp_path, recipe_of(str(moved))))
    assert {stage for stage in before if before[stage] != changed[stage]} == {"load"}
    other = keys_of(monkeypatch, run_of(tmp_path, recipe_of(weights), dataset=replace(digits(), fingerprint="other")))
    assert not set(before.values()) & set(other.values())


@pytest.mark.parametrize(("saturates", "bits"), [(True, 7), (False, 8)])
def test_weight_bits_follow_the_machine_unless_they_are_given(
    saturates: bool, bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "saturates_8bit", lambda: saturates)
    assert run_of(tmp_path, recipe_of("w.pth")).weight_bits == bits
    assert run_of(tmp_path, recipe_of("w.pth", quantize={"weight_bits": 7})).weight_bits == 7
    assert run_of(tmp_path, recipe_of("w.pth", quantize={"weight_bits": 8})).weight_bits == 8
    # What this machine's processor does says nothing about a GPU.
    assert run_of(tmp_path, recipe_of("w.pth"), target=find_target("jetson")).weight_bits == 8


def test_looking_does_nothing(weights: str, tmp_path: Path) -> None:
    run = run_of(tmp_path, recipe_of(weights))
    with pytest.raises(NotDone) as raised:
        load(run.dry_run())
    assert raised.value.stage == "load"
    assert not (tmp_path / ".deploy").exists()
    loaded = load(run)
    assert load(run.dry_run()).folder.path == loaded.folder.path
    with pytest.raises(NotDone) as raised:
        prune(run.dry_run(), loaded)
    assert raised.value.stage == "prune"


def test_a_stage_that_fails_leaves_nothing_that_looks_done(weights: str, tmp_path: Path) -> None:
    order = [*range(1, 10), 0]
    one_off = replace(
        digits(), training=digits().training.relabelled(order), selection=digits().selection.relabelled(order)
    )
    run = run_of(tmp_path, recipe_of(weights), dataset=one_off)
    with pytest.raises(DataError, match="not in the order of training"):
        load(run)
    assert not list((tmp_path / ".deploy").glob("load/*"))
    with pytest.raises(NotDone):
        load(run.dry_run())


@pytest.mark.parametrize(
    ("checkpoint", "error", "message"),
    [
        (None, RecipeError, r"no checkpoint: give --checkpoint FILE, or train one"),
        ("nowhere.pth", CheckpointError, r"checkpoint nowhere\.pth does not exist\. Give a \.pth"),
        (".", CheckpointError, r"the checkpoint \. is a folder"),
    ],
)
def test_a_checkpoint_that_is_not_there(
    checkpoint: str | None, error: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        load(run_of(tmp_path, recipe_of(checkpoint)))


@contextmanager
def working_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """In `folder`, which is not on the path: as the installed command starts."""
    with monkeypatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(folder))])
        yield


def test_the_factorys_source_is_part_of_the_work(
    weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_key(source: str) -> str:
        (tmp_path / "network_in_the_folder.py").write_text(source)
        with working_in(tmp_path, monkeypatch):
            recipe = recipe_of(weights, model="network_in_the_folder:make")
            return keys_of(monkeypatch, run_of(tmp_path, recipe))["load"]

    first = load_key("def make(): ...\n")
    assert load_key("def make(): ...\n") == first
    assert load_key("def make(): return 1\n") != first


@pytest.mark.parametrize("module", ["no_such_module", "no_such_package.module", "json.decoder.deeper", "sys"])
def test_a_factory_that_is_not_found_is_named(module: str, weights: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"the module {module} of --model {module}:make was not found from"):
        load(run_of(tmp_path, recipe_of(weights, model=f"{module}:make")))


def test_looks_are_counted_per_artifact(weights: str, tmp_path: Path) -> None:
    def artifact(name: str, *, quantized: bool) -> Artifact:
        write_tiny_artifact(tmp_path / name, quantized=quantized)
        latency = Latency(cpu_ms=1, wall_ms=1, wall_p90_ms=1, threads=1, runs=1)
        candidate = Candidate(
            precision=Precision.FP32, folder=tmp_path / name, latency=latency,
            audit=Audit(int8_nodes=0, float_nodes=4), selection_top1=1.0, selection_drop_points=0.0,
        )  # fmt: skip
        return Artifact(
            folder=tmp_path / name, target="cpu", precision=Precision.FP32, reason="", candidate=candidate,
            float_latency=latency, place=Place.HOST, measured_by="linux/amd64",
        )  # fmt: skip

    run = run_of(tmp_path, recipe_of(weights))
    folder = Folder(path=tmp_path, digest="model", seconds=0.0, was_cached=True)
    loaded, other = Loaded(folder=folder), Loaded(folder=replace(folder, digest="another model"))
    first, second = artifact("first", quantized=False), artifact("second", quantized=True)
    assert count_look(run.dry_run(), loaded, first).number == 1
    assert [count_look(run, loaded, each).number for each in (first, first, second, first)] == [1, 1, 2, 1]
    assert count_look(run.dry_run(), loaded, second).number == 2
    assert count_look(run, other, first).number == 1


def test_what_was_done_is_recorded_in_words(weights: str, tmp_path: Path) -> None:
    loaded = load(run_of(tmp_path, recipe_of(weights)))
    record = json.loads((loaded.folder.path / "stage.json").read_text())
    assert record["stage"] == "load"
    assert set(record["inputs"]) == {"checkpoint", "data"}
    assert record["options"]["preprocessing"]["crop"] == 16
