"""Several cuts for one time: each holds it, no two are the same, and they differ in blocks against channels."""

import pytest
import torch
from tiny_networks import network_of
from tiny_progress import Counted
from tiny_table import table_of

from pipeline.artifacts import Architecture
from pipeline.errors import CompressionError
from pipeline.latency.subnetwork import Subnetwork
from pipeline.latency.table import Pace, Timing
from pipeline.models.zoo import residual
from pipeline.progress import Progress, Report, Silent
from pipeline.prune.candidates import BLOCK_FACTORS, Proposals, propose
from pipeline.prune.trials import Deadline, Time

DEEP = residual(depths=(2, 3, 2), stage_widths=(16, 32, 48), classes=("a", "b", "c"), input_size=(16, 16))
SHALLOW = residual(depths=(1, 1, 1), stage_widths=(16, 32, 48), classes=("a", "b", "c"), input_size=(16, 16))


def proposals(
    architecture: Architecture,
    *,
    speedup: float,
    per_layer: float = 20.0,
    time: Time | None = None,
    progress: Progress | None = None,
) -> Proposals:
    network = network_of(architecture)
    images = [torch.randn(8, *architecture.input_shape, generator=torch.Generator().manual_seed(0))]
    table = table_of(network, architecture.input_shape, multiple=8, per_layer=per_layer)
    return propose(
        network,
        architecture,
        images,
        pace=Pace(table=table, precision="int8", target="cpu", source="a table"),
        deadline=Deadline(latency_us=None, speedup=speedup),
        time=time,
        seed=0,
        progress=progress or Silent(),
    )


def test_each_holds_the_time_and_is_the_network_that_it_says() -> None:
    found = proposals(DEEP, speedup=1.4)
    assert len(found.each) > 1
    for proposal in found.each:
        chosen = proposal.trial.chosen
        assert found.clock.latency_us(chosen) <= found.unpruned_us / 1.4 * (1 + 1e-9)
        assert sum(proposal.architecture.depths) == sum(DEEP.depths) - len(chosen.removed)
        stem = proposal.network.get_parameter("conv1.weight")
        assert len(stem) == chosen.widths["conv1"]
        with torch.no_grad():
            assert proposal.network(torch.zeros(2, *DEEP.input_shape)).shape == (2, 3)


def test_cheaper_blocks_go_first_and_no_cut_comes_twice() -> None:
    found = proposals(DEEP, speedup=1.4)
    by_factor = {proposal.block_factor: len(proposal.trial.chosen.removed) for proposal in found.each}
    assert [by_factor[factor] for factor in sorted(by_factor)] == sorted(by_factor.values(), reverse=True)
    assert len(set(by_factor.values())) > 1
    assert set(by_factor) <= set(BLOCK_FACTORS)
    assert len({(p.trial.chosen.removed, tuple(p.trial.chosen.widths.items())) for p in found.each}) == len(found.each)


def test_without_blocks_to_leave_out_there_is_one() -> None:
    found = proposals(SHALLOW, speedup=1.2, per_layer=1.0)
    assert [proposal.block_factor for proposal in found.each] == [BLOCK_FACTORS[0]]


def test_what_is_measured_solved_and_timed_is_told() -> None:
    timed: list[Subnetwork] = []

    def time(chosen: Subnetwork, report: Report) -> Timing:
        """Of a machine on which the first networks that are chosen take too long."""
        timed.append(chosen)
        report(0.5, note="run 1")
        return Timing(unpruned_ms=1.4, pruned_ms=1.05 - 0.01 * len(timed), noise=0.01)

    progress = Counted()
    found = proposals(DEEP, speedup=1.4, time=time, progress=progress)
    assert [task.name for task in progress.tasks] == ["importance of channels", "importance of blocks", "choose cuts"]
    assert [task.done for task in progress.tasks] == [task.total for task in progress.tasks] == [8, 8, 100]
    assert len(timed) > len(BLOCK_FACTORS)
    notes = progress.named("choose cuts").notes
    assert [note for note in notes if "," not in note] == ["cut 1 of 3", "cut 2 of 3", "cut 3 of 3"]
    assert "cut 1 of 3, trial 2, run 1" in notes
    assert sum("run 1" in note for note in notes) == len(timed)
    assert all(proposal.trial.timing is not None for proposal in found.each)


def test_a_time_out_of_reach_is_an_error() -> None:
    with pytest.raises(CompressionError, match="cannot be reached"):
        proposals(DEEP, speedup=100)
