"""Cost of a network for one image, counted by running it once.

Also the cost of a network with narrower channel groups, without building it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.artifacts import Cost
from pipeline.models.resnet import is_constant_shortcut
from pipeline.models.surgery import Group, is_depthwise

BYTES_PER_WEIGHT = 4


def cost_of(network: nn.Module, input_shape: tuple[int, int, int]) -> Cost:
    """Return parameters, multiply-accumulates of convolutions and linear layers, bytes of fp32 weights.

    The constant convolutions that implement option-A shortcuts are left out (see `Cost`). `input_shape` is
    channels, height, width of one image.
    """
    constants = {id(module.weight) for module in network.modules() if is_constant_shortcut(module)}
    parameters = sum(value.numel() for value in network.parameters() if id(value) not in constants)
    macs = sum(layer_macs(network, input_shape).values())
    return Cost(parameters=parameters, macs=macs, weight_bytes=parameters * BYTES_PER_WEIGHT)


def layer_macs(network: nn.Module, input_shape: tuple[int, int, int]) -> dict[str, int]:
    """Return the multiply-accumulates of every trained convolution and linear layer for one image, by module name."""
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
        # Each output value needs as many multiply-accumulates as one filter has weights.
        weight = module.get_parameter("weight")
        macs[name] = macs.get(name, 0) + output.numel() * (weight.numel() // weight.shape[0])

    return count


Budget = Literal["macs", "params"]
Widths = dict[str, int]
"""Channels a group keeps, by its root."""
Shares = tuple[tuple[str, float], ...]
"""Groups by root, and the number of a layer's channels per channel of the group."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """A layer's full cost: one part scales with both widths, the other with the outputs only."""

    matrix: int
    vector: int
    outputs: int
    inputs: int
    writers: Shares
    """Groups that are this layer's outputs."""
    readers: Shares
    """Groups that are this layer's inputs."""

    def cost(self, widths: Mapping[str, int], full: Mapping[str, int]) -> float:
        removed_out = sum((full[root] - widths[root]) * ratio for root, ratio in self.writers)
        removed_in = sum((full[root] - widths[root]) * ratio for root, ratio in self.readers)
        out = 1 - removed_out / self.outputs
        return self.matrix * out * (1 - removed_in / self.inputs) + self.vector * out


class Meter:
    """Cost of a network as a function of its groups' widths."""

    def __init__(
        self, network: nn.Module, groups: Sequence[Group], input_shape: tuple[int, int, int], budget: Budget
    ) -> None:
        self.full: Widths = {group.root: group.width for group in groups}
        self._layers = _layers(network, groups, layer_macs(network, input_shape) if budget == "macs" else None)
        self._of_group = {
            root: [layer for layer in self._layers if root in dict(layer.writers) or root in dict(layer.readers)]
            for root in self.full
        }
        counted = sum(layer.matrix + layer.vector for layer in self._layers)
        constants = sum(m.get_parameter("weight").numel() for m in network.modules() if is_constant_shortcut(m))
        everything = sum(value.numel() for value in network.parameters()) - constants
        self._rest = everything - counted if budget == "params" else 0

    def cost(self, widths: Mapping[str, int]) -> float:
        return self._rest + sum(layer.cost(widths, self.full) for layer in self._layers)

    def saving(self, widths: Widths, root: str, width: int) -> float:
        """Return the saving from narrowing one group from its current width to `width`."""
        narrower = {**widths, root: width}
        layers = self._of_group[root]
        return sum(layer.cost(widths, self.full) - layer.cost(narrower, self.full) for layer in layers)


def _layers(network: nn.Module, groups: Iterable[Group], macs: Mapping[str, int] | None) -> list[Layer]:
    """Return costs in multiply-accumulates, or in parameters if `macs` is None."""
    writers, readers = shares(groups)
    layers = []
    for name, module in network.named_modules():
        costs = None if is_constant_shortcut(module) else _costs(module, name, macs)
        if costs is not None:
            matrix, vector, inputs = costs
            outputs = module.get_parameter("weight").shape[0]
            layers.append(
                Layer(
                    matrix=matrix,
                    vector=vector,
                    outputs=outputs,
                    inputs=inputs,
                    writers=tuple(writers.get(name, ())),
                    readers=tuple(readers.get(name, ())),
                )
            )
    return layers


def shares(
    groups: Iterable[Group],
) -> tuple[dict[str, list[tuple[str, float]]], dict[str, list[tuple[str, float]]]]:
    writers: dict[str, list[tuple[str, float]]] = {}
    readers: dict[str, list[tuple[str, float]]] = {}
    for group in groups:
        for member in group.members:
            terms = writers if member.is_writer else readers
            terms.setdefault(member.layer, []).append((group.root, len(member.indices) / group.width))
    return writers, readers


def _costs(module: nn.Module, name: str, macs: Mapping[str, int] | None) -> tuple[int, int, int] | None:
    """Return matrix cost, vector cost and number of inputs of a layer; None for layers without cost here."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        inputs = module.in_channels if isinstance(module, nn.Conv2d) else module.in_features
        inputs = 1 if is_depthwise(module) else inputs
        if macs is not None:
            return macs.get(name, 0), 0, inputs
        return module.weight.numel(), 0 if module.bias is None else module.bias.numel(), inputs
    if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and macs is None and module.affine:
        return 0, 2 * module.num_features, 1
    return None
