"""What stages need grows with what they are given, and a rough bound is above all of it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_networks import own
from tiny_trained import digits, write_checkpoint

from pipeline.artifacts import Architecture, Checkpoint
from pipeline.data.batches import CACHE_BYTES
from pipeline.data.readers import Dataset
from pipeline.estimate.memory import MIB, PROCESS, Needs
from pipeline.models.checkpoint import save_network
from pipeline.models.resnet import build_resnet
from pipeline.models.zoo import published_architecture, residual
from pipeline.recipe import Recipe

STAGES = ("load", "prune", "quantize", "export", "compile", "validate", "package")
TRAINED: dict[str, Any] = {"prune": {"macs": 0.5, "epochs": 1}, "quantize": {"qat_epochs": 1}}
PUBLISHED = ("resnet20", "resnet18", "resnet50")
LARGE = residual(depths=(1, 1), stage_widths=(16, 32), classes=tuple("abcdefghij"), shortcut="B", input_size=(96, 96))


def checkpoint_of(architecture: Architecture, folder: Path) -> Checkpoint:
    save_network(own(lambda: build_resnet(architecture)), architecture, folder)
    return Checkpoint(folder=folder)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return checkpoint_of(LARGE, tmp_path_factory.mktemp("large"))


def needs(checkpoint: Checkpoint, dataset: Dataset | None = None, **sections: Any) -> Needs:
    return Needs(checkpoint, dataset or digits(), Recipe.model_validate({**TRAINED, **sections}))


def repeated(times: int) -> Dataset:
    training = digits().training
    return replace(digits(), training=training.subset([index % len(training) for index in range(times)]))


@pytest.mark.slow
def test_training_needs_more_than_looking(large: Checkpoint) -> None:
    found = needs(large)
    for stage in ("prune", "quantize"):
        assert found.of(stage) > found.of("load") > PROCESS
    assert found.of("package") == PROCESS


@pytest.mark.slow
def test_a_stage_with_nothing_to_train_needs_less(large: Checkpoint) -> None:
    trained = needs(large)
    assert needs(large, prune={"macs": 1.0}).of("prune") == PROCESS
    assert PROCESS < needs(large, prune={"macs": 0.5, "epochs": 0}).of("prune") <= trained.of("prune")
    assert PROCESS < needs(large, quantize={"qat_epochs": 0}).of("quantize") < trained.of("quantize")


@pytest.mark.slow
def test_a_larger_image_needs_more(tmp_path: Path, large: Checkpoint) -> None:
    small = checkpoint_of(replace(LARGE, input_shape=(3, 48, 48)), tmp_path)
    assert needs(small).of("quantize") - PROCESS < 0.5 * (needs(large).of("quantize") - PROCESS)


@pytest.mark.slow
def test_images_add_as_far_as_they_are_kept(large: Checkpoint) -> None:
    one = 3 * 96 * 96
    few, more = needs(large, repeated(1000)), needs(large, repeated(3000))
    assert more.of("quantize") - few.of("quantize") == 2000 * one
    too_many = needs(large, repeated(CACHE_BYTES // one + 1))
    assert too_many.of("quantize") == few.of("quantize") - 1000 * one


def test_by_the_clock_more_is_kept_than_by_cost(large: Checkpoint) -> None:
    by_cost, by_clock = needs(large), needs(large, prune={"speedup": 1.5, "epochs": 1, "table": "table.json"})
    assert by_clock.of("prune") > by_cost.of("prune") + 512 * 4 * 3 * 96 * 96 - MIB
    made = needs(large, prune={"speedup": 1.5, "epochs": 0})
    assert made.of("prune") >= made.profile


@pytest.mark.slow
def test_each_process_needs_its_own(large: Checkpoint) -> None:
    one, two, four = (needs(large, nproc=count).of("quantize") for count in (1, 2, 4))
    assert one < two < four
    assert four > 4 * PROCESS
    assert needs(large, nproc=4).of("export") == needs(large).of("export")


@pytest.mark.slow
def test_layers_that_stay_in_float_are_followed(large: Checkpoint) -> None:
    quantize = {"qat_epochs": 1, "keep_float": ("conv1", "fc")}
    assert PROCESS < needs(large, quantize=quantize).of("quantize") <= needs(large).of("quantize")


@pytest.mark.slow
def test_the_checkpoint_stays_as_it_is(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    found = needs(checkpoint)
    for stage in STAGES:
        found.of(stage)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["resnet8", *(pytest.param(name, marks=pytest.mark.long) for name in PUBLISHED)])
@pytest.mark.parametrize("processes", [1, 2])
def test_the_rough_bound_is_above_every_stage(name: str, processes: int, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(published_architecture(name, classes=tuple("abcdefghij")), tmp_path)
    found = needs(checkpoint, nproc=processes)
    assert found.at_most > max(found.of(stage) for stage in STAGES)
