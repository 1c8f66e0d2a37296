"""Find the channels of a network that must be removed together, and remove them.

A *group* is a set of channels shared by several layers: all that write them (a convolution's rows, its batch
normalization) and all that read them (the next convolutions' columns). In a residual stage one group contains the
stem or the shortcut and the last convolution of every block, because their outputs are added; the inside of a
block is its own group. Groups come from torch-pruning's dependency graph (Fang et al. 2023,
https://arxiv.org/abs/2301.12900). That graph can be wrong about operations it does not know (it treats
`F.pad` of channels as elementwise), so every removal is checked: it must give the same result as zeroing
these channels.

Also removes whole residual blocks: only their shortcut remains.
"""

import copy
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
import torch_pruning
from torch import Tensor, nn

from pipeline.artifacts import Architecture
from pipeline.errors import CompressionError
from pipeline.models.resnet import build_resnet

Removal = Mapping[str, tuple[int, ...]]
"""Channels to remove, by their group's root."""

PRUNABLE = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.BatchNorm1d)
TOLERANCE = 1e-4
"""Largest difference between removing and zeroing, relative to the largest logit: rounding of fp32 sums."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One layer's part of a group: `indices[i]` of its outputs (or inputs) is the group's `channels[i]`."""

    layer: str
    is_writer: bool
    """Whether these are the layer's output channels."""
    indices: tuple[int, ...]
    channels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Group:
    root: str
    """A layer whose output channels are the group's channels."""
    width: int
    parts: int
    """Number of equal runs of channels, each of which must lose the same ones (grouped convolutions)."""
    members: tuple[Member, ...]
    is_stream: bool
    """Whether several layers' outputs are added in these channels."""


def channel_groups(network: nn.Module, input_shape: tuple[int, int, int]) -> tuple[Group, ...]:
    """Return every group whose channels may be removed; the network's inputs and logits are never among them.

    Groups with layers other than convolutions, linear layers and batch normalization are left out, and so are those
    that the graph gets obviously wrong. Raises `CompressionError` if the network cannot be traced.
    """
    graph = _graph(network, input_shape)
    names = {module: name for name, module in network.named_modules()}
    order = {name: index for index, name in enumerate(names.values())}
    groups = []
    for found in graph.get_all_groups(root_module_types=(nn.Conv2d, nn.Linear)):
        members = tuple(_members(graph, found, names))
        reads = [member for member in members if not member.is_writer and _is_layer(network, member)]
        if reads and _has_only_prunable(found) and all(_exists(network, member) for member in members):
            groups.append(_group(network, members))
    return tuple(sorted(groups, key=lambda group: order[group.root]))


def remove_channels(network: nn.Module, input_shape: tuple[int, int, int], removal: Removal) -> nn.Module:
    """Return a copy of `network` without the channels of `removal`, checked against zeroing them.

    Raises `CompressionError` if removing differs from zeroing.
    """
    pruned = copy.deepcopy(network)
    graph = _graph(pruned, input_shape)
    for root, channels in removal.items():
        if channels:
            layer = pruned.get_submodule(root)
            graph.get_pruning_group(
                layer, graph.get_pruner_of_module(layer).prune_out_channels, list(channels)
            ).prune()
    zeroed = zero_channels(network, channel_groups(network, input_shape), removal)
    _check_same(pruned, zeroed, input_shape)
    return pruned


def zero_channels(network: nn.Module, groups: Iterable[Group], removal: Removal) -> nn.Module:
    """Return a copy of `network` with the channels of `removal` written as zeros and read with weight zero."""
    zeroed = copy.deepcopy(network)
    with torch.no_grad():
        for group in groups:
            removed = set(removal.get(group.root, ()))
            for member in group.members:
                indices = [i for i, channel in zip(member.indices, member.channels, strict=True) if channel in removed]
                _zero(zeroed.get_submodule(member.layer), member.is_writer, indices)
    return zeroed


def _zero(layer: nn.Module, is_writer: bool, indices: list[int]) -> None:
    weight = layer.get_parameter("weight")
    if is_writer or isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        weight[indices] = 0
        if layer.bias is not None:
            layer.get_parameter("bias")[indices] = 0
    elif isinstance(layer, nn.Conv2d) and layer.groups > 1:
        per_group = layer.in_channels // layer.groups
        rows_per_group = layer.out_channels // layer.groups
        for index in indices:
            first_row = (index // per_group) * rows_per_group
            weight[first_row : first_row + rows_per_group, index % per_group] = 0
    else:
        weight[:, indices] = 0


def _check_same(pruned: nn.Module, zeroed: nn.Module, input_shape: tuple[int, int, int]) -> None:
    images = torch.randn(4, *input_shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.no_grad():
            got, expected = pruned.eval()(images), zeroed.eval()(images)
    except RuntimeError as error:
        raise CompressionError(
            f"the network does not run after channels are removed: {error}. Its forward function relies on fixed "
            "widths; rewrite it without them, or prune nothing (macs = 1.0)."
        ) from error
    difference = float((got - expected).abs().max() / expected.abs().max().clamp(min=1e-6))
    if not difference <= TOLERANCE:
        raise CompressionError(
            f"removing channels changes the network's function: its logits differ by {difference:.2g} of their range "
            "from those with the same channels zeroed. It moves channels in a way that the dependency graph does not "
            "support, such as padding or shuffling them. Write that as a fixed convolution, or prune nothing "
            "(macs = 1.0)."
        )


def _graph(network: nn.Module, input_shape: tuple[int, int, int]) -> torch_pruning.DependencyGraph:
    modes = [(module, module.training) for module in network.modules()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about unknown parameters; such groups are left out
            # The input must require a gradient, or frozen layers at the start of the network would not be traced.
            images = torch.zeros(1, *input_shape, requires_grad=True)
            return torch_pruning.DependencyGraph().build_dependency(
                network, example_inputs=images, forward_fn=_call, verbose=False
            )
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise CompressionError(
            f"the network's channels cannot be traced: {type(error).__name__}: {error}. Prune nothing (macs = 1.0)."
        ) from error
    finally:
        for module, mode in modes:
            module.training = mode


def _call(network: nn.Module, images: Tensor) -> Tensor:
    """Call the network; torch-pruning's default tries two ways of calling and hides the first error."""
    logits: Tensor = network(images)
    return logits


def _members(
    graph: torch_pruning.DependencyGraph, found: torch_pruning.Group, names: Mapping[nn.Module, str]
) -> Iterable[Member]:
    for position, (dependency, indices) in enumerate(found):
        layer = dependency.target.module
        if isinstance(layer, PRUNABLE):
            yield Member(
                layer=names[layer],
                is_writer=graph.is_out_channel_pruning_fn(dependency.handler),
                indices=tuple(indices),
                channels=tuple(found[position].root_idxs),
            )


def _has_only_prunable(found: torch_pruning.Group) -> bool:
    """Whether every layer with parameters in the group can be cut and rebuilt."""
    for dependency, _ in found:
        layer = dependency.target.module
        if isinstance(layer, nn.Parameter):
            return False
        if isinstance(layer, nn.Module) and not isinstance(layer, PRUNABLE) and any(True for _ in layer.parameters()):
            return False
    return True


def _exists(network: nn.Module, member: Member) -> bool:
    """Whether the layer has the channels that the graph claims; with `F.pad` of channels it claims too many."""
    layer = network.get_submodule(member.layer)
    if isinstance(layer, nn.Conv2d):
        size = layer.out_channels if member.is_writer else layer.in_channels
    elif isinstance(layer, nn.Linear):
        size = layer.out_features if member.is_writer else layer.in_features
    else:
        assert isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)
        size = layer.num_features
    return max(member.indices) < size


def _group(network: nn.Module, members: tuple[Member, ...]) -> Group:
    root = members[0]
    parts = 1
    writers = 0
    for member in members:
        layer = network.get_submodule(member.layer)
        if isinstance(layer, nn.Conv2d) and not is_depthwise(layer):
            parts = max(parts, layer.groups)
        if member.is_writer and isinstance(layer, nn.Conv2d | nn.Linear) and not is_depthwise(layer):
            writers += 1
    return Group(root=root.layer, width=len(root.indices), parts=parts, members=members, is_stream=writers > 1)


def _is_layer(network: nn.Module, member: Member) -> bool:
    return isinstance(network.get_submodule(member.layer), nn.Conv2d | nn.Linear)


def is_depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups > 1 and layer.groups == layer.out_channels


def remove_blocks(
    network: nn.Module, architecture: Architecture, blocks: Iterable[str]
) -> tuple[nn.Module, Architecture]:
    """Return `network` without `blocks`, the others renumbered, and its architecture with the new depths.

    A block's shortcut must be the identity, and one block of each stage must remain (`removable_blocks`). The input
    of a block is already the output of a ReLU, so the ReLU after its addition has no effect once the block is gone.
    """
    gone = set(blocks)
    if not gone:
        return network, architecture
    renamed: dict[str, str] = {}
    depths = []
    for stage, depth in enumerate(architecture.depths, start=1):
        left = [index for index in range(depth) if f"layer{stage}.{index}" not in gone]
        renamed |= {f"layer{stage}.{old}.": f"layer{stage}.{new}." for new, old in enumerate(left)}
        depths.append(len(left))
    state = {}
    for name, value in network.state_dict().items():
        block = ".".join(name.split(".")[:2]) + "."
        if block.startswith("layer"):
            if block not in renamed:
                continue
            name = renamed[block] + name.removeprefix(block)
        state[name] = value
    widths = {name.removesuffix(".weight"): value.shape[0] for name, value in state.items() if value.dim() == 4}
    shallow = replace(architecture, depths=tuple(depths), widths=widths)
    built = build_resnet(shallow)
    built.load_state_dict(state)
    return built.eval(), shallow
