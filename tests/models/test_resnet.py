from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from random_statistics import with_random_statistics
from torch import Tensor, nn

from pipeline.errors import CheckpointError
from pipeline.models.resnet import build_resnet, constant_shortcut, is_constant_shortcut
from pipeline.models.zoo import Bottleneck, published_architecture, residual

TEN = tuple("abcdefghij")
TINY = {
    "basic, option A": residual(depths=(2, 1, 1), stage_widths=(4, 8, 16), classes=TEN),
    "basic, option B": residual(depths=(2, 1, 1), stage_widths=(4, 8, 16), classes=TEN, shortcut="B"),
    "bottleneck": residual(
        depths=(1, 2), stage_widths=(4, 8), classes=TEN, shortcut="B", stem="imagenet", bottleneck=Bottleneck()
    ),
    "grouped": residual(
        depths=(1, 1), stage_widths=(8, 16), classes=TEN, shortcut="B", bottleneck=Bottleneck(groups=4, inner=16)
    ),
}


def pad_and_slice(images: Tensor, added: int) -> Tensor:
    """Option A as its authors write it."""
    return F.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, added // 2, added // 2))


def test_option_a_is_exactly_slice_and_pad() -> None:
    images = torch.randn(2, 16, 8, 8)
    assert torch.equal(constant_shortcut(16, 32, 2)(images), pad_and_slice(images, 16))


@pytest.mark.parametrize("name", TINY)
def test_traces_and_computes_the_same(name: str) -> None:
    network = with_random_statistics(build_resnet(TINY[name]), seed=1)
    images = torch.randn(2, 3, 32, 32)
    traced = torch.fx.symbolic_trace(network)
    assert torch.equal(traced(images), network(images))
    assert network(images).shape == (2, 10)


@pytest.mark.parametrize("name", TINY)
def test_every_activation_has_a_name_of_its_own(name: str) -> None:
    network = build_resnet(TINY[name])
    used = [node.target for node in torch.fx.symbolic_trace(network).graph.nodes if node.op == "call_module"]
    assert len(used) == len(set(used))
    relus = [module for module in network.modules() if isinstance(module, nn.ReLU)]
    per_block = 3 if TINY[name].block == "bottleneck" else 2
    assert len(relus) == 1 + per_block * sum(TINY[name].depths)


def test_only_the_constant_counts_as_a_constant() -> None:
    network = build_resnet(TINY["basic, option A"])
    constants = [name for name, module in network.named_modules() if is_constant_shortcut(module)]
    assert constants == ["layer2.0.downsample.0", "layer3.0.downsample.0"]
    assert not any(is_constant_shortcut(module) for module in build_resnet(TINY["basic, option B"]).modules())
    assert not any(value.requires_grad for name, value in network.named_parameters() if "downsample" in name)


@pytest.mark.parametrize("name", TINY)
def test_widths_alone_make_the_network(name: str) -> None:
    architecture = TINY[name]
    network = build_resnet(architecture)
    widths = {name: module.out_channels for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    assert widths == architecture.widths


def test_pruned_widths_make_a_pruned_network() -> None:
    widths = {
        "conv1": 3, "layer1.0.conv1": 2, "layer1.0.conv2": 3, "layer1.1.conv1": 1, "layer1.1.conv2": 3,
        "layer2.0.conv1": 5, "layer2.0.conv2": 7, "layer2.0.downsample.0": 7,
        "layer3.0.conv1": 9, "layer3.0.conv2": 13, "layer3.0.downsample.0": 13,
    }  # fmt: skip
    network = build_resnet(replace(TINY["basic, option A"], widths=widths))
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    assert network.fc.in_features == 13


@pytest.mark.parametrize(
    "name", ["resnet20", "resnet110", "resnet18", "resnet152", "wide_resnet50_2", "resnext50_32x4d"]
)
def test_published_names_are_found_and_given_back(name: str) -> None:
    assert published_architecture(name, classes=TEN).name == name


@pytest.mark.parametrize("name", ["resnet19", "vgg16", "wide_resnet18_2", "resnext20_32x4d", "resnet", "resnet2"])
def test_unpublished_names_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"{name} is not a published network"):
        published_architecture(name, classes=TEN)
