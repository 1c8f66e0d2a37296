"""Channel importance criteria from the literature, for `benchmarks/compare_criteria.py`.

Each returns float32 [width] by the group's root, summed over layers that share channels (DepGraph, Fang et al. 2023).
"""

import copy
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.models.surgery import Group
from pipeline.prune.importance import Scores

Labelled = Sequence[tuple[Tensor, Tensor]]
"""Images float32 [B, 3, H, W] and labels int64 [B]."""
Criterion = Callable[[nn.Module, Sequence[Group], Labelled], Scores]


def l2(network: nn.Module, groups: Sequence[Group], batches: Labelled) -> Scores:
    """Squared norm of the filters that write a channel (Li et al. 2017, https://arxiv.org/abs/1608.08710)."""
    del batches
    return _summed(network, groups, lambda layer: _filters(layer, lambda weight: weight.square()))


def bn_scale(network: nn.Module, groups: Sequence[Group], batches: Labelled) -> Scores:
    """|gamma| of batch normalization (network slimming, Liu et al. 2017, https://arxiv.org/abs/1708.06519)."""
    del batches
    return _summed(network, groups, lambda layer: layer.weight.abs() if isinstance(layer, nn.BatchNorm2d) else None)


def taylor(network: nn.Module, groups: Sequence[Group], batches: Labelled) -> Scores:
    """(gamma · dL/dgamma + beta · dL/dbeta)², by batch (Molchanov et al. 2019, https://arxiv.org/abs/1906.10771)."""
    network = copy.deepcopy(network).eval().requires_grad_(True)

    def effect(layer: nn.Module) -> Tensor | None:
        if not isinstance(layer, nn.BatchNorm2d):
            return None
        assert layer.weight.grad is not None
        assert layer.bias.grad is not None
        return layer.weight * layer.weight.grad + layer.bias * layer.bias.grad

    scores = {group.root: torch.zeros(group.width) for group in groups}
    for images, labels in batches:
        network.zero_grad()
        torch.autograd.backward(F.cross_entropy(network(images), labels))
        for root, value in _summed(network, groups, effect).items():
            scores[root] += value.square()
    return scores


def hessian(network: nn.Module, groups: Sequence[Group], batches: Labelled) -> Scores:
    """|trace of H| · |w|² by filter (HAP, Yu et al. 2022, https://arxiv.org/abs/2101.08940); Hutchinson's estimate."""
    network = copy.deepcopy(network).eval()
    convolutions = {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d)}
    weights = {name: layer.weight for name, layer in convolutions.items() if layer.weight.requires_grad}
    traces = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    generator = torch.Generator().manual_seed(0)
    for images, labels in batches:
        loss = F.cross_entropy(network(images), labels)
        gradients = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
        signs = [torch.randint(0, 2, weight.shape, generator=generator) * 2.0 - 1.0 for weight in weights.values()]
        product = sum(
            ((gradient * sign).sum() for gradient, sign in zip(gradients, signs, strict=True)), torch.zeros(())
        )
        products = torch.autograd.grad(product, list(weights.values()))
        for name, of_sign, sign in zip(weights, products, signs, strict=True):
            traces[name] += of_sign * sign
    of_layer = {
        convolutions[name]: traces[name].flatten(1).mean(1).abs() * weight.detach().flatten(1).square().sum(1)
        for name, weight in weights.items()
    }
    return _summed(network, groups, lambda layer: of_layer.get(layer) if isinstance(layer, nn.Conv2d) else None)


def by_chance(network: nn.Module, groups: Sequence[Group], batches: Labelled) -> Scores:
    """Random importance, the baseline of all criteria."""
    del network, batches
    generator = torch.Generator().manual_seed(1)
    return {group.root: torch.rand(group.width, generator=generator) for group in groups}


CRITERIA: dict[str, Criterion] = {
    "Taylor": taylor,
    "BN scale": bn_scale,
    "L2": l2,
    "Hessian": hessian,
    "chance": by_chance,
}


def _filters(layer: nn.Module, of: Callable[[Tensor], Tensor]) -> Tensor | None:
    return of(layer.weight).flatten(1).sum(1) if isinstance(layer, nn.Conv2d) else None


@torch.no_grad()
def _summed(network: nn.Module, groups: Sequence[Group], of: Callable[[nn.Module], Tensor | None]) -> Scores:
    """Sum `of` over the layers that write each channel; None values are skipped."""
    scores = {group.root: torch.zeros(group.width) for group in groups}
    for group in groups:
        for member in group.members:
            value = of(network.get_submodule(member.layer)) if member.is_writer else None
            if value is not None:
                scores[group.root].index_add_(0, torch.tensor(member.channels), value.detach()[list(member.indices)])
    return scores
