"""Whole subnetworks timed beside the unpruned one, with the real runtime."""

from pathlib import Path

import pytest
from tiny_networks import network_of
from tiny_progress import Counted

from pipeline.artifacts import Checkpoint
from pipeline.latency.stopwatch import MAX_NOISE, MIN_NOISE, RUNS, Stopwatch, spread_of
from pipeline.latency.subnetwork import Subnetwork
from pipeline.models.checkpoint import save_network
from pipeline.models.surgery import channel_groups
from pipeline.models.zoo import residual
from pipeline.progress import reporting
from targets.runtimes import timing
from targets.target import find_target

WIDE = residual(depths=(2, 1), stage_widths=(64, 128), classes=("a", "b"), input_size=(16, 16))


@pytest.mark.slow
def test_a_narrow_network_takes_less_and_the_unpruned_one_as_long_as_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "MODEL_SECONDS", 0.1)
    network = network_of(WIDE)
    save_network(network, WIDE, tmp_path)
    full = {group.root: group.width for group in channel_groups(network, WIDE.input_shape)}
    watch = Stopwatch(
        Checkpoint(folder=tmp_path), target=find_target("cpu"), precision="int8", weight_bits=8, threads=1
    )
    narrow = {root: width // 4 for root, width in full.items()}
    progress = Counted()
    with reporting(progress, "time") as report:
        fast = watch.time(Subnetwork(widths=narrow, removed=frozenset({"layer1.1"})), report)
        # The runs that are always made; whoever asked tells the rest.
        assert progress.named("time").done >= 90
    assert len(progress.named("time").steps) > RUNS
    assert progress.named("time").notes[:2] == ["exporting", "exporting"]
    assert progress.named("time").notes[2 : 2 + RUNS] == ["run 1", "run 2", "run 3"]
    same = watch.time(Subnetwork(widths=full))
    # A fourth of the widths is a sixteenth of the work; half the time would be seen on the busiest machine.
    assert 0 < fast.pruned_ms < fast.unpruned_ms / 2
    assert 0.7 < same.pruned_ms / same.unpruned_ms < 1.4
    assert all(MIN_NOISE <= each.noise <= MAX_NOISE for each in (fast, same))


def test_the_spread_of_many_runs_is_that_of_their_middle_half() -> None:
    three = [(2.0, 1.0), (2.0, 1.1), (4.0, 2.04)]
    assert spread_of(three) == pytest.approx((0.55 - 0.5) / 2 / 0.51)
    # One run that something disturbed says nothing of the others.
    assert spread_of([*three, (2.0, 4.0)]) == pytest.approx((0.55 - 0.51) / 2 / 0.53)
