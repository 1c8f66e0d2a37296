"""Folding keeps the function, unfolding gives just the weights that were folded, and the network is left alone."""

import copy

import pytest
import torch
from random_statistics import with_random_statistics
from tiny_quantized import NETWORKS, float_network, noise
from torch import Tensor, fx, nn

from pipeline.errors import CompressionError
from pipeline.models.folding import is_layer, trace_folded, unfold


class Shared(nn.Module):
    """Normalizations of which none can be folded: one is used twice, one reads what something else reads, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(channels, 8, 3, padding=1) for channels in (3, 8, 8))
        self.twice, self.first = nn.BatchNorm2d(8), nn.BatchNorm2d(3)
        self.branch = nn.BatchNorm2d(8)
        self.offset = nn.Parameter(torch.zeros(8, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        out = self.twice(self.conv1(self.first(images)))
        out = self.twice(self.conv2(out))
        out = self.conv3(out)
        result: Tensor = (self.branch(out) + out + self.offset).mean((2, 3))
        return result


class Mixed(nn.Module):
    """A biased convolution, normalizations of unusual kinds, and a linear layer with BatchNorm1d."""

    def __init__(self, eps: float = 1e-5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, bias=True)
        self.bn1 = nn.BatchNorm2d(8, eps=eps)
        self.conv2 = nn.Conv2d(8, 8, 3, groups=4, bias=False)
        self.bn2 = nn.BatchNorm2d(8, eps=eps, affine=False)
        self.fc1 = nn.Linear(8, 12)
        self.bn3 = nn.BatchNorm1d(12, eps=eps)
        self.fc2 = nn.Linear(12, 4)

    def forward(self, images: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(images)))
        out = torch.relu(self.bn2(self.conv2(out)))
        result: Tensor = self.fc2(torch.relu(self.bn3(self.fc1(out.mean((2, 3))))))
        return result


def varied(network: nn.Module) -> nn.Module:
    """With statistics and affine parameters that a test can tell apart from fresh ones."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if "num_batches" not in name:
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.2)
    return network.eval()


def perturbed(graph_module: fx.GraphModule) -> fx.GraphModule:
    """As training would leave it: every trained number another one."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in graph_module.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return graph_module


def normalizations(network: nn.Module) -> set[str]:
    return {name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d)}


@pytest.mark.parametrize("kind", NETWORKS)
def test_folding_keeps_the_function_of_every_resnet(kind: str) -> None:
    network = float_network(kind)
    folded = trace_folded(network)
    assert normalizations(network)
    assert not normalizations(folded)
    torch.testing.assert_close(folded(noise(4)), network(noise(4)), rtol=1e-4, atol=1e-4)


def test_folding_keeps_the_function_of_unusual_layers() -> None:
    network = varied(Mixed())
    folded = trace_folded(network)
    assert not normalizations(folded)
    torch.testing.assert_close(folded(noise(4)), network(noise(4)), rtol=1e-4, atol=1e-4)


def test_what_is_read_twice_or_used_twice_is_not_folded() -> None:
    network = varied(Shared())
    folded = trace_folded(network)
    assert normalizations(folded) == {"twice", "first", "branch"}
    torch.testing.assert_close(folded(noise(4)), network(noise(4)))


def test_the_network_itself_is_left_as_it_was() -> None:
    network = copy.deepcopy(float_network("option B")).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    folded = trace_folded(network)
    assert network.training
    assert not folded.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    own = {parameter.data_ptr() for parameter in network.parameters()}
    assert not own & {parameter.data_ptr() for parameter in folded.parameters()}


@pytest.mark.parametrize("kind", NETWORKS)
def test_unfolding_and_folding_again_gives_the_same_weights_bit_for_bit(kind: str) -> None:
    network = copy.deepcopy(float_network(kind))
    trained = perturbed(trace_folded(network))
    unfold(network, trained)
    assert_same_layers(trace_folded(network), trained)
    torch.testing.assert_close(network(noise(4)), trained(noise(4)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("eps", [0.0, 1e-8, 1e-5, 1.01e-5, 1e-3, 0.1, 0.3])
def test_bit_for_bit_whatever_the_epsilon(eps: float) -> None:
    network = varied(Mixed(eps))
    trained = perturbed(trace_folded(network))
    unfold(network, trained)
    assert_same_layers(trace_folded(network), trained)


def test_unfolding_into_other_weights_carries_over_what_was_not_folded() -> None:
    trained = perturbed(trace_folded(varied(Shared())))
    fresh = Shared().eval()
    unfold(fresh, trained)
    assert torch.equal(fresh(noise(4)), trained(noise(4)))


def assert_same_layers(found: fx.GraphModule, wanted: fx.GraphModule) -> None:
    layers = {name: module for name, module in wanted.named_modules() if is_layer(module)}
    assert len(layers) > 3
    for name, layer in layers.items():
        other = found.get_submodule(name)
        assert is_layer(other)
        assert torch.equal(other.weight, layer.weight), name
        assert (other.bias is None) == (layer.bias is None)
        assert layer.bias is None or (other.bias is not None and torch.equal(other.bias, layer.bias)), name


class Branching(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images if images.sum() > 0 else -images


class ShapeDependent(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([image.mean() for image in images])


class TwoInputs(nn.Module):
    def forward(self, images: Tensor, more: Tensor) -> Tensor:
        return images + more


class Silent(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError


@pytest.mark.parametrize(
    ("network", "message"),
    [
        pytest.param(Branching(), r"cannot be traced by torch\.fx: .*control flow", id="a branch on data"),
        pytest.param(ShapeDependent(), r"cannot be traced by torch\.fx", id="a loop over the batch"),
        pytest.param(Silent(), "torch.fx: AssertionError", id="an error without a message"),
        pytest.param(TwoInputs(), "the network takes 2 inputs; it must take exactly one", id="two inputs"),
    ],
)
def test_a_forward_pass_that_cannot_be_traced_is_an_error_with_its_reason(network: nn.Module, message: str) -> None:
    with pytest.raises(CompressionError, match=message) as caught:
        trace_folded(network)
    assert caught.value.exit_code == 7


def test_random_statistics_are_no_identity() -> None:
    """Else the tests above would pass without folding anything."""
    network = with_random_statistics(copy.deepcopy(float_network("option A")), seed=3)
    plain = copy.deepcopy(network)
    for name in normalizations(plain):
        plain.set_submodule(name, nn.Identity())
    assert not torch.allclose(network(noise(2)), plain(noise(2)), atol=0.1)
