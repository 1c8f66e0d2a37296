"""Evaluate a network: its logits, and its top-1 accuracy.

Also the divergence between two networks' answers, which is informative on few images where top-1 is not.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import log_softmax
from torch import Tensor, fx, nn

from pipeline.data.batches import Batches
from pipeline.models.resnet import ResNet
from pipeline.progress import Progress, Silent
from pipeline.training.microbatches import micro_batches
from pipeline.training.mixed_precision import autocast


def logits_of(
    network: nn.Module,
    batches: Batches,
    *,
    mixed_precision: bool = False,
    progress: Progress | None = None,
    name: str = "evaluation",
) -> NDArray[np.float32]:
    """Return logits [N, C] in the order of the images; the network's train/eval mode is restored.

    `progress` counts the images as a task called `name`.
    """
    assert not batches.is_shuffled
    assert not batches.is_augmented
    parts: list[NDArray[np.float32]] = []
    with (
        (progress or Silent()).task(name, len(batches.images)) as advance,
        _evaluating(network),
        torch.inference_mode(),
        autocast(enabled=mixed_precision),
    ):
        for images, _ in batches.epoch(0):
            for (part,) in micro_batches(images):
                parts.append(network(to_device_of(part, network)).float().cpu().numpy())
                advance(len(part))
    return np.concatenate(parts).astype(np.float32, copy=False)


def top1_of(
    network: nn.Module,
    batches: Batches,
    *,
    mixed_precision: bool = False,
    progress: Progress | None = None,
    name: str = "evaluation",
) -> float:
    """Return the share of images whose label has the largest logit."""
    logits = logits_of(network, batches, mixed_precision=mixed_precision, progress=progress, name=name)
    return float((logits.argmax(axis=1) == batches.images.labels).mean())


@contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def to_device_of(images: Tensor, network: nn.Module) -> Tensor:
    """Move images to the network's device; channels last if its code allows it (15-20 % less CPU time if small)."""
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    if isinstance(network, fx.GraphModule):
        is_safe = all(node.target != "view" for node in network.graph.nodes)
    else:
        is_safe = isinstance(network, ResNet)  # a user's own network may call `view`, which needs the default layout
    return images.to(device, memory_format=torch.channels_last if is_safe else torch.contiguous_format)


def divergence(logits: NDArray[np.float32], wanted: NDArray[np.float32]) -> float:
    """Return the mean KL divergence of softmax(logits) from softmax(wanted), both [N, C], in nats; inf if infinite."""
    if not np.isfinite(logits).all():
        return float("inf")
    of_wanted = log_softmax(wanted.astype(np.float64), axis=1)
    of_logits = log_softmax(logits.astype(np.float64), axis=1)
    return float((np.exp(of_wanted) * (of_wanted - of_logits)).sum(axis=1).mean())
