import pytest
import torch
from torch import nn

from pipeline.models.cost import cost_of, layer_macs
from pipeline.models.resnet import build_resnet
from pipeline.models.zoo import published_architecture

THOUSAND = tuple(str(index) for index in range(1000))


@pytest.mark.parametrize(
    ("name", "classes", "parameters", "macs"),
    [
        # torchvision's documented parameter counts; multiply-accumulates of convolutions and the head.
        ("resnet18", 1000, 11_689_512, 1_814_073_344),
        ("resnet50", 1000, 25_557_032, 4_089_184_256),
        ("resnext50_32x4d", 1000, 25_028_904, 4_230_479_872),
        # Published as 0.27 M and 0.85 M parameters, about 41 M and 126 M multiply-accumulates.
        ("resnet20", 10, 269_722, 40_551_040),
        ("resnet56", 10, 853_018, 125_485_696),
    ],
)
def test_known_figures(name: str, classes: int, parameters: int, macs: int) -> None:
    architecture = published_architecture(name, classes=THOUSAND[:classes])
    cost = cost_of(build_resnet(architecture), architecture.input_shape)
    assert (cost.parameters, cost.macs, cost.weight_bytes) == (parameters, macs, 4 * parameters)


def test_groups_bias_and_repeated_use_are_counted() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(4, 4, 3, padding=1, groups=2)
            self.stem = nn.Conv2d(3, 4, 1)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.convolution(self.convolution(self.stem(images)))
            return result

    macs = layer_macs(Twice(), (3, 8, 8))
    assert macs == {"stem": 64 * 4 * 3, "convolution": 2 * 64 * 4 * 2 * 9}
    assert cost_of(Twice(), (3, 8, 8)).parameters == 4 * 2 * 9 + 4 + 4 * 3 + 4


def test_counting_leaves_the_network_as_it_was(tiny_resnet: nn.Module) -> None:
    tiny_resnet.train()
    bn = tiny_resnet.get_submodule("bn1")
    bn.eval()
    before = {name: value.clone() for name, value in tiny_resnet.state_dict().items()}
    cost_of(tiny_resnet, (3, 32, 32))
    assert tiny_resnet.training
    assert not bn.training
    assert all(torch.equal(before[name], value) for name, value in tiny_resnet.state_dict().items())
    assert not any(module._forward_hooks for module in tiny_resnet.modules())
