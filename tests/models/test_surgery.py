"""Groups of channels, and that taking them out is what zeroing them is."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import torch
from tiny_networks import (
    FAMILY,
    GROUPED,
    OPTION_A,
    SHAPE,
    Concatenated,
    Depthwise,
    Gated,
    Padded,
    Rigid,
    Shifted,
    Unknown,
    network_of,
    own,
    random_removal,
    widths_after,
)
from torch import Tensor, nn

from pipeline.artifacts import Architecture, Checkpoint
from pipeline.errors import CompressionError
from pipeline.models.checkpoint import build_network, save_network
from pipeline.models.resnet import is_constant_shortcut
from pipeline.models.surgery import TOLERANCE, Group, Removal, channel_groups, remove_channels, zero_channels


def activations_of(root: str, architecture: Architecture) -> Iterable[str]:
    """The ReLUs behind which a group's channels are seen, from what a ResNet is, not from its dependency graph."""
    last = 3 if architecture.block == "bottleneck" else 2
    if root == "conv1":
        yield "relu"
        if "layer1.0.downsample.0" in architecture.widths:
            return
        root = "layer1.0.downsample.0"
    stage, block, layer = root.split(".")[:3]
    if layer == "downsample":
        for index in range(architecture.depths[int(stage.removeprefix("layer")) - 1]):
            yield f"{stage}.{index}.relu{last}"
    else:
        yield f"{stage}.{block}.{layer.replace('conv', 'relu')}"


def masked(network: nn.Module, architecture: Architecture, removal: Removal, images: Tensor) -> Tensor:
    """Logits with the channels' activations set to zero on their way."""
    handles = []
    for root, channels in removal.items():

        def mask(_: nn.Module, __: object, output: Tensor, channels: tuple[int, ...] = channels) -> Tensor:
            output[:, list(channels)] = 0
            return output

        for name in activations_of(root, architecture):
            handles.append(network.get_submodule(name).register_forward_hook(mask))
    with torch.no_grad():
        logits: Tensor = network(images)
    for handle in handles:
        handle.remove()
    return logits


def difference(got: Tensor, expected: Tensor) -> float:
    return float(((got - expected).abs().max() / expected.abs().max()).detach())


def some_images(shape: tuple[int, int, int]) -> Tensor:
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(9))


def seen(groups: Iterable[Group]) -> list[tuple[str, int, int, bool]]:
    return [(group.root, group.width, group.parts, group.is_stream) for group in groups]


def test_option_a_streams_end_at_the_constant_convolutions() -> None:
    groups = channel_groups(network_of(OPTION_A), OPTION_A.input_shape)
    assert seen(groups) == [
        ("conv1", 8, 1, True),
        ("layer1.0.conv1", 8, 1, False),
        ("layer2.0.conv1", 12, 1, False),
        ("layer2.0.downsample.0", 12, 1, True),
        ("layer2.1.conv1", 12, 1, False),
        ("layer3.0.conv1", 16, 1, False),
        ("layer3.0.downsample.0", 16, 1, True),
    ]
    stream = {(member.layer, member.is_writer) for member in groups[0].members}
    assert stream == {
        ("conv1", True), ("bn1", True), ("layer1.0.conv2", True), ("layer1.0.bn2", True),
        ("layer1.0.conv1", False), ("layer2.0.conv1", False), ("layer2.0.downsample.0", False),
    }  # fmt: skip
    assert all(member.channels == tuple(range(8)) for member in groups[0].members)


def test_the_inside_of_grouped_blocks_has_as_many_parts_as_the_convolution() -> None:
    groups = channel_groups(network_of(GROUPED), GROUPED.input_shape)
    assert seen(groups)[:4] == [
        ("conv1", 4, 1, False),
        ("layer1.0.conv1", 8, 4, False),
        ("layer1.0.conv2", 8, 4, False),
        ("layer1.0.downsample.0", 16, 1, True),
    ]
    assert {group.parts for group in groups if re.search(r"conv[12]$", group.root) and "." in group.root} == {4}
    assert {group.parts for group in groups if group.is_stream} == {1}


@pytest.mark.parametrize("architecture", FAMILY)
def test_neither_images_nor_logits_are_in_a_group(architecture: Architecture) -> None:
    groups = channel_groups(network_of(architecture), architecture.input_shape)
    members = {(member.layer, member.is_writer) for group in groups for member in group.members}
    assert ("fc", False) in members
    assert not {("fc", True), ("conv1", False)} & members
    convolutions = {name for name in architecture.widths if name != "conv1"}
    assert {layer for layer, is_writer in members if is_writer} >= convolutions


@pytest.mark.parametrize("architecture", FAMILY)
def test_removing_channels_is_masking_their_activations(architecture: Architecture) -> None:
    network = network_of(architecture)
    groups = channel_groups(network, architecture.input_shape)
    images = some_images(architecture.input_shape)
    for seed in range(4):
        removal = random_removal(groups, seed)
        pruned = remove_channels(network, architecture.input_shape, removal)
        expected = masked(network, architecture, removal, images)
        assert difference(pruned(images), expected) < TOLERANCE
        assert difference(network(images), expected) > 100 * TOLERANCE
        for root, width in widths_after(groups, removal).items():
            assert pruned.get_submodule(root).get_parameter("weight").shape[0] == width


@pytest.mark.parametrize("architecture", FAMILY)
def test_each_group_alone_can_be_cut(architecture: Architecture) -> None:
    network = network_of(architecture)
    images = some_images(architecture.input_shape)
    for group in channel_groups(network, architecture.input_shape):
        per_part = group.width // group.parts
        removal = {group.root: tuple(range(0, group.width, per_part))}
        pruned = remove_channels(network, architecture.input_shape, removal)
        assert difference(pruned(images), masked(network, architecture, removal, images)) < TOLERANCE, group.root


@pytest.mark.parametrize("architecture", FAMILY)
def test_a_pruned_network_is_rebuilt_from_plain_weights(architecture: Architecture, tmp_path: Path) -> None:
    network = network_of(architecture)
    removal = random_removal(channel_groups(network, architecture.input_shape), seed=7)
    pruned = remove_channels(network, architecture.input_shape, removal)
    save_network(pruned, architecture, tmp_path)
    rebuilt = build_network(Checkpoint(folder=tmp_path))
    images = some_images(architecture.input_shape)
    assert torch.equal(rebuilt(images), pruned(images))
    assert [name for name, module in rebuilt.named_modules() if is_constant_shortcut(module)] == [
        name for name, module in network.named_modules() if is_constant_shortcut(module)
    ]


def test_looking_and_cutting_leave_the_network_as_it_was() -> None:
    network = network_of(OPTION_A).train()
    network.get_submodule("bn1").eval()
    modes = [module.training for module in network.modules()]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    groups = channel_groups(network, OPTION_A.input_shape)
    remove_channels(network, OPTION_A.input_shape, random_removal(groups, seed=3))
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(value.grad is None for value in network.parameters())


def test_frozen_layers_are_followed_too() -> None:
    frozen = network_of(OPTION_A).requires_grad_(False)
    free = network_of(OPTION_A)
    assert channel_groups(frozen, OPTION_A.input_shape) == channel_groups(free, OPTION_A.input_shape)


def test_removing_nothing_changes_nothing() -> None:
    network = network_of(OPTION_A)
    images = some_images(OPTION_A.input_shape)
    assert torch.equal(remove_channels(network, OPTION_A.input_shape, {"conv1": ()})(images), network(images))


@pytest.mark.parametrize(
    ("make", "groups"),
    [
        pytest.param(
            Concatenated,
            [("stem", 8, 1, False), ("left", 8, 1, False), ("right", 12, 1, False), ("last", 8, 1, False)],
            id="concatenated",
        ),
        pytest.param(
            Depthwise, [("depth", 8, 1, False), ("point", 12, 1, False), ("hidden", 10, 1, False)], id="depthwise"
        ),
        pytest.param(Gated, [("squeeze", 4, 1, False), ("excite", 8, 1, True), ("last", 8, 1, False)], id="gated"),
        pytest.param(Unknown, [("third", 8, 1, False)], id="layers-it-does-not-know-are-left-alone"),
        pytest.param(Padded, [("inside", 16, 1, False)], id="padded-streams-are-left-alone"),
    ],
)
def test_networks_of_the_users_own(make: Callable[[], nn.Module], groups: list[tuple[str, int, int, bool]]) -> None:
    network = own(make)
    found = channel_groups(network, SHAPE)
    assert seen(found) == groups
    images = some_images(SHAPE)
    for seed in range(4):
        removal = random_removal(found, seed)
        pruned = remove_channels(network, SHAPE, removal)
        assert difference(pruned(images), zero_channels(network, found, removal)(images)) < TOLERANCE


@pytest.mark.parametrize(
    ("make", "root", "message"),
    [
        pytest.param(Shifted, "last", r"function: its logits differ by [\d.]+ of .*such as padding", id="shifted"),
        pytest.param(Padded, "last", r"changes the network's function: .*as a fixed convolution", id="padded"),
        pytest.param(Rigid, "stem", r"does not run after channels are removed: .*relies on fixed widths", id="rigid"),
    ],
)
def test_what_removing_does_to_the_function_is_checked(make: Callable[[], nn.Module], root: str, message: str) -> None:
    with pytest.raises(CompressionError, match=message):
        remove_channels(own(make), SHAPE, {root: (1, 6)})


def test_a_network_that_cannot_be_followed_says_so() -> None:
    with pytest.raises(
        CompressionError, match=r"channels cannot be traced: RuntimeError: Given groups=1.*Prune nothing"
    ):
        channel_groups(network_of(OPTION_A), (1, 16, 16))
