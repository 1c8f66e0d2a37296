"""Recovery: train a network after a part of it was removed.

Statistics of batch normalization are measured first, then the network is distilled from the uncut one.
"""

import math
from collections.abc import Iterator
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.data.batches import Batches
from pipeline.data.images import ImageSet
from pipeline.data.sampling import spread
from pipeline.progress import Progress, Silent
from pipeline.training.evaluation import to_device_of
from pipeline.training.loop import Training
from pipeline.training.loss import ATTENTION, Distillation, shared_stages
from pipeline.training.microbatches import micro_batches
from pipeline.training.mixed_precision import has_bfloat16
from pipeline.workplace import Data, Workplace
from targets.device.model.preprocess import Preprocessing

STATISTICS_IMAGES = 2048
"""For 64 x 64 pixels or less; larger images have more values per channel, so fewer are used."""
MIN_STATISTICS_IMAGES = 512
BATCH_SIZE = 64
LEARNING_RATE = 0.02
"""Chosen from 0.01 to 0.06 on CIFAR-10. ResNet-20 cut to a speedup of 1.3 reaches 87.3, 87.6, 87.5 and 87.1 % after
five epochs on 20,000 images with 0.01, 0.02, 0.03 and 0.06; on 4,660 images 0.01 equals 0.03 (88.1, 87.8 %)."""


def recover(
    pruned: nn.Module,
    teacher: nn.Module,
    data: Data,
    *,
    epochs: int,
    seed: int,
    at: Workplace,
    name: str = "recovery",
) -> None:
    """Train `pruned` in place to answer as `teacher` does; raise `CompressionError` if the loss diverges."""
    if not shared_stages(pruned, teacher):
        at.progress.line(f"{name}: no ResNet stages for attention transfer; distilling from the logits only")
    images, preprocessing = data.dataset, data.preprocessing
    training = Training(
        network=pruned,
        batches=Batches(images.training, preprocessing, batch_size=BATCH_SIZE, seed=seed, shuffle=True, augment=True),
        epochs=epochs,
        learning_rate=LEARNING_RATE,
        loss=Distillation(teacher, attention=ATTENTION),
        mixed_precision=has_bfloat16(),
        name=name,
    )
    training.fit(at, selection=Batches(images.selection, preprocessing))


def recalibrate_batchnorm(
    network: nn.Module, images: ImageSet, preprocessing: Preprocessing, *, progress: Progress
) -> None:
    """Give every batch normalization the statistics of its data without changing the network's function, in place.

    Statistics may only be measured again after a cut if the stored ones are those of the data. In frozen networks,
    Caffe's and folded ones the variance is 1, and training stores an average over augmented images.
    Weight and bias compensate for the difference.
    """
    norms = [module for module in network.modules() if _has_statistics(module)]
    measured = [_Moments() for _ in norms]
    handles = [norm.register_forward_pre_hook(moments.see) for norm, moments in zip(norms, measured, strict=True)]
    count = min(_statistics_images(preprocessing), len(images))
    try:
        with torch.no_grad(), progress.task("statistics of the data", count) as advance:
            for batch in sample(images, preprocessing, count):
                network(to_device_of(batch, network))
                advance(len(batch))
    finally:
        for handle in handles:
            handle.remove()
    for norm, moments in zip(norms, measured, strict=True):
        _express(norm, moments)


class _Moments:
    """Mean and variance [C] as `estimate_statistics` measures them: each micro-batch has equal weight."""

    def __init__(self) -> None:
        self._batches = 0
        self._mean, self._variance = torch.zeros(()), torch.zeros(())

    def see(self, module: nn.Module, inputs: tuple[Tensor]) -> None:
        """Hook before a normalization of [B, C, ...]."""
        del module
        over = [0, *range(2, inputs[0].dim())]
        variance, mean = torch.var_mean(inputs[0].detach().double(), dim=over)
        self._batches += 1
        self._mean, self._variance = self._mean + mean, self._variance + variance

    @property
    def mean(self) -> Tensor:
        return self._mean / self._batches

    @property
    def variance(self) -> Tensor:
        return self._variance / self._batches


def _has_statistics(module: nn.Module) -> TypeGuard[_BatchNorm]:
    return isinstance(module, _BatchNorm) and module.track_running_stats and module.affine


@torch.no_grad()
def _express(norm: _BatchNorm, data: _Moments) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
    norm.bias.copy_(norm.bias.double() + gain * (data.mean - norm.running_mean.double()))
    norm.weight.copy_(gain * (data.variance + norm.eps).sqrt())
    norm.running_mean.copy_(data.mean)
    norm.running_var.copy_(data.variance)


def estimate_statistics(
    network: nn.Module, images: ImageSet, preprocessing: Preprocessing, *, progress: Progress | None = None
) -> None:
    """Measure mean and variance of every batch normalization again on training images, in place.

    Each micro-batch has equal weight; this restores the mean of removed channels.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    count = min(_statistics_images(preprocessing), len(images))
    with torch.no_grad(), (progress or Silent()).task("batch statistics", count) as advance:
        for batch in sample(images, preprocessing, count):
            network(to_device_of(batch, network))
            advance(len(batch))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _statistics_images(preprocessing: Preprocessing) -> int:
    if preprocessing.crop is None:
        return STATISTICS_IMAGES
    fewer = STATISTICS_IMAGES * 64 * 64 // math.prod(preprocessing.crop)
    return min(STATISTICS_IMAGES, max(MIN_STATISTICS_IMAGES, fewer))


def sample(images: ImageSet, preprocessing: Preprocessing, count: int) -> Iterator[Tensor]:
    """Yield micro-batches float32 [B, 3, H, W] of `count` images, evenly spread over `images`."""
    batches = Batches(images.subset(spread(len(images), count)), preprocessing, batch_size=BATCH_SIZE, shuffle=True)
    return (part for batch, _ in batches.epoch(0) for (part,) in micro_batches(batch))
