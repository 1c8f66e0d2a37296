"""Which cut goes on: the one that is nearest to the float network after the same little training."""

import copy
from pathlib import Path

import pytest
import torch
from tiny_trained import Recorded, digits, is_same, preprocessing, state_of, write_checkpoint
from torch import nn

from pipeline.models.checkpoint import build_network
from pipeline.progress import Progress, Silent
from pipeline.prune.tournament import SHARE, Contest, run_contest
from pipeline.workplace import Data, Workplace
from pipeline.workspace.training_state import Continuation


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return build_network(write_checkpoint(tmp_path_factory.mktemp("trained")))


def damaged(teacher: nn.Module, share: float) -> nn.Module:
    """Without a share of the last stage's channels."""
    network = copy.deepcopy(teacher)
    weight = network.get_parameter("layer3.0.conv1.weight")
    with torch.no_grad():
        weight[: round(share * len(weight))] = 0
    return network


def held(
    contestants: list[nn.Module],
    teacher: nn.Module,
    *,
    epochs: int,
    progress: Progress | None = None,
    continuation: Continuation | None = None,
) -> Contest:
    return run_contest(
        contestants,
        teacher,
        Data(dataset=digits(), preprocessing=preprocessing()),
        epochs=epochs,
        seed=0,
        at=Workplace(folder=Path(), progress=progress or Silent(), continuation=continuation),
    )


@pytest.mark.slow
def test_the_one_with_the_least_damage_wins_and_none_is_changed(teacher: nn.Module) -> None:
    contestants = [damaged(teacher, 0.95), damaged(teacher, 0.1), damaged(teacher, 0.8)]
    before = [state_of(each) for each in contestants]
    untrained, trained = (held(contestants, teacher, epochs=epochs) for epochs in (0, 20))
    assert (untrained.images, trained.images) == (0, round(SHARE * 20 * len(digits().training) / 3))
    for contest in (untrained, trained):
        assert contest.winner == 1
        assert contest.divergences[1] < contest.divergences[2] < contest.divergences[0]
    assert trained.divergences[0] < untrained.divergences[0]
    assert all(is_same(state, state_of(each)) for state, each in zip(before, contestants, strict=True))


def test_one_alone_needs_no_contest(teacher: nn.Module) -> None:
    progress = Recorded()
    assert held([damaged(teacher, 0.5)], teacher, epochs=5, progress=progress) == Contest(
        winner=0, divergences=(), images=0
    )
    assert progress.lines == []


@pytest.mark.slow
def test_a_contest_that_was_stopped_goes_on_with_the_same_figures(teacher: nn.Module, tmp_path: Path) -> None:
    contestants = [damaged(teacher, 0.9), damaged(teacher, 0.1)]
    continuation = Continuation(file=tmp_path / "state", fingerprint="prune")
    first = held(contestants, teacher, epochs=2, continuation=continuation)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["state-1", "state-2"]
    (tmp_path / "state-2").unlink()
    progress = Recorded()
    assert held(contestants, teacher, epochs=2, progress=progress, continuation=continuation) == first
    assert [line for line in progress.lines if "resumes" in line] == ["cut 1 of 2: resumes after epoch 1 of 1"]
