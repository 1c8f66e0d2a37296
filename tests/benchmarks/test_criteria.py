"""`benchmarks/criteria.py`: every criterion finds the channel that does nothing, and the scripts' table is made."""

import pytest
import torch
from criteria import CRITERIA
from tiny_networks import network_of
from torch import nn

from pipeline.models.surgery import channel_groups
from pipeline.models.zoo import residual

BASIC = residual(depths=(2, 2), stage_widths=(8, 16), classes=("a", "b"), input_size=(8, 8))
INNER = "layer2.1.conv1"


def batches() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(16, 3, 8, 8, generator=generator), torch.randint(0, 2, (16,), generator=generator))
        for _ in range(2)
    ]


@pytest.mark.parametrize("name", [name for name in CRITERIA if name != "chance"])
def test_a_channel_that_does_nothing_matters_least(name: str) -> None:
    network = network_of(BASIC)
    with torch.no_grad():
        network.get_parameter(f"{INNER}.weight")[5] = 0
        network.get_parameter("layer2.1.bn1.weight")[5] = 0
        network.get_parameter("layer2.1.bn1.bias")[5] = 0
    groups = channel_groups(network, BASIC.input_shape)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    scores = CRITERIA[name](network, groups, batches())
    assert {root: len(score) for root, score in scores.items()} == {group.root: group.width for group in groups}
    assert int(scores[INNER].argmin()) == 5
    assert all(bool((score >= 0).all()) for score in scores.values())
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


def test_streams_add_up_what_their_writers_say() -> None:
    network = network_of(BASIC)
    groups = channel_groups(network, BASIC.input_shape)
    scores = CRITERIA["L2"](network, groups, batches())
    writers = [
        layer.weight.detach().flatten(1).square().sum(1)
        for name in ("conv1", "layer1.0.conv2", "layer1.1.conv2")
        if isinstance(layer := network.get_submodule(name), nn.Conv2d)
    ]
    torch.testing.assert_close(scores["conv1"], torch.stack(writers).sum(0))
