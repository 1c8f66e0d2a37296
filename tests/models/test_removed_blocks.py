"""A network without some blocks computes what it computes where their branches add nothing."""

from pathlib import Path

import pytest
import torch
from random_statistics import with_random_statistics
from torch import nn

from pipeline.artifacts import Architecture, Checkpoint
from pipeline.latency.subnetwork import removable_blocks
from pipeline.models.checkpoint import build_network, save_network
from pipeline.models.cost import layer_macs
from pipeline.models.resnet import build_resnet
from pipeline.models.surgery import remove_blocks
from pipeline.models.zoo import Bottleneck, residual

CLASSES = ("a", "b", "c", "d")
BASIC = residual(depths=(3, 3, 2), stage_widths=(8, 12, 16), classes=CLASSES, input_size=(16, 16))
BOTTLENECK = residual(
    depths=(2, 3, 1, 1),
    stage_widths=(4, 8, 8, 8),
    classes=CLASSES,
    shortcut="B",
    stem="imagenet",
    input_size=(32, 32),
    bottleneck=Bottleneck(inner=8),
)


def network_of(architecture: Architecture) -> nn.Module:
    return with_random_statistics(build_resnet(architecture), seed=3).eval()


@pytest.mark.parametrize(
    ("architecture", "blocks", "depths"),
    [
        pytest.param(BASIC, {"layer1.1", "layer2.1", "layer2.2"}, (2, 1, 2), id="basic"),
        pytest.param(BASIC, {"layer1.1", "layer1.2", "layer3.1"}, (1, 3, 1), id="whole-stages-but-one"),
        pytest.param(BOTTLENECK, {"layer2.1"}, (2, 2, 1, 1), id="bottleneck"),
    ],
)
def test_a_block_that_is_gone_adds_nothing_and_the_rest_is_as_it_was(
    architecture: Architecture, blocks: set[str], depths: tuple[int, ...], tmp_path: Path
) -> None:
    network = network_of(architecture)
    assert blocks <= set(removable_blocks(architecture))
    shallow, described = remove_blocks(network, architecture, blocks)
    assert described.depths == depths
    for block in blocks:
        last = "bn3" if architecture.block == "bottleneck" else "bn2"
        norm = network.get_submodule(f"{block}.{last}")
        with torch.no_grad():
            norm.get_parameter("weight").zero_()
            norm.get_parameter("bias").zero_()
    images = torch.randn(3, *architecture.input_shape)
    save_network(shallow, described, tmp_path)
    rebuilt = build_network(Checkpoint(folder=tmp_path))
    with torch.no_grad():
        expected = network(images)
        assert torch.equal(shallow(images), expected)
        assert torch.equal(rebuilt(images), expected)
    assert Checkpoint(folder=tmp_path).architecture == described
    macs = layer_macs(network, architecture.input_shape)
    left = sum(n for name, n in macs.items() if not any(name.startswith(f"{block}.") for block in blocks))
    assert Checkpoint(folder=tmp_path).cost.macs == left


def test_no_block_out_is_the_network_itself() -> None:
    network = network_of(BASIC)
    assert remove_blocks(network, BASIC, ()) == (network, BASIC)


def test_blocks_that_change_channels_or_begin_a_stage_stay() -> None:
    assert removable_blocks(BASIC) == ("layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1")
    assert removable_blocks(BOTTLENECK) == ("layer1.1", "layer2.1", "layer2.2")
