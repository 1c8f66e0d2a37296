"""Tensors alive at a time, counted without computing: against sums by hand, and the same work done for real."""

import pytest
import torch
from tiny_networks import OPTION_B, network_of
from torch import nn

from pipeline.estimate.footprint import peak_bytes, weight_bytes

COUNT = 1000
FLOATS = 4 * COUNT


class Layers(nn.Module):
    """One weight, [COUNT]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(COUNT))
        self.register_buffer("seen", torch.zeros(COUNT))


def test_weights_are_counted_with_their_buffers() -> None:
    assert weight_bytes(Layers()) == 2 * FLOATS
    assert peak_bytes(lambda network: None, Layers()) == 2 * FLOATS
    assert peak_bytes(lambda first, second: None, Layers(), Layers()) == 4 * FLOATS


def test_what_is_freed_makes_room() -> None:
    def one_after_the_other() -> None:
        for _ in range(5):
            torch.empty(COUNT)

    def together() -> None:
        kept = [torch.empty(COUNT) for _ in range(5)]
        del kept

    assert peak_bytes(one_after_the_other) == FLOATS
    assert peak_bytes(together) == 5 * FLOATS


def test_views_are_counted_once() -> None:
    def views() -> None:
        kept = torch.empty(10, COUNT // 10)
        del kept
        whole = torch.empty(COUNT)
        parts = [whole, whole.view(10, -1), whole[: COUNT // 2], whole.view(10, -1).t()]
        del parts

    assert peak_bytes(views) == FLOATS


def test_what_autograd_keeps_is_counted() -> None:
    def forward(network: nn.Module) -> torch.Tensor:
        return network.get_parameter("weight").sigmoid().tanh().exp()

    def forgotten(network: nn.Module) -> None:
        with torch.no_grad():
            forward(network)

    weights = 2 * FLOATS
    assert peak_bytes(lambda network: forward(network), Layers()) == weights + 3 * FLOATS
    assert peak_bytes(forgotten, Layers()) == weights + 2 * FLOATS


def test_a_value_that_is_asked_for_is_told() -> None:
    def ask(network: nn.Module) -> None:
        total = network.get_parameter("weight").sum()
        assert float(total) == 1.0
        assert int(total) == 1
        assert bool(total > 5)

    assert peak_bytes(ask, Layers()) >= 2 * FLOATS


def test_the_networks_are_left_as_they_are() -> None:
    network = network_of(OPTION_B)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    peak_bytes(lambda copy: copy.train()(torch.empty(2, 3, 16, 16)), network)
    assert not network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("images", [2, 8])
def test_a_pass_of_a_real_network_grows_with_its_images(images: int) -> None:
    network = network_of(OPTION_B)

    def look(copy: nn.Module) -> None:
        copy(torch.empty(images, *OPTION_B.input_shape))

    weights = weight_bytes(network)
    each = (peak_bytes(look, network) - weights) / images
    saved: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        kept = network(torch.zeros(images, *OPTION_B.input_shape))
    of_network = {value.untyped_storage().data_ptr() for value in network.state_dict().values()}
    real = sum(size for storage, size in saved.items() if storage not in of_network) / images
    del kept
    assert real <= each <= 1.5 * real
