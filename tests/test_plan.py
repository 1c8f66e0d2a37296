"""What a build would do: done stages with their times, estimates for the rest, and nothing that will not run."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_trained import Recorded, digits, write_checkpoint, write_weights

from pipeline.artifacts import Precision
from pipeline.build import STAGES, build
from pipeline.errors import GateFailed, NotEnoughMemory
from pipeline.estimate import memory_check as memory
from pipeline.estimate.available_memory import Capacity
from pipeline.load.stage import load
from pipeline.plan import (
    FIXED_SECONDS,
    PROFILE_SECONDS,
    STOPWATCH_SECONDS,
    Plan,
    disk,
    fixed_seconds,
    plan,
)
from pipeline.prune.settings import PruneSettings
from pipeline.recipe import Recipe
from pipeline.run import Run
from pipeline.workspace.store import Workspace
from targets.runtimes import timing
from targets.target import find_target

CUT: dict[str, Any] = {"quantize": {"qat_epochs": 0}, "prune": {"macs": 0.2, "epochs": 0}}
"""Done in a few seconds, and far from what the network could do before."""
PATIENT = {"max_drop": 100.0}


def run_of(root: Path, progress: Recorded | None = None, **sections: Any) -> Run:
    recipe = Recipe.model_validate(
        {"checkpoint": str(root / "digits.safetensors"), "data": "digits", "preprocessing": {"crop": 16}, **sections}
    )
    return Run(
        recipe=recipe,
        target=replace(find_target("cpu"), precisions=(Precision.FP32,)),
        dataset=replace(digits(), gate=digits().gate.subset(range(60))),
        workspace=Workspace(root / ".deploy"),
        progress=progress or Recorded(),
    )


@pytest.fixture(scope="module")
def quick() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(timing, "MODEL_SECONDS", 0.02)
        patched.setattr(timing, "BLOCK_SECONDS", 0.001)
        yield


@pytest.fixture(scope="module")
def built(quick: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which everything up to the image is done, for a network cut so far that it has lost accuracy."""
    root = tmp_path_factory.mktemp("built")
    write_weights(root / "digits.safetensors")
    outcome = build(run_of(root, **CUT, validate=PATIENT, package={"image": False}), until=None)
    assert outcome.error is None
    assert list(outcome.stage_seconds) == list(STAGES[:-1])
    return root


def states(found: Plan) -> list[tuple[str, bool]]:
    return [(stage.stage, stage.is_done) for stage in found.stages]


@pytest.mark.slow
def test_a_fresh_plan_loads_and_estimates_the_rest(tmp_path: Path) -> None:
    write_weights(tmp_path / "digits.safetensors")
    found = plan(run_of(tmp_path))
    assert found.target == "cpu"
    assert states(found) == [(stage, stage == "load") for stage in STAGES]
    assert found.seconds_left == pytest.approx(sum(stage.seconds for stage in found.stages[1:]))
    for stage in found.stages[1:]:
        assert stage.seconds >= FIXED_SECONDS[stage.stage]
    assert found.disk_bytes > 0
    assert [path.name for path in (tmp_path / ".deploy").iterdir() if path.name != "tmp"] == ["load"]


@pytest.mark.slow
def test_a_table_that_is_not_made_yet_is_part_of_pruning(tmp_path: Path) -> None:
    write_weights(tmp_path / "digits.safetensors")
    found = plan(run_of(tmp_path, prune={"speedup": 1.3}))
    assert states(found) == [(stage, stage == "load") for stage in STAGES]
    by_clock, given = ({"speedup": 1.3}, {"speedup": 1.3, "table": "t.json"})
    longer, shorter = (fixed_seconds("prune", Recipe.model_validate({"prune": each})) for each in (by_clock, given))
    assert longer == shorter + PROFILE_SECONDS
    assert shorter == fixed_seconds("prune", Recipe()) + STOPWATCH_SECONDS
    assert fixed_seconds("prune", Recipe()) == FIXED_SECONDS["prune"]


def test_a_variant_is_exported_and_compiled_as_well() -> None:
    recipe = Recipe.model_validate({"quantize": {"saturation_safe": True}})
    longer = FIXED_SECONDS["export"] + FIXED_SECONDS["compile"]
    assert fixed_seconds("compile", recipe) == fixed_seconds("compile", Recipe()) + longer
    assert fixed_seconds("export", recipe) == fixed_seconds("export", Recipe()) == FIXED_SECONDS["export"]


@pytest.mark.slow
def test_without_an_image_its_stage_is_no_part_of_the_plan(tmp_path: Path) -> None:
    write_weights(tmp_path / "digits.safetensors")
    with_image = plan(run_of(tmp_path))
    without = plan(run_of(tmp_path, package={"image": False}))
    assert [stage.stage for stage in without.stages] == list(STAGES[:-1])
    assert without.disk_bytes < with_image.disk_bytes


def test_a_plan_of_what_is_done_says_how_long_it_took(built: Path) -> None:
    found = plan(run_of(built, **CUT, validate=PATIENT, package={"image": False}))
    assert states(found) == [(stage, True) for stage in STAGES[:-1]]
    assert found.seconds_left == 0
    assert found.disk_bytes == 0
    assert all(stage.seconds > 0 for stage in found.stages)


def test_only_the_image_is_left_where_it_is_asked_for_now(built: Path) -> None:
    found = plan(run_of(built, **CUT, validate=PATIENT))
    assert states(found) == [(stage, stage != "package") for stage in STAGES]
    assert found.seconds_left == found.stages[-1].seconds > 0


def test_another_option_is_work_from_its_stage_on(built: Path) -> None:
    sections = {**CUT, "quantize": {"qat_epochs": 1}}
    found = plan(run_of(built, **sections, validate=PATIENT))
    assert states(found) == [(stage, stage in ("load", "prune")) for stage in STAGES]


def test_a_gate_that_is_not_passed_is_said_and_its_image_not_planned(built: Path) -> None:
    progress = Recorded()
    run = run_of(built, progress, **CUT, validate={"max_drop": 0.1})
    found = plan(run)
    assert states(found) == [(stage, True) for stage in STAGES[:-1]]
    assert found.seconds_left == 0
    (line,) = progress.lines
    assert line.startswith("cpu: the build would end with: fail: top-1 ")
    assert isinstance(build(run, until=None).error, GateFailed)


@pytest.mark.slow
def test_the_estimate_grows_with_the_epochs_by_timed_steps(tmp_path: Path) -> None:
    write_weights(tmp_path / "digits.safetensors")

    def seconds(epochs: int) -> float:
        found = plan(run_of(tmp_path, prune={"macs": 0.5, "epochs": epochs}))
        return next(stage.seconds for stage in found.stages if stage.stage == "prune")

    assert seconds(0) == FIXED_SECONDS["prune"]
    assert seconds(1000) > seconds(0)


@pytest.mark.slow
def test_epochs_that_are_kept_are_not_planned_again(tmp_path: Path) -> None:
    write_weights(tmp_path / "digits.safetensors")
    sections: dict[str, Any] = {"prune": {"macs": 0.5, "epochs": 1000}}
    run = run_of(tmp_path, **sections)
    whole = plan(run).stages[1]
    inputs = run.with_data(loaded=load(run).folder)
    settings = PruneSettings(
        **run.recipe.prune.model_dump(exclude={"table"}), seed=0, channel_multiple=run.target.channel_multiple
    )
    key = run.key("prune", code="pipeline.prune.prune", inputs=inputs, settings=settings)
    run.workspace.continuation(key).keep(b"state", epochs=990, seconds=1.0, name="recovery", progress=Recorded())
    left = plan(run)
    assert [stage.epochs_done for stage in left.stages] == [0, 990, 0, 0, 0, 0, 0]
    assert left.stages[1].seconds - FIXED_SECONDS["prune"] < 0.2 * (whole.seconds - FIXED_SECONDS["prune"])


def test_disk_is_for_the_stages_that_are_left(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path)
    needed = [disk(checkpoint, digits(), STAGES[first:]) for first in range(len(STAGES) + 1)]
    assert needed == sorted(needed, reverse=True)
    assert len(set(needed)) == len(needed)
    assert needed[-1] == 0
    assert needed[-2] == checkpoint.cost.weight_bytes
    gate = sum(len(digits().gate.encoded(index)) for index in range(800))
    shards = needed[5] - disk(checkpoint, replace(digits(), gate=digits().gate.subset([])), STAGES[5:])
    assert shards == pytest.approx(2 * gate, rel=0.1)


def test_what_is_written_fits_the_estimate(built: Path, tmp_path: Path) -> None:
    """Of the same order: the network is tiny, so that descriptions weigh as much as weights."""
    run = run_of(built, **CUT, validate=PATIENT, package={"image": False})
    loaded = load(run)
    estimate = disk(loaded.checkpoint, run.dataset, STAGES[1:-1])
    stages = ("prune", "quantize", "export", "compile", "validate")
    files = [path for stage in stages for path in (built / ".deploy" / stage).rglob("*") if path.is_file()]
    written = sum(path.stat().st_size for path in files)
    assert 0.2 < written / estimate < 2


@pytest.mark.slow
def test_memory_is_told_for_what_is_left(tmp_path: Path) -> None:
    write_weights(tmp_path / "digits.safetensors")
    found = plan(run_of(tmp_path, **CUT, package={"image": False}))
    assert found.stages[0].memory_bytes is None
    sizes = [stage.memory_bytes for stage in found.stages[1:]]
    assert all(size is not None and size > 2**20 for size in sizes)
    assert found.memory_bytes == max(size for size in sizes if size is not None)


def test_a_finished_build_needs_no_memory(built: Path) -> None:
    assert plan(run_of(built, **CUT, validate=PATIENT, package={"image": False})).memory_bytes is None


def test_too_little_memory_ends_a_plan_before_anything_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_weights(tmp_path / "digits.safetensors")
    monkeypatch.setattr(memory, "capacity", lambda: Capacity(total=2**20, available=2**20))
    monkeypatch.setattr("pipeline.plan._effort", None)
    with pytest.raises(NotEnoughMemory, match=r"needs about 0\.\d GiB of memory, this machine has 0\.0 GiB"):
        plan(run_of(tmp_path, **CUT))


def test_too_little_memory_ends_a_build_before_it_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_weights(tmp_path / "digits.safetensors")
    monkeypatch.setattr(memory, "capacity", lambda: Capacity(total=2**20, available=2**20))
    outcome = build(run_of(tmp_path, **CUT), until=None)
    assert isinstance(outcome.error, NotEnoughMemory)
    assert list(outcome.stage_seconds) == ["load"]
