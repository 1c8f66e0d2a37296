"""Pruning as a stage: budget, recovery, the same files for the same seed, and networks of the user's own."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_networks import OPTION_B, network_of
from tiny_table import table_of
from tiny_trained import (
    Recorded,
    architecture,
    digits,
    preprocessing,
    state_of,
    write_checkpoint,
)
from torch import Tensor, nn

from pipeline.artifacts import Checkpoint
from pipeline.data.batches import Batches
from pipeline.data.images import ImageSet
from pipeline.errors import CompressionError
from pipeline.latency.table import Pace
from pipeline.models.checkpoint import build_network, load_checkpoint, save_network
from pipeline.models.zoo import residual
from pipeline.progress import Silent
from pipeline.prune.prune import prune
from pipeline.prune.recovery import estimate_statistics, recalibrate_batchnorm
from pipeline.prune.settings import PruneSettings
from pipeline.training.evaluation import top1_of
from pipeline.workplace import Data, Workplace
from pipeline.workspace.hashing import sha256_of_file, sha256_of_folder

OWN = """
from torch import nn

def padded():
    import torch.nn.functional as F

    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.first = nn.Conv2d(8, 16, 3, padding=1, stride=2, bias=False)
            self.norm = nn.BatchNorm2d(16)
            self.second = nn.Conv2d(16, 16, 3, padding=1)
            self.head = nn.Linear(16, 10)

        def forward(self, images):
            out = self.stem(images).relu()
            inside = self.norm(self.first(out)).relu()
            out = (self.second(inside) + F.pad(out[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))).relu()
            return self.head(out.mean((2, 3)))

    return Padded()
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return write_checkpoint(tmp_path_factory.mktemp("trained"))


def pruned(
    checkpoint: Checkpoint,
    folder: Path,
    *,
    macs: float = 1.0,
    params: float = 1.0,
    epochs: int = 0,
    seed: int = 0,
    progress: Recorded | None = None,
) -> Checkpoint:
    prune(
        checkpoint,
        Data(dataset=digits(), preprocessing=preprocessing()),
        PruneSettings(macs=macs, params=params, epochs=epochs, channel_multiple=4, seed=seed),
        Workplace(folder=folder, progress=progress or Recorded()),
    )
    return Checkpoint(folder=folder)


def selection_top1(checkpoint: Checkpoint) -> float:
    return top1_of(build_network(checkpoint), Batches(digits().selection, preprocessing()))


@pytest.fixture(scope="module")
def recovered(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, list[str]]:
    progress = Recorded()
    return pruned(checkpoint, tmp_path_factory.mktemp("a"), macs=0.5, epochs=1, progress=progress), progress.lines


@pytest.mark.slow
def test_macs_are_cut_and_accuracy_comes_back(
    checkpoint: Checkpoint, recovered: tuple[Checkpoint, list[str]], tmp_path: Path
) -> None:
    after, lines = recovered
    unrecovered = pruned(checkpoint, tmp_path, macs=0.5, epochs=0)
    assert after.cost == unrecovered.cost
    assert 0.4 * checkpoint.cost.macs < after.cost.macs <= 0.5 * checkpoint.cost.macs
    assert lines[0] == (
        f"prune: 0.5 of the macs kept; selection {selection_top1(checkpoint):.1%} before, "
        f"{selection_top1(unrecovered):.1%} after, not yet recovered"
    )
    assert lines[1].startswith("recovery: epoch 1/1")
    assert lines[1].endswith(f"selection {selection_top1(after):.1%}")
    assert selection_top1(after) > 0.8
    assert selection_top1(after) >= selection_top1(unrecovered)


def test_params_are_cut_where_they_are_asked_for(checkpoint: Checkpoint, tmp_path: Path) -> None:
    after = pruned(checkpoint, tmp_path, params=0.6)
    assert 0.5 * checkpoint.cost.parameters < after.cost.parameters <= 0.6 * checkpoint.cost.parameters


def test_the_files_are_those_of_a_checkpoint_and_describe_it(recovered: tuple[Checkpoint, list[str]]) -> None:
    after, _ = recovered
    assert sorted(path.name for path in after.folder.iterdir()) == [
        "architecture.json",
        "cost.json",
        "weights.safetensors",
    ]
    network = build_network(after)
    widths = {name: module.out_channels for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    assert after.architecture.widths == widths
    assert sum(widths.values()) < sum(architecture().widths.values())
    assert after.architecture.classes == digits().classes


@pytest.mark.slow
def test_same_seed_same_weights(
    checkpoint: Checkpoint, recovered: tuple[Checkpoint, list[str]], tmp_path: Path
) -> None:
    again = pruned(checkpoint, tmp_path / "again", macs=0.5, epochs=1)
    other = pruned(checkpoint, tmp_path / "other", macs=0.5, epochs=1, seed=1)
    assert sha256_of_folder(again.folder) == sha256_of_folder(recovered[0].folder)
    assert sha256_of_file(other.weights) != sha256_of_file(again.weights)


def test_with_nothing_to_prune_the_same_files_are_handed_on(checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source")
    (source.folder / "baseline.json").write_text("{}")
    progress = Recorded()
    after = pruned(source, tmp_path / "out", epochs=1, progress=progress)
    assert sha256_of_folder(after.folder) == sha256_of_folder(checkpoint.folder)
    assert progress.lines == []


def test_a_share_out_of_reach_is_an_error_before_any_training(checkpoint: Checkpoint, tmp_path: Path) -> None:
    progress = Recorded()
    with pytest.raises(CompressionError, match=r"macs = 0\.01 cannot be reached: .* would remain"):
        pruned(checkpoint, tmp_path, macs=0.01, epochs=1, progress=progress)
    assert progress.lines == []


def test_a_network_of_the_users_own_is_cut_where_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its stream is padded with channels, which the graph cannot follow; the inside of its block can be cut."""
    (tmp_path / "padded_network.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "padded_network", raising=False)
    from padded_network import padded  # type: ignore[import-not-found]

    torch.save(padded().state_dict(), "own.pth")
    load_checkpoint(
        Path("own.pth"),
        factory="padded_network:padded",
        classes=digits().classes,
        input_size=(16, 16),
        folder=tmp_path / "own",
    )
    before = Checkpoint(folder=tmp_path / "own")
    after = pruned(before, tmp_path / "pruned", params=0.7, epochs=1)
    assert after.architecture.factory == "padded_network:padded"
    assert after.architecture.widths == {"stem": 8, "first": 10, "second": 16}
    assert after.cost.parameters <= 0.7 * before.cost.parameters
    (images, _) = next(Batches(digits().selection, preprocessing()).epoch(0))
    with torch.no_grad():
        assert build_network(after)(images).shape == (100, 10)


def whole(images: ImageSet) -> Tensor:
    return torch.cat([batch for batch, _ in Batches(images, preprocessing()).epoch(0)])


def test_statistics_are_those_of_the_training_images() -> None:
    network = network_of(OPTION_B)
    norms = {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    norms["bn1"].momentum = 0.3
    momenta = [norm.momentum for norm in norms.values()]
    weights = {name: value.detach().clone() for name, value in network.named_parameters()}
    estimate_statistics(network, digits().training, preprocessing())
    assert [norm.momentum for norm in norms.values()] == momenta
    assert not any(norm.training for norm in norms.values())
    assert all(torch.equal(weights[name], value) for name, value in network.named_parameters())
    seen: dict[str, Tensor] = {}
    for name, norm in norms.items():
        norm.register_forward_pre_hook(lambda _, inputs, name=name: seen.__setitem__(name, inputs[0]))
    with torch.no_grad():
        network(whole(digits().training))
    norm, values = norms["bn1"], seen["bn1"]
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert torch.allclose(norm.running_mean, values.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
    assert torch.allclose(norm.running_var, values.var((0, 2, 3)), rtol=0.02)
    last = norms["layer3.0.bn2"]
    assert last.running_mean is not None
    # Deeper ones were measured on batches that were normalized by their own statistics.
    assert torch.allclose(last.running_mean, seen["layer3.0.bn2"].mean((0, 2, 3)), atol=0.1)


def test_measured_statistics_put_the_mean_of_removed_channels_back(checkpoint: Checkpoint) -> None:
    """A channel that is constant after its normalization, then zeroed: the next normalization makes up for it."""
    network = build_network(checkpoint)
    estimate_statistics(network, digits().training, preprocessing())
    images = whole(digits().selection)
    inside = network.get_submodule("layer2.0.bn1")
    with torch.no_grad():
        inside.get_parameter("weight")[3] = 0
        inside.get_parameter("bias")[3] = 4
        estimate_statistics(network, digits().training, preprocessing())
        before = network(images)
        inside.get_parameter("bias")[3] = 0
        off = (network(images) - before).abs().max()
        estimate_statistics(network, digits().training, preprocessing())
        restored = (network(images) - before).abs().max()
    assert float(off) > 1
    assert float(restored) < 0.3 * float(off)


def test_what_is_handed_on_without_recovery_has_its_own_statistics(checkpoint: Checkpoint, tmp_path: Path) -> None:
    network = build_network(pruned(checkpoint, tmp_path, macs=0.5, epochs=0))
    before = state_of(network)
    estimate_statistics(network, digits().training, preprocessing())
    after = state_of(network)
    names = [name for name in before if name.endswith(("running_mean", "running_var"))]
    assert all(torch.allclose(before[name], after[name], atol=1e-5) for name in names)


def foreign(network: nn.Module) -> nn.Module:
    """The same function with a variance of 1 and no mean in every normalization, as of Caffe or a folded network."""
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            with torch.no_grad():
                gain = norm.weight / (norm.running_var + norm.eps).sqrt()
                norm.bias.sub_(gain * norm.running_mean)
                norm.weight.copy_(gain * (1 + norm.eps) ** 0.5)
                norm.running_mean.zero_()
                norm.running_var.fill_(1.0)
    return network


@pytest.mark.parametrize("is_foreign", [False, True])
def test_statistics_of_the_data_change_no_function_and_may_be_measured_again(
    is_foreign: bool, checkpoint: Checkpoint
) -> None:
    network = build_network(checkpoint)
    images = whole(digits().selection)
    with torch.no_grad():
        before = network(images)
        if is_foreign:
            network = foreign(network)
            torch.testing.assert_close(network(images), before, rtol=1e-4, atol=1e-4)
        recalibrate_batchnorm(network, digits().training, preprocessing(), progress=Recorded())
        torch.testing.assert_close(network(images), before, rtol=1e-3, atol=1e-3)
        estimate_statistics(network, digits().training, preprocessing())
        again = network(images)
    # What is measured again is what is there already, but for the order of batches.
    assert float((again - before).abs().max()) < 0.05 * float(before.abs().max())
    assert float((again.argmax(1) == before.argmax(1)).float().mean()) > 0.98


@pytest.mark.slow
def test_a_folded_network_is_pruned_as_well_as_its_original(checkpoint: Checkpoint, tmp_path: Path) -> None:
    save_network(foreign(build_network(checkpoint)), checkpoint.architecture, tmp_path / "foreign")
    found = [
        selection_top1(pruned(each, tmp_path / name, macs=0.8))
        for name, each in (("a", checkpoint), ("b", Checkpoint(folder=tmp_path / "foreign")))
    ]
    assert found[1] == pytest.approx(found[0], abs=0.03)


def test_statistics_need_no_batch_normalization() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    before = state_of(network)
    estimate_statistics(network, digits().training.subset(range(4)), preprocessing())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_the_cost_beside_the_weights_is_the_pruned_networks(recovered: tuple[Checkpoint, list[str]]) -> None:
    after, _ = recovered
    stored = json.loads((after.folder / "cost.json").read_text())
    constants = [p for name, p in build_network(after).named_parameters() if "downsample" in name]
    everything = sum(value.numel() for value in build_network(after).parameters())
    assert stored["parameters"] == everything - sum(value.numel() for value in constants)


DEEP = residual(depths=(2, 3, 2), stage_widths=(8, 16, 24), classes=digits().classes, input_size=(16, 16))


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("deep")
    save_network(network_of(DEEP), DEEP, folder)
    return Checkpoint(folder=folder)


def by_clock(before: Checkpoint, folder: Path, *, per_layer: float = 2.0, **budget: Any) -> Checkpoint:
    table = table_of(build_network(before), before.architecture.input_shape, per_layer=per_layer)
    prune(
        before,
        Data(dataset=digits(), preprocessing=preprocessing()),
        PruneSettings(epochs=0, **budget, channel_multiple=8, seed=0),
        Workplace(folder=folder, progress=Silent()),
        pace=Pace(table=table, precision="int8", target="cpu", source="a table"),
    )
    return Checkpoint(folder=folder)


def time_of(network: Checkpoint, *, per_layer: float = 2.0) -> float:
    """Microseconds of the pruned network itself, by the rule of `tiny_table`."""
    layers = [m for m in build_network(network).modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    return sum(per_layer + m.weight.shape[0] * m.weight.shape[1] / 100 for m in layers)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [{"speedup": 1.5}, {"latency": 0.06}], ids=["speedup", "latency"])
def test_the_network_that_comes_out_takes_no_more_than_the_time(
    budget: dict[str, Any], deep: Checkpoint, tmp_path: Path
) -> None:
    after = by_clock(deep, tmp_path, **budget)
    allowed = time_of(deep) / 1.5 if "speedup" in budget else 60.0
    stored = json.loads((tmp_path / "sensitivity.json").read_text())
    assert stored["unpruned_ms"] == pytest.approx(time_of(deep) / 1e3)
    assert stored["budget_ms"] == pytest.approx(allowed / 1e3)
    assert stored["predicted_ms"] == pytest.approx(time_of(after) / 1e3)
    assert 0.8 * allowed < time_of(after) <= allowed * (1 + 1e-9)
    with torch.no_grad():
        assert build_network(after)(torch.zeros(2, 3, 16, 16)).shape == (2, 10)


def test_where_layers_cost_and_channels_do_not_blocks_go(deep: Checkpoint, tmp_path: Path) -> None:
    after = by_clock(deep, tmp_path, per_layer=500.0, speedup=1.25)
    stored = json.loads((tmp_path / "sensitivity.json").read_text())
    gone = len(stored["removed_blocks"])
    assert gone > 0
    assert sum(after.architecture.depths) == sum(DEEP.depths) - gone
    assert all(depth >= 1 for depth in after.architecture.depths)
    # None went in vain: with one more the budget would not be met.
    assert time_of(after, per_layer=500.0) + 2 * 500 > time_of(deep, per_layer=500.0) / 1.25


def test_a_time_out_of_reach_names_the_least_there_is(deep: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(CompressionError, match=r"0\.001 ms cannot be reached: the fastest .* ms by the table"):
        by_clock(deep, tmp_path, latency=0.001)


def test_a_table_of_another_network_is_refused(deep: Checkpoint, checkpoint: Checkpoint, tmp_path: Path) -> None:
    table = table_of(build_network(checkpoint), (3, 16, 16))
    with pytest.raises(CompressionError, match="a table is for another network"):
        prune(
            deep,
            Data(dataset=digits(), preprocessing=preprocessing()),
            PruneSettings(epochs=0, speedup=1.1, channel_multiple=8, seed=0),
            Workplace(folder=tmp_path, progress=Silent()),
            pace=Pace(table=table, precision="int8", target="cpu", source="a table"),
        )
