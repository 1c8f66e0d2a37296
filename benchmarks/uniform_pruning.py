"""Manual pruning with torch-pruning: one ratio for all channels inside the blocks, smallest L2 norm first.

As in the examples of the tool (https://github.com/VainF/Torch-Pruning): `GroupMagnitudeImportance(p=2)`, a pruner with
`ignored_layers`, and `round_to`. Residual streams are not pruned, which keeps more accuracy; only if that is not fast
enough, all channels get the same ratio. No layer gets narrower than one multiple: by default, the tool rounds such a
layer to zero and then leaves it unpruned. Rounded widths allow only few networks; between two ratios with different
widths, the higher one is therefore applied to the last blocks only, one more block at a time, to match a time closely.
"""

import copy
import itertools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch_pruning
from torch import nn

from pipeline.artifacts import Architecture
from pipeline.models.surgery import TOLERANCE, channel_groups, zero_channels

STEPS = 32
"""Number of ratios to try, evenly spaced between 0 and 1."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Fractions of channels to remove, by block."""

    ratios: tuple[float, ...]
    round_to: int
    is_everywhere: bool = False
    """Whether residual streams are pruned, too; then all ratios are equal."""

    def __str__(self) -> str:
        low, high = min(self.ratios), max(self.ratios)
        if self.is_everywhere:
            return f"ratio {high:.3g} everywhere, multiples of {self.round_to}"
        if low == high:
            return f"ratio {high:.3g} inside the blocks, multiples of {self.round_to}"
        last = f"{high:.3g} in the last {self.ratios.count(high)} of {len(self.ratios)}"
        return f"ratio {low:.3g} inside the blocks, {last}, multiples of {self.round_to}"


def plans_of(
    network: nn.Module, architecture: Architecture, *, round_to: int, is_everywhere: bool = False
) -> list[Plan]:
    """Return the plans from mildest to strongest; ratios that round to the same widths count once."""
    blocks = len(inner_layers(architecture))
    levels, seen = [Plan(ratios=(0.0,) * blocks, round_to=round_to)], [_widths(network)]
    for step in range(1, STEPS):
        plan = Plan(ratios=(step / STEPS,) * blocks, round_to=round_to, is_everywhere=is_everywhere)
        widths = _widths(cut(network, architecture, plan))
        if widths not in seen:
            levels.append(plan)
            seen.append(widths)
    return levels[1:] if is_everywhere else _between([level.ratios[0] for level in levels], blocks, round_to)


def _between(levels: Sequence[float], blocks: int, round_to: int) -> list[Plan]:
    return [
        Plan(ratios=(low,) * (blocks - harsher) + (high,) * harsher, round_to=round_to)
        for low, high in itertools.pairwise(levels)
        for harsher in range(1, blocks + 1)
    ]


def mildest(plans: Sequence[Plan], is_fast_enough: Callable[[Plan], bool]) -> Plan | None:
    """Find the first plan that is fast enough, by bisection; None if the last one is not."""
    if not plans or not is_fast_enough(plans[-1]):
        return None
    low, high = -1, len(plans) - 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_fast_enough(plans[middle]) else (middle, high)
    return plans[high]


def cut(network: nn.Module, architecture: Architecture, plan: Plan) -> nn.Module:
    """Return a pruned copy, checked against the network with the same channels zeroed."""
    pruned = copy.deepcopy(network).eval()
    layers = [module for module in pruned.modules() if isinstance(module, nn.Conv2d)]
    ratios = _ratios(pruned, architecture, plan)
    if not ratios:
        return pruned
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pruner = torch_pruning.pruner.BasePruner(
            pruned,
            torch.zeros(1, *architecture.input_shape, requires_grad=True),
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=0.0,
            pruning_ratio_dict=ratios,
            ignored_layers=[pruned.get_submodule("fc"), *(layer for layer in layers if layer not in ratios)],
            round_to=plan.round_to,
        )
        pruner.step()
    removal = {name: tuple(indices) for name, is_output, indices in pruner.pruning_history() if is_output}
    _check(network, pruned, architecture, removal)
    return pruned


def _ratios(network: nn.Module, architecture: Architecture, plan: Plan) -> dict[nn.Module, float]:
    """Return the maximum fraction of channels to remove per layer, so that one multiple is left."""
    wanted = {
        name: ratio for names, ratio in zip(inner_layers(architecture), plan.ratios, strict=True) for name in names
    }
    ratios: dict[nn.Module, float] = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            ratio = plan.ratios[0] if plan.is_everywhere else wanted.get(name, 0.0)
            ratio = min(ratio, 1 - plan.round_to / module.out_channels)
            if ratio > 0:
                ratios[module] = ratio
    return ratios


def inner_layers(architecture: Architecture) -> list[tuple[str, ...]]:
    """Return the convolutions whose output no addition reads, by block."""
    inside = ("conv1", "conv2") if architecture.block == "bottleneck" else ("conv1",)
    return [
        tuple(f"layer{stage}.{index}.{name}" for name in inside)
        for stage, depth in enumerate(architecture.depths, 1)
        for index in range(depth)
    ]


def _check(
    network: nn.Module, pruned: nn.Module, architecture: Architecture, removal: Mapping[str, tuple[int, ...]]
) -> None:
    """Check the result, since the tool is known to trace some networks wrongly without an error."""
    zeroed = zero_channels(network, channel_groups(network, architecture.input_shape), removal)
    images = torch.randn(4, *architecture.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted, found = zeroed.eval()(images), pruned(images)
    difference = float((found - wanted).abs().max() / wanted.abs().max())
    if not difference <= TOLERANCE:
        raise AssertionError(f"torch-pruning changed the function: logits differ by {difference:.2g} of their range")


def _widths(network: nn.Module) -> dict[str, int]:
    return {name: module.out_channels for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
