"""Importance of channels, held against what taking them out really does."""

import pytest
import torch
from tiny_networks import OPTION_A, SHAPE, Depthwise, network_of, own
from torch import Tensor, nn

from pipeline.models.surgery import channel_groups, zero_channels
from pipeline.models.zoo import residual
from pipeline.prune.importance import Scores, block_importance, channel_importance


class Linear(nn.Module):
    """No nonlinearity and one logit: here the first order is all there is, and a sign squared is one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.inside = nn.Conv2d(6, 8, 1)
        self.last = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 1)

    def forward(self, images: Tensor) -> Tensor:
        out = self.stem(images)
        out = out + self.last(self.inside(out))
        logits: Tensor = self.head(out.mean((2, 3)))
        return logits


def batches(count: int = 3, shape: tuple[int, int, int] = SHAPE) -> list[Tensor]:
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(8, *shape, generator=generator) + 0.3 for _ in range(count)]


def scores_of(network: nn.Module) -> Scores:
    groups = channel_groups(network, OPTION_A.input_shape)
    return channel_importance(network, groups, batches(shape=OPTION_A.input_shape), seed=0)


def test_it_is_the_squared_change_of_the_logits_beyond_its_mean() -> None:
    network = own(Linear)
    groups = channel_groups(network, SHAPE)
    scores = channel_importance(network, groups, batches(), seed=0)
    inside = next(group for group in groups if group.root == "inside")
    for channel in range(inside.width):
        without = zero_channels(network, [inside], {"inside": (channel,)})
        expected = 0.0
        for images in batches():
            change = (network(images) - without(images)).detach()
            expected += float((change - change.mean(dim=0)).square().sum())
        assert float(scores["inside"][channel]) == pytest.approx(expected, rel=1e-4)


def test_a_channel_that_nobody_reads_has_none() -> None:
    network = network_of(OPTION_A)
    with torch.no_grad():
        network.get_submodule("layer2.0.conv2").get_parameter("weight")[:, 5] = 0
        network.get_submodule("fc").get_parameter("weight")[:, 3] = 0
    scores = scores_of(network)
    groups = channel_groups(network, OPTION_A.input_shape)
    assert scores["layer2.0.conv1"][5] == 0
    assert scores["layer3.0.downsample.0"][3] == 0
    assert (scores["layer2.0.conv1"] > 0).sum() == 11
    assert {root: len(score) for root, score in scores.items()} == {group.root: group.width for group in groups}


def test_a_constant_channel_has_none_as_its_mean_is_put_back() -> None:
    network = network_of(OPTION_A)
    norm = network.get_submodule("layer2.0.bn1")
    with torch.no_grad():
        norm.get_parameter("weight")[2] = 0
        norm.get_parameter("bias")[2] = 5
    scores = scores_of(network)
    assert float(scores["layer2.0.conv1"][2]) < 1e-6 * float(scores["layer2.0.conv1"].mean())


def test_a_channel_read_with_three_times_the_weight_matters_nine_times_as_much() -> None:
    network = own(Depthwise)
    groups = channel_groups(network, SHAPE)
    before = channel_importance(network, groups, batches(), seed=0)["hidden"]
    most = int(before.argmax())
    with torch.no_grad():
        network.get_submodule("head").get_parameter("weight")[:, most] *= 3
    after = channel_importance(network, groups, batches(), seed=0)["hidden"]
    assert before[most] > 0
    assert float(after[most]) == pytest.approx(float(9 * before[most]), rel=1e-4)
    others = torch.arange(len(before)) != most
    assert torch.allclose(after[others], before[others])


def test_a_doubled_channel_counts_as_what_all_its_readers_make_of_it() -> None:
    """Two readers with opposite weights cancel: effects are summed before they are squared."""
    network = own(Linear)
    with torch.no_grad():
        inside = network.get_submodule("inside").get_parameter("weight")
        last = network.get_submodule("last").get_parameter("weight")
        inside[1] = inside[0]
        last[:, 1] = 2 * last[:, 0]
    scores = channel_importance(network, channel_groups(network, SHAPE), batches(), seed=0)["inside"]
    assert float(scores[1]) == pytest.approx(4 * float(scores[0]), rel=1e-4)


def test_readers_that_cancel_leave_no_importance() -> None:
    class Cancelling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 6, 3, padding=1)
            self.plus = nn.Conv2d(6, 4, 1)
            self.minus = nn.Conv2d(6, 4, 1)
            self.head = nn.Linear(4, 2)

        def forward(self, images: Tensor) -> Tensor:
            out = self.stem(images).relu()
            logits: Tensor = self.head((self.plus(out) + self.minus(out)).mean((2, 3)))
            return logits

    network = own(Cancelling)
    with torch.no_grad():
        minus, plus = (network.get_submodule(name).get_parameter("weight") for name in ("minus", "plus"))
        minus[:, 2] = -plus[:, 2]
    scores = channel_importance(network, channel_groups(network, SHAPE), batches(), seed=0)["stem"]
    others = [float(score) for channel, score in enumerate(scores) if channel != 2]
    assert float(scores[2]) < 1e-6 * min(others)


def test_same_seed_same_scores_and_the_network_is_left_alone() -> None:
    expected = scores_of(network_of(OPTION_A))
    network = network_of(OPTION_A).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    groups = channel_groups(network, OPTION_A.input_shape)
    images = batches(shape=OPTION_A.input_shape)
    first, again, other = (channel_importance(network, groups, images, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[root], again[root]) for root in first)
    assert not all(torch.equal(first[root], other[root]) for root in first)
    assert all(torch.equal(first[root], expected[root]) for root in first)
    assert network.training
    assert all(parameter.requires_grad for name, parameter in network.named_parameters() if "downsample" not in name)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_a_blocks_importance_is_how_far_the_logits_move_without_what_it_adds_to_its_mean() -> None:
    architecture = residual(depths=(2, 2), stage_widths=(8, 12), classes=("a", "b", "c"), input_size=(16, 16))
    network = network_of(architecture).eval()
    images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        for name in ("weight", "bias"):
            network.get_submodule("layer2.1.bn2").get_parameter(name).zero_()
        network.get_submodule("layer2.1.bn2").get_parameter("bias").fill_(2.0)  # the same for every image
        found = block_importance(network, ("layer1.1", "layer2.1"), [images[:4], images[4:]])
        assert found["layer2.1"] == pytest.approx(0, abs=1e-6)
        before = network(images)
        block = network.get_submodule("layer1.1")
        expected = 0.0
        for batch, logits in zip((images[:4], images[4:]), (before[:4], before[4:]), strict=True):
            handle = block.get_submodule("bn2").register_forward_hook(
                lambda _m, _i, output: output.mean(dim=(0, 2, 3), keepdim=True).expand_as(output)
            )
            expected += float((network(batch) - logits).square().sum())
            handle.remove()
        assert found["layer1.1"] == pytest.approx(expected)
        assert expected > 0
        assert torch.equal(network(images), before)
