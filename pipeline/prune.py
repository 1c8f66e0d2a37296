"""Prune: channels out where they matter least per cost saved, then recovery by distillation from the float model."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.allocation import allocate
from pipeline.artifacts import Checkpoint
from pipeline.checkpoint import build_network, save_network
from pipeline.continuation import Continuation
from pipeline.data.batches import Batches
from pipeline.data.dataset import Dataset
from pipeline.data.images import ImageSet
from pipeline.dependencies import channel_groups, remove_channels
from pipeline.errors import CompressionError
from pipeline.importance import channel_importance
from pipeline.meter import Budget
from pipeline.progress import Progress
from pipeline.recipe import PruneRecipe
from pipeline.selection import spread
from pipeline.training import distillation, fit, seed_everything, top1_of
from targets.device.preprocess import Preprocessing

IMPORTANCE_IMAGES = 512
STATISTICS_IMAGES = 2048
BATCH_SIZE = 64
LEARNING_RATE = 0.01
"""Of 0.002 to 0.05 the best on ResNet-20: enough to regrow what was cut, not enough to forget the rest."""


def prune(
    checkpoint: Checkpoint,
    dataset: Dataset,
    preprocessing: Preprocessing,
    *,
    recipe: PruneRecipe,
    channel_multiple: int,
    seed: int,
    progress: Progress,
    folder: Path,
    continuation: Continuation | None = None,
) -> None:
    """Write the pruned and recovered network to `folder`; with shares of 1.0 the very files that came in.

    `continuation`: where the recovery is kept after every epoch.

    Raises `CompressionError` where the network's channels cannot be followed or the share cannot be reached.
    """
    budget: Budget = "macs" if recipe.macs < 1 else "params"
    share = min(recipe.macs, recipe.params)
    if share == 1:
        shutil.copytree(checkpoint.folder, folder, dirs_exist_ok=True, ignore=_all_but_the_network)
        return
    seed_everything(seed)
    network = build_network(checkpoint)
    selection = Batches(dataset.selection, preprocessing)
    _cut(network, checkpoint, dataset.training, preprocessing, budget, share, channel_multiple, seed, folder)
    # From here on it is what any later stage rebuilds from the stored widths and weights.
    pruned = build_network(Checkpoint(folder=folder))
    estimate_statistics(pruned, dataset.training, preprocessing)
    progress.line(
        f"prune: {share:g} of the {budget} kept; selection {top1_of(network, selection):.1%} before, "
        f"{top1_of(pruned, selection):.1%} after, not yet recovered"
    )
    if recipe.epochs > 0:
        fit(
            pruned,
            Batches(dataset.training, preprocessing, batch_size=BATCH_SIZE, seed=seed, shuffle=True, augment=True),
            epochs=recipe.epochs,
            learning_rate=LEARNING_RATE,
            loss=distillation(network),
            selection=selection,
            frozen_statistics=False,
            progress=progress,
            name="recovery",
            continuation=continuation,
        )
    save_network(pruned, checkpoint.architecture, folder)


def estimate_statistics(network: nn.Module, images: ImageSet, preprocessing: Preprocessing) -> None:
    """Measure mean and variance of every batch normalization anew on training images, in place.

    Each batch counts alike; what removed channels were on average is thereby put back.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for batch in _sample(images, preprocessing, STATISTICS_IMAGES):
            network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _cut(
    network: nn.Module,
    checkpoint: Checkpoint,
    images: ImageSet,
    preprocessing: Preprocessing,
    budget: Budget,
    share: float,
    channel_multiple: int,
    seed: int,
    folder: Path,
) -> None:
    """Write the network without its least important channels to `folder`."""
    input_shape = checkpoint.architecture.input_shape
    groups = channel_groups(network, input_shape)
    scores = channel_importance(network, groups, _sample(images, preprocessing, IMPORTANCE_IMAGES), seed=seed)
    removal = allocate(
        network,
        groups,
        scores,
        input_shape=input_shape,
        budget=budget,
        share=share,
        channel_multiple=channel_multiple,
    )
    save_network(remove_channels(network, input_shape, removal), checkpoint.architecture, folder)
    _check_budget(checkpoint, Checkpoint(folder=folder), budget, share)


def _check_budget(before: Checkpoint, after: Checkpoint, budget: Budget, share: float) -> None:
    left, full = (
        (after.cost.macs, before.cost.macs) if budget == "macs" else (after.cost.parameters, before.cost.parameters)
    )
    if left > share * full:
        raise CompressionError(
            f"{budget} = {share:g} was asked for, {left / full:.4f} is left after pruning. This is a bug of ours; "
            "please report it."
        )


def _sample(images: ImageSet, preprocessing: Preprocessing, count: int) -> Iterator[Tensor]:
    batches = Batches(images.subset(spread(len(images), count)), preprocessing, batch_size=BATCH_SIZE, shuffle=True)
    return (batch for batch, _ in batches.epoch(0))


def _all_but_the_network(folder: str, names: list[str]) -> set[str]:
    del folder
    return set(names) - {"weights.safetensors", "architecture.json", "cost.json"}
