"""What each cut costs and buys, in one unit and one file."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from tiny_networks import network_of
from tiny_table import table_of

from pipeline.latency.subnetwork import Subnetwork, sites
from pipeline.latency.table import Pace, Timing
from pipeline.models.surgery import channel_groups
from pipeline.models.zoo import residual
from pipeline.prune.by_latency import Clock
from pipeline.prune.report import CHART, FILE, losses_of, sensitivity, write_report
from pipeline.prune.trials import Deadline, Trial

BASIC = residual(depths=(2, 1), stage_widths=(8, 16), classes=("a", "b"), input_size=(16, 16))


def test_losses_are_the_least_important_channels_per_image() -> None:
    network = network_of(BASIC)
    groups = channel_groups(network, BASIC.input_shape)
    scores = {group.root: torch.arange(group.width, dtype=torch.float32) for group in groups}
    grid = {group.root: (group.width - 2, group.width) for group in groups}
    losses = losses_of(groups, scores, {"layer1.1": 30.0}, grid, images=10)
    assert losses.blocks == {"layer1.1": 3.0}
    for group in groups:
        assert losses.widths[group.root] == pytest.approx({group.width - 2: 0.1, group.width: 0.0})


def test_every_cut_is_told_with_what_it_buys_and_the_chosen_ones_marked(tmp_path: Path) -> None:
    network = network_of(BASIC)
    table = table_of(network, BASIC.input_shape, multiple=16)
    groups = channel_groups(network, BASIC.input_shape)
    scores = {group.root: torch.ones(group.width) for group in groups}
    losses = losses_of(groups, scores, {"layer1.1": 2.0}, table.grid, images=1)
    clock = Clock(table, "int8", sites(network, groups), losses)
    narrow = {**table.full, "layer2.0.conv1": 8}
    chosen = Subnetwork(widths=narrow, removed=frozenset({"layer1.1"}))
    cuts = sensitivity(clock, losses, table.full, chosen)
    assert set(cuts) == {*table.full, "layer1.1"}
    narrower, whole = cuts["layer2.0.conv1"]
    assert (narrower.width, narrower.is_chosen, narrower.loss) == (8, True, 8.0)
    # Eight channels less, read from 8 and written to 16: 8 * (8 + 16) / 100 microseconds.
    assert narrower.gain_us == pytest.approx(1.92)
    assert (whole.width, whole.gain_us, whole.is_chosen) == (16, 0.0, False)
    (block,) = cuts["layer1.1"]
    assert block.is_chosen
    assert block.gain_us == pytest.approx(2 * (2 + 0.64))
    timing = Timing(unpruned_ms=0.05, pruned_ms=0.0375, noise=0.01)
    trial = Trial(chosen=chosen, predicted_us=39.0, budget_us=40.0, timing=timing)
    deadline = Deadline(latency_us=None, speedup=1.25)
    pace = Pace(table=table, precision="int8", target="cpu", source="a table")
    write_report(tmp_path, cuts, pace=pace, unpruned_us=50.0, deadline=deadline, trial=trial, trials=(trial,))
    stored = json.loads((tmp_path / FILE).read_text())
    assert (stored["unpruned_ms"], stored["budget_ms"], stored["predicted_ms"]) == (0.05, 0.04, 0.039)
    assert stored["asked"] == {"latency_ms": None, "speedup": 1.25}
    assert stored["measured"] == {"unpruned_ms": 0.05, "pruned_ms": 0.0375, "noise": 0.01}
    assert stored["not_measured"] is None
    assert stored["removed_blocks"] == ["layer1.1"]
    assert stored["cuts"]["layer1.1"] == [{"width": 0, "loss": 2.0, "gain_us": pytest.approx(5.28), "is_chosen": True}]
    words = [element.text or "" for element in ElementTree.parse(tmp_path / CHART).getroot().iter()]
    assert "layer2.0.conv1" in words
    assert "left out" in words
