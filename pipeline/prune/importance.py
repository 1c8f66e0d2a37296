"""Importance of each group's channels for the logits, from a few hundred training images without labels.

Removing channel c of a group changes the logits z, to first order, by the sum over its readers of the channel's
activation a times dz/da. The channel's mean is not lost: the batch normalization after its readers is measured
again, which restores it (`prune.prune`). So a is used without its mean. The importance
is the expected squared norm of the change (Gauss-Newton with the logits' own metric), estimated with random sign
vectors v: E_v[(a · d(v·z)/da)²] = |a · dz/da|². Coupled channels are summed before they are squared, as in Group
Fisher pruning (Liu et al. 2021, https://arxiv.org/abs/2108.00708). The task's loss is not used: its gradient
vanishes on images that the network has memorized.
"""

import copy
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from pipeline.models.resnet import ResNet
from pipeline.models.surgery import Group, Member
from pipeline.progress import Advance, ignore
from pipeline.training.evaluation import to_device_of

Scores = dict[str, Tensor]
"""Importance of every channel, float32 [width], by the group's root."""


def channel_importance(
    network: nn.Module,
    groups: Iterable[Group],
    batches: Iterable[Tensor],
    *,
    seed: int,
    advance: Advance = ignore,
) -> Scores:
    """Return importance from `batches` of preprocessed images float32 [B, 3, H, W]; `advance` counts the images."""
    groups = tuple(groups)
    network = copy.deepcopy(network).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    scores = {group.root: torch.zeros(group.width) for group in groups}
    for images in batches:
        for root, effect in _effects(network, groups, to_device_of(images, network), generator).items():
            scores[root] += effect.square().sum(dim=0)
        advance(len(images))
    return scores


@torch.no_grad()
def block_importance(
    network: nn.Module, blocks: Iterable[str], batches: Iterable[Tensor], *, advance: Advance = ignore
) -> dict[str, float]:
    """Return the squared change of the logits, summed over images, when a residual block is removed; by block.

    The block's mean output is kept, as for channels. This is not a first-order estimate: a whole block is a large
    change. `advance` counts the images.
    """
    changes = dict.fromkeys(blocks, 0.0)
    if not changes:
        return changes
    network = copy.deepcopy(network).eval()
    assert isinstance(network, ResNet), "other networks have no blocks that are known to be removable"
    for images in batches:
        without, before = _logits_without_each(network, set(changes), to_device_of(images, network))
        for block, logits in without.items():
            changes[block] += float((logits - before).square().sum())
        advance(len(images))
    return changes


def _logits_without_each(network: ResNet, blocks: set[str], images: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Return logits [B, C] without each of `blocks`, and of the whole network; layers before a block run once."""
    features, without = network.features_of_stem(images), {}
    order = network.blocks()
    for position, name in enumerate(order):
        block = network.get_submodule(name)
        if name in blocks:
            handle = _last_normalization(network, name).register_forward_hook(
                lambda _module, _inputs, output: _mean_alone(output)
            )
            try:
                changed = block(features)
            finally:
                handle.remove()
            for later in order[position + 1 :]:
                changed = network.get_submodule(later)(changed)
            without[name] = network.logits_of_features(changed)
        features = block(features)
    return without, network.logits_of_features(features)


def _last_normalization(network: nn.Module, block: str) -> nn.Module:
    """Return the last normalization of the block's branch."""
    module = network.get_submodule(block)
    return module.get_submodule("bn3" if hasattr(module, "bn3") else "bn2")


def _mean_alone(values: Tensor) -> Tensor:
    return values.mean(dim=(0, 2, 3), keepdim=True).expand_as(values)


def _effects(
    network: nn.Module, groups: tuple[Group, ...], images: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the first-order change of v·z for each image and channel [B, width] when the channel is removed."""
    effects = {group.root: torch.zeros(len(images), group.width) for group in groups}
    handles = [
        network.get_submodule(member.layer).register_forward_pre_hook(_collector(effects[group.root], member))
        for group in groups
        for member in group.members
        if not member.is_writer
    ]
    try:
        images = images.clone().requires_grad_()
        logits = network(images)
        signs = torch.randint(0, 2, logits.shape, generator=generator) * 2.0 - 1.0
        torch.autograd.grad((logits * signs).sum(), images)
    finally:
        for handle in handles:
            handle.remove()
    return effects


def _collector(effect: Tensor, member: Member) -> Callable[[nn.Module, tuple[Tensor]], tuple[Tensor]]:
    """Return a hook that adds centered activation times gradient of this reader's input to `effect`, per image."""
    indices, channels = torch.tensor(member.indices), torch.tensor(member.channels)

    def before(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        del module
        activation = inputs[0].view_as(inputs[0])  # its gradient is only this reader's
        # No reference to `activation`: a tensor held by its own hook is never freed, as Python does not see the cycle.
        values = inputs[0].detach()

        def collect(gradient: Tensor) -> None:
            centered = values - values.mean(dim=[0, *range(2, values.dim())], keepdim=True)
            products = (centered * gradient).flatten(2).sum(dim=2) if gradient.dim() > 2 else centered * gradient
            effect.index_add_(1, channels, products[:, indices])

        activation.register_hook(collect)  # type: ignore[no-untyped-call]
        return (activation,)

    return before
