"""`benchmarks/compare_pruning.py`: a cut by hand that is what it says, and both sides on the same way to the table."""

import re
from pathlib import Path

import compare_pruning
import pytest
import torch
import uniform_pruning
from tiny_networks import network_of
from tiny_table import table_of
from tiny_trained import architecture, write_weights
from uniform_pruning import Plan, cut, mildest, plans_of

from pipeline.artifacts import Architecture
from pipeline.models.zoo import Bottleneck, residual
from targets.runtimes import timing

BASIC = residual(depths=(2, 2), stage_widths=(16, 32), classes=("a", "b"), input_size=(8, 8))
DEEP = residual(depths=(1, 1), stage_widths=(16, 32), classes=("a", "b"), input_size=(8, 8), bottleneck=Bottleneck())


def widths(network: torch.nn.Module) -> dict[str, int]:
    return {n: m.out_channels for n, m in network.named_modules() if isinstance(m, torch.nn.Conv2d)}


@pytest.mark.parametrize("shape", [pytest.param(BASIC, id="basic"), pytest.param(DEEP, id="bottleneck")])
def test_the_channels_with_the_smallest_weights_go_and_streams_stay(shape: Architecture) -> None:
    network = network_of(shape)
    blocks = len(uniform_pruning.inner_layers(shape))
    layer = "layer2.0.conv1"
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name in (f"{layer}.weight", "layer2.0.bn1.weight", "layer2.0.bn1.bias"):
                parameter[:16] *= 1e-3
            if name == "layer2.0.conv2.weight":
                parameter[:, :16] *= 1e-3
    pruned = cut(network, shape, Plan(ratios=(0.5,) * blocks, round_to=8))
    inner = {name for names in uniform_pruning.inner_layers(shape) for name in names}
    full = widths(network)
    assert widths(pruned) == {name: width // 2 if name in inner else width for name, width in full.items()}
    before, after = (each.get_parameter(f"{layer}.weight") for each in (network, pruned))
    assert torch.equal(after, before[16:])


@pytest.mark.long
def test_plans_get_harsher_block_by_block_and_never_narrower_than_one_multiple() -> None:
    network = network_of(BASIC)
    plans = plans_of(network, BASIC, round_to=16)
    # 16 channels cannot lose 16; 32 can.
    assert [widths(cut(network, BASIC, plan))["layer2.1.conv1"] for plan in plans] == [16] * 4
    assert [widths(cut(network, BASIC, plan))["layer2.0.conv1"] for plan in plans] == [32, 16, 16, 16]
    assert all(widths(cut(network, BASIC, plan))["layer1.0.conv1"] == 16 for plan in plans)


def test_the_mildest_plan_that_is_fast_enough_is_found() -> None:
    plans = [Plan(ratios=(number / 20,), round_to=8) for number in range(20)]
    for first in range(20):
        fast_enough = plans[first:]
        assert mildest(plans, lambda plan, enough=fast_enough: plan in enough) == plans[first]  # type: ignore[misc]
    assert mildest(plans, lambda plan: False) is None
    assert mildest([], lambda plan: True) is None


@pytest.mark.long
@pytest.mark.parametrize("teacher", [False, True])
def test_both_sides_come_to_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, teacher: bool) -> None:
    monkeypatch.setattr(timing, "MODEL_SECONDS", 0.02)
    monkeypatch.setattr(timing, "BLOCK_SECONDS", 0.001)
    monkeypatch.setattr(compare_pruning, "SLACK", 9.0)  # a network this small is no faster for being cut
    weights, table = tmp_path / "weights.safetensors", tmp_path / "table.json"
    write_weights(weights)
    table.write_text(table_of(network_of(architecture()), architecture().input_shape).to_json())
    flags = {
        "checkpoint": str(weights),
        "data": "digits",
        "preprocessing.crop": 16,
        "prune.speedup": 1.2,
        "prune.epochs": 1,
        "prune.table": str(table),
        "quantize.qat_epochs": 0,
    }
    rows = compare_pruning.compare(flags, work=tmp_path / "work", teacher=weights if teacher else None)
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert [len(row) for row in cells] == [9] * 5
    names = [row[1].split(",")[0] for row in cells]
    assert names == ["nothing", "nothing", "torch-pruning", "Edge Deploy", "ours against torch-pruning"]
    assert "multiples of" in cells[2][1]
    macs = [float(row[5].removesuffix(" M")) for row in cells[:4]]
    assert macs[0] == macs[1] > max(macs[2], macs[3])
    assert all(float(row[7].removesuffix("%")) > 50 for row in cells[:4])
    assert all(re.match(r"[+-]\d+\.\d\d \[.+\] \(\d+ lost, \d+ won\)", row[8]) for row in cells[1:])
    again = compare_pruning.compare(flags, work=tmp_path / "work", teacher=weights if teacher else None)
    # Nothing but the times is new: the work was kept.
    assert [row.split("|")[6:] for row in again[:4]] == [row.split("|")[6:] for row in rows[:4]]
