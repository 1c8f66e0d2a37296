"""What a network costs for one image, counted by running it once."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pipeline.artifacts import Cost
from pipeline.models.resnet import is_constant_shortcut

BYTES_PER_WEIGHT = 4


def cost_of(network: nn.Module, input_shape: tuple[int, int, int]) -> Cost:
    """Parameters, multiply-accumulates of convolutions and linear layers, bytes of fp32 weights.

    The constant convolutions that stand for option-A shortcuts are left out (see `Cost`). `input_shape` is
    channels, height, width of one image.
    """
    constants = {id(module.weight) for module in network.modules() if is_constant_shortcut(module)}
    parameters = sum(value.numel() for value in network.parameters() if id(value) not in constants)
    macs = sum(layer_macs(network, input_shape).values())
    return Cost(parameters=parameters, macs=macs, weight_bytes=parameters * BYTES_PER_WEIGHT)


def layer_macs(network: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, int]:
    """Multiply-accumulates of every trained convolution and linear layer for one image, by module name."""
    macs: dict[str, int] = {}
    handles = [
        module.register_forward_hook(_counter(macs, name))
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and not is_constant_shortcut(module)
    ]
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            network(torch.zeros(1, *input_shape))
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    return macs


def _counter(macs: dict[str, int], name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del inputs
        # Every output value of a layer takes as many multiply-accumulates as one of its filters has weights.
        weight = module.get_parameter("weight")
        macs[name] = macs.get(name, 0) + output.numel() * (weight.numel() // weight.shape[0])

    return count
