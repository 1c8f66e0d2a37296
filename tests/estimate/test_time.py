"""What images cost is timed in the loops that the stages run, and adds up by stage."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_trained import digits, preprocessing, write_checkpoint

from pipeline.artifacts import Checkpoint
from pipeline.errors import RecipeError
from pipeline.estimate import time as effort
from pipeline.estimate.time import STEPS, Effort, effort_of
from pipeline.prune.tournament import SHARE
from pipeline.quantize.quantize import CALIBRATION_IMAGES
from pipeline.recipe import Recipe

KNOWN = Effort(look=1.0, recover=10.0, quantize=100.0)
TRAINING, SELECTION, GATE = 897, 100, 800


def recipe_of(**sections: Any) -> Recipe:
    return Recipe.model_validate(sections)


def seconds(stage: str, *, epochs_done: int = 0, **sections: Any) -> float:
    return KNOWN.seconds(stage, recipe_of(**sections), digits(), epochs_done=epochs_done)


def test_pruning_costs_its_recovery() -> None:
    once = TRAINING * 10.0 + SELECTION
    assert seconds("prune", prune={"epochs": 10}) == 0
    assert seconds("prune", prune={"macs": 0.5, "epochs": 0}) == 0
    assert seconds("prune", prune={"macs": 0.5, "epochs": 7}) == 7 * once
    assert seconds("prune", prune={"params": 0.5, "epochs": 7}, epochs_done=5) == 2 * once


def test_cuts_are_tried_before_a_recovery_by_the_clock_and_not_again_after_it_has_begun() -> None:
    prune = {"speedup": 1.3, "epochs": 10}
    begun = seconds("prune", prune=prune, epochs_done=1)
    assert begun == 9 * (TRAINING * 10.0 + SELECTION)
    one_more_epoch = TRAINING * 10.0 + SELECTION
    assert seconds("prune", prune=prune) == pytest.approx(begun + one_more_epoch + SHARE * 10 * TRAINING * 10.0)


def test_quantizing_costs_calibration_and_training() -> None:
    once = TRAINING * 100.0 + SELECTION
    assert seconds("quantize", quantize={"qat_epochs": 0}) == CALIBRATION_IMAGES
    assert seconds("quantize", quantize={"qat_epochs": 3}) == CALIBRATION_IMAGES + 3 * once
    assert seconds("quantize", quantize={"qat_epochs": 3}, epochs_done=2) == CALIBRATION_IMAGES + once


def test_the_other_stages_look_at_selection_and_gate() -> None:
    assert seconds("export") == 0
    assert seconds("compile") == 3 * SELECTION
    assert seconds("validate") == seconds("package") == GATE


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return write_checkpoint(tmp_path)


def found(checkpoint: Checkpoint, *stages: str, **sections: Any) -> Effort:
    return effort_of(checkpoint, digits(), preprocessing(), recipe_of(**sections), stages=stages)


PRUNED: dict[str, Any] = {"prune": {"macs": 0.5, "epochs": 1}, "quantize": {"qat_epochs": 1}}


def test_a_training_step_takes_longer_than_a_look(checkpoint: Checkpoint) -> None:
    each = found(checkpoint, "prune", "quantize", **PRUNED)
    assert 0 < each.look < each.recover
    assert each.look < each.quantize


def test_only_what_will_be_trained_is_tried(checkpoint: Checkpoint) -> None:
    assert found(checkpoint, "validate", **PRUNED).recover == 0
    assert found(checkpoint, "quantize", **PRUNED).recover == 0
    assert found(checkpoint, "quantize", **PRUNED).quantize > 0
    unpruned = found(checkpoint, "prune", "quantize", quantize={"qat_epochs": 0})
    assert (unpruned.recover, unpruned.quantize) == (0, 0)


def test_the_checkpoint_stays_as_it_is(checkpoint: Checkpoint) -> None:
    before = {path.name: path.read_bytes() for path in checkpoint.folder.iterdir()}
    found(checkpoint, "prune", "quantize", **PRUNED)
    assert {path.name: path.read_bytes() for path in checkpoint.folder.iterdir()} == before


def test_a_layer_that_is_to_stay_in_float_and_does_not_exist_is_said_here(checkpoint: Checkpoint) -> None:
    with pytest.raises(RecipeError, match=r"no\.such\.layer"):
        found(checkpoint, "quantize", quantize={"keep_float": ("no.such.layer",)})


def test_large_networks_are_tried_with_fewer_images(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def noted(few: object, *images: Any, **options: Any) -> float:
        sizes.append(len(images[0].training))
        return 1.0

    monkeypatch.setattr(effort, "_seconds_to_recover", noted)
    for look in (1e-6, 0.002, 10.0):
        monkeypatch.setattr(effort, "seconds_to_look", lambda checkpoint, look=look: look)
        found(checkpoint, "prune", **PRUNED)
    assert sizes == [64, round(effort.PROBE_SECONDS / (effort.PASSES * STEPS * 0.002)), 8]


def test_fewer_training_images_than_a_batch_will_do(checkpoint: Checkpoint) -> None:
    few = replace(digits(), training=digits().training.subset(range(5)))
    assert effort_of(checkpoint, few, preprocessing(), recipe_of(**PRUNED), stages=("prune",)).recover > 0
