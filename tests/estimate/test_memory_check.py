"""A machine with less memory than a stage needs stops a build before it, with the figures and what to do."""

from pathlib import Path
from typing import Any

import pytest
from tiny_trained import digits, write_checkpoint

from pipeline.artifacts import Checkpoint
from pipeline.errors import NotEnoughMemory, RecipeError
from pipeline.estimate import memory_check as memory
from pipeline.estimate.available_memory import Capacity
from pipeline.estimate.memory import Needs
from pipeline.estimate.memory_check import ORDER, check_memory, check_memory_quickly
from pipeline.recipe import Recipe

GIB = 2**30
PLENTY = Capacity(total=1024 * GIB, available=1024 * GIB)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


def recipe(**sections: Any) -> Recipe:
    return Recipe.model_validate({"prune": {"macs": 0.5, "epochs": 1}, **sections})


def refusal(checkpoint: Checkpoint, has: Capacity, **sections: Any) -> str:
    with pytest.raises(NotEnoughMemory) as raised:
        check_memory(checkpoint, digits(), recipe(**sections), stages=ORDER, has=has)
    return str(raised.value)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"prune": 5, "quantize": 6, "export": 2, "compile": 1, "validate": 1}
    monkeypatch.setattr(Needs, "of", lambda _, stage: sizes[stage] * GIB)
    monkeypatch.setattr(Needs, "at_most", 20 * GIB)


@pytest.mark.slow
def test_every_stage_is_told_where_there_is_enough(checkpoint: Checkpoint) -> None:
    found = check_memory(checkpoint, digits(), recipe(), stages=ORDER, has=PLENTY)
    assert tuple(found) == ORDER
    assert all(size > 0 for size in found.values())


def test_just_enough_is_enough(checkpoint: Checkpoint, known: None) -> None:
    has = Capacity(total=6 * GIB, available=0)
    assert check_memory(checkpoint, digits(), recipe(), stages=ORDER, has=has)["quantize"] == 6 * GIB


def test_the_stage_that_needs_most_is_named_with_both_figures(checkpoint: Checkpoint, known: None) -> None:
    said = refusal(checkpoint, Capacity(total=4 * GIB, available=4 * GIB))
    assert said == (
        "stage quantize needs about 6.0 GiB of memory, this machine has 4.0 GiB. Use a machine with more memory."
    )


def test_what_is_free_a_limit_and_processes_are_part_of_the_answer(checkpoint: Checkpoint, known: None) -> None:
    has = Capacity(total=4 * GIB, available=GIB, limited_by="/sys/fs/cgroup/memory.max")
    said = refusal(checkpoint, has, nproc=3)
    assert "/sys/fs/cgroup/memory.max allows 4.0 GiB, of which 1.0 GiB are free now." in said
    assert "raise that limit" in said
    assert "use fewer processes than 3 (--nproc)" in said


def test_a_network_that_cannot_be_followed_ends_nothing(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(needs: Needs, stage: str) -> int:
        raise NotImplementedError(stage)

    monkeypatch.setattr(Needs, "of", fail)
    assert check_memory(checkpoint, digits(), recipe(), stages=ORDER, has=PLENTY) == {}


def test_what_a_stage_would_refuse_is_refused(checkpoint: Checkpoint) -> None:
    with pytest.raises(RecipeError, match=r"no\.such\.layer"):
        check_memory(checkpoint, digits(), recipe(quantize={"keep_float": ("no.such.layer",)}), stages=ORDER)


def test_nothing_is_counted_where_the_bound_is_within_it(
    checkpoint: Checkpoint, known: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "capacity", lambda: Capacity(total=20 * GIB, available=0))
    monkeypatch.setattr(memory, "check_memory", None)
    check_memory_quickly(checkpoint, digits(), recipe(), since="prune")


def test_from_a_stage_on_those_before_it_do_not_count(
    checkpoint: Checkpoint, known: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "capacity", lambda: Capacity(total=5 * GIB, available=0))
    check_memory_quickly(checkpoint, digits(), recipe(), since="export")
    with pytest.raises(NotEnoughMemory, match="stage quantize"):
        check_memory_quickly(checkpoint, digits(), recipe(), since="prune")


def test_a_file_of_the_group_is_named_as_it_is(tmp_path: Path, checkpoint: Checkpoint, known: None) -> None:
    has = Capacity(total=2 * GIB, available=2 * GIB, limited_by=str(tmp_path / "memory.limit_in_bytes"))
    assert f"{tmp_path}/memory.limit_in_bytes allows 2.0 GiB. Use" in refusal(checkpoint, has)
