"""Which channels to take out so that a network costs a stated share: the least important ones per cost saved.

Int8 kernels like widths that are multiples of 16 and dislike 8, and a channel of a residual stream carries every
block's information while the inside of a block can spare some. So a budget is met with the gentlest of three
ways that reaches it:

1. inside blocks, in steps of the target's channel multiple, leaving at least that many;
2. residual streams, too, in the same steps;
3. everything in steps of four channels, leaving at least four: slower per channel, but the only way for
   networks as narrow as the multiple, and for small shares.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from pipeline.cost import layer_macs
from pipeline.dependencies import Group, Removal, is_depthwise
from pipeline.errors import CompressionError
from pipeline.resnet import is_constant_shortcut

Budget = Literal["macs", "params"]
Widths = dict[str, int]
"""Channels a group keeps, by its root."""

FINE_STEP = 4


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What a layer costs in full: one part falls with both its widths, the other with its outputs alone."""

    matrix: int
    vector: int
    outputs: int
    inputs: int
    writers: tuple[tuple[str, float], ...]
    """Groups this layer writes: root, and outputs of this layer per channel of the group."""
    readers: tuple[tuple[str, float], ...]

    def cost(self, widths: Widths, full: Widths) -> float:
        removed_out = sum((full[root] - widths[root]) * ratio for root, ratio in self.writers)
        removed_in = sum((full[root] - widths[root]) * ratio for root, ratio in self.readers)
        out = 1 - removed_out / self.outputs
        return self.matrix * out * (1 - removed_in / self.inputs) + self.vector * out


class Meter:
    """The cost of a network as a function of its groups' widths."""

    def __init__(
        self, network: nn.Module, groups: Sequence[Group], input_shape: tuple[int, int, int], budget: Budget
    ) -> None:
        self.full: Widths = {group.root: group.width for group in groups}
        self._layers = _layers(network, groups, input_shape, budget)
        self._of_group = {
            root: [layer for layer in self._layers if root in dict(layer.writers) or root in dict(layer.readers)]
            for root in self.full
        }
        counted = sum(layer.matrix + layer.vector for layer in self._layers)
        constants = sum(m.weight.numel() for m in network.modules() if is_constant_shortcut(m))
        everything = sum(value.numel() for value in network.parameters()) - constants
        self._rest = everything - counted if budget == "params" else 0

    def cost(self, widths: Widths) -> float:
        return self._rest + sum(layer.cost(widths, self.full) for layer in self._layers)

    def saving(self, widths: Widths, root: str, width: int) -> float:
        """What narrowing one group from its present width to `width` saves."""
        narrower = {**widths, root: width}
        layers = self._of_group[root]
        return sum(layer.cost(widths, self.full) - layer.cost(narrower, self.full) for layer in layers)


def allocate(
    network: nn.Module, groups: Sequence[Group], scores: Mapping[str, Tensor], *,
    input_shape: tuple[int, int, int], budget: Budget, share: float, channel_multiple: int, ways=None
) -> Removal:
    meter = Meter(network, groups, input_shape, budget)
    target = share * meter.cost(meter.full)
    smallest = 1.0
    for ladder in (ways or _ways(groups, channel_multiple)):
        narrowest = {root: steps[-1] for root, steps in ladder.items()}
        reachable = meter.cost(narrowest)/meter.cost(meter.full)
        smallest = min(smallest, reachable)
        if reachable <= share:
            widths = _narrow(meter, ladder, scores, target)
            return {g.root: _least(g, scores[g.root], g.width - widths[g.root]) for g in groups if widths[g.root] < g.width}
    raise CompressionError(f"{smallest}")


Ladder = dict[str, list[int]]
"""Widths a group may take, falling from the full one, by the group's root."""


def _ways(groups: Sequence[Group], channel_multiple: int) -> list[Ladder]:
    inside = [group for group in groups if not group.is_stream]
    coarse = {group.root: _widths(group, channel_multiple) for group in groups}
    return [
        {group.root: coarse[group.root] if group in inside else [group.width] for group in groups},
        coarse,
        {group.root: _widths(group, min(FINE_STEP, channel_multiple)) for group in groups},
    ]


def _widths(group: Group, step: int) -> list[int]:
    step = math.lcm(step, group.parts)
    return [group.width, *(width for width in range(group.width // step * step, 0, -step) if width < group.width)]


def _narrow(meter: Meter, ladder: Ladder, scores: Mapping[str, Tensor], target: float) -> Widths:
    widths = dict(meter.full)
    losses = {}
    for root, score in scores.items():
        ordered = score.sort().values.cumsum(0)
        losses[root] = [0.0, *ordered.tolist()]
    cost = meter.cost(widths)
    taken: list[tuple[str, int, int]] = []
    while cost > target:
        best: tuple[float, str, int] | None = None
        for root, steps in ladder.items():
            position = steps.index(widths[root])
            if position + 1 == len(steps):
                continue
            width = steps[position + 1]
            full = meter.full[root]
            loss = losses[root][full - width] - losses[root][full - widths[root]]
            saving = meter.saving(widths, root, width)
            if saving <= 0:
                continue
            rate = loss / saving
            if best is None or rate < best[0]:
                best = (rate, root, width)
        assert best
        _, root, width = best
        taken.append((root, widths[root], width))
        widths[root] = width
        cost = meter.cost(widths)
    # put back
    for root, before, after in reversed(taken):
        if widths[root] == after and meter.cost({**widths, root: before}) <= target:
            widths[root] = before
    return widths


def _least(group: Group, score: Tensor, count: int) -> tuple[int, ...]:
    per_part = group.width // group.parts
    by_position = score.view(group.parts, per_part).sum(dim=0)
    positions = by_position.argsort(stable=True)[: count // group.parts].tolist()
    return tuple(sorted(part * per_part + p for part in range(group.parts) for p in positions))


def _layers(
    network: nn.Module, groups: Iterable[Group], input_shape: tuple[int, int, int], budget: Budget
) -> list[Layer]:
    writers: dict[str, list[tuple[str, float]]] = {}
    readers: dict[str, list[tuple[str, float]]] = {}
    for group in groups:
        for member in group.members:
            terms = writers if member.is_writer else readers
            terms.setdefault(member.layer, []).append((group.root, len(member.indices) / group.width))
    macs = layer_macs(network, input_shape)
    layers = []
    for name, module in network.named_modules():
        if is_constant_shortcut(module):
            continue
        if isinstance(module, nn.Conv2d | nn.Linear):
            matrix = macs.get(name, 0) if budget == "macs" else module.weight.numel()
            vector = module.bias.numel() if module.bias is not None and budget == "params" else 0
            inputs = 1 if is_depthwise(module) else getattr(module, "in_channels", 0) or module.in_features
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d) and budget == "params":
            matrix, vector, inputs = 0, sum(value.numel() for value in module.parameters()), 1
        else:
            continue
        outputs = module.weight.shape[0]
        layers.append(Layer(matrix=matrix, vector=vector, outputs=outputs, inputs=inputs,
            writers=tuple(writers.get(name, ())), readers=tuple(readers.get(name, ()))))
    return layers
