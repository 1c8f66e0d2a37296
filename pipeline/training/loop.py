"""One training loop for all trainings: from scratch, recovery after pruning, quantization-aware."""

import math
import random
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.data.batches import Batches
from pipeline.errors import CompressionError, RecipeError
from pipeline.progress import Advance, Progress, Silent
from pipeline.training.distributed import ALONE, Ranks, join_process_group, start_processes
from pipeline.training.evaluation import to_device_of, top1_of
from pipeline.training.loss import Distillation, Loss
from pipeline.training.microbatches import micro_batches
from pipeline.training.mixed_precision import autocast
from pipeline.training.snapshot import UnusableSnapshot, restore, snapshot_of, tensors_of
from pipeline.training.torchrun import rank_and_world_size
from pipeline.workplace import Workplace
from pipeline.workspace.hashing import Json
from pipeline.workspace.training_state import Continuation

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
WARM_UP_SHARE = 0.05
LARGEST_GRADIENT = 5.0
"""Norm at which gradients are clipped: far above healthy ones, so it only prevents explosions."""


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch; equal results also need the same number of threads."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@dataclass(frozen=True, kw_only=True)
class Training:
    """Input of all processes of a training; picklable if network, images and loss are.

    SGD with Nesterov momentum, a short warm-up, then a cosine to zero. The last weights are used: choosing the best of
    several epochs would fit the selection split, and early stopping would keep weights that have not converged. Of
    eleven trainings of four to eight epochs on 45,000 images the last epoch was the best on the selection split in
    nine, and within 0.3 points of the best in two. A moving average over 100 or 500 steps ended within 0.1 points of
    the last weights, above or below, in ResNet-20's recovery (10,000 images). So neither is used.
    """

    network: nn.Module
    batches: Batches
    epochs: int
    learning_rate: float
    loss: Loss
    frozen_statistics: bool = False
    """Do not update the running statistics of batch normalization."""
    mixed_precision: bool
    """Compute in bfloat16 (see `mixed_precision.py`); its precision is too low for the grid of a quantized network."""
    name: str
    weight_decay: float = WEIGHT_DECAY

    @property
    def steps(self) -> int:
        return self.epochs * len(self.batches)

    def fit(self, at: Workplace, *, selection: Batches | None) -> None:
        """Train the network in place and leave it in evaluation mode, with the weights of the last step.

        With a continuation the training is saved there after every epoch and resumes from it, bit-identical on the
        same machine with the same number of threads and processes. The caller removes it when the result is saved.

        `at.processes` share every batch (`distributed.py`); so do processes started by `torchrun`, each of which
        calls this. Batches, augmentation and schedule equal those of one process; batch normalization uses its share.
        Raises `CompressionError` if the loss diverges, `RecipeError` if a batch is too small to be shared, and
        `ProcessLost`.
        """
        with self.ranks(at.processes) as ranks:
            if ranks.is_first:
                self.run(ranks, selection=selection, continuation=at.continuation, progress=at.progress)
            else:
                self.run(ranks, selection=None, continuation=None, progress=Silent())

    def ranks(self, processes: int) -> AbstractContextManager[Ranks]:
        """Return the context of this process among the training's processes."""
        found = rank_and_world_size()
        world = processes if found is None else found[1]
        smallest = self.batches.size(len(self.batches) - 1)
        if smallest < world:
            raise RecipeError(
                f"{self.name}: {world} processes cannot share a batch of {smallest} images. Use fewer processes."
            )
        if found is not None:
            return join_process_group(*found, meeting=None)
        return start_processes(self, processes) if processes > 1 else nullcontext(ALONE)

    def run(
        self, ranks: Ranks, *, selection: Batches | None, continuation: Continuation | None, progress: Progress
    ) -> None:
        """Run one process's part."""
        network = self.network.to(ranks.device) if ranks.world > 1 else self.network
        optimizer = torch.optim.SGD(
            _parameter_groups(network, self.weight_decay),
            lr=self.learning_rate,
            momentum=MOMENTUM,
            nesterov=True,
            foreach=True,
        )
        half, first, earlier, started = self.mixed_precision, 0, 0.0, time.monotonic()
        if continuation is not None:
            continuation = continuation.bound_to(self._facts())
            first, earlier = _resume(continuation, network, optimizer, self.epochs, self.name, progress)
        first = _synchronize_epochs(first, network, optimizer, ranks)
        with (
            _watching(self.loss, network),
            progress.task(self.name, self.steps - first * len(self.batches)) as advance,
        ):
            trained = ranks.wrap_model(network)
            for epoch in range(first, self.epochs):
                loss, top1 = self._epoch(epoch, trained, optimizer, ranks, advance)
                # In the training's own precision: half the time, and the value is only displayed.
                judged = None if selection is None else top1_of(network, selection, mixed_precision=half)
                progress.line(_epoch_line(self.name, epoch, self.epochs, loss, top1, judged))
                if continuation is not None:
                    seconds = earlier + time.monotonic() - started
                    state = snapshot_of(network, optimizer)
                    continuation.keep(state, epochs=epoch + 1, seconds=seconds, name=self.name, progress=progress)
        network.to("cpu").eval()

    def _epoch(
        self, epoch: int, trained: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks, advance: Advance
    ) -> tuple[float, float]:
        """Return mean loss and top-1 over all images; `trained` is the network or its gradient-averaging wrapper."""
        _train_mode(self.network, frozen_statistics=self.frozen_statistics)
        if not ranks.is_first:
            seed_everything(epoch * ranks.world + ranks.rank)  # the network's random numbers differ between processes
        seen, right, summed = 0, 0, 0.0
        shares = self.batches.shared(ranks.rank, ranks.world).epoch(epoch)
        for number, (images, labels) in enumerate(shares):
            step, count = epoch * len(self.batches) + number, self.batches.size(number)
            rate = rate_at(step, self.steps, self.learning_rate)
            for group in optimizer.param_groups:
                group["lr"] = rate
            value, hits = self._step(trained, optimizer, images, labels, count, ranks)
            if not math.isfinite(value):
                raise CompressionError(_explosion(self.name, epoch, step, rate))
            seen, right, summed = seen + count, right + hits, summed + value * count
            advance(note=f"loss {summed / seen:.3f}  top-1 {right / seen:.1%}")
        return summed / seen, right / seen

    def _step(
        self,
        trained: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: Tensor,
        labels: Tensor,
        count: int,
        ranks: Ranks,
    ) -> tuple[float, int]:
        """Do one update; return the loss (not finite if the gradients are not) and the number of correct answers.

        `count` is over all processes: gradients of means over shares are averaged, so a share is weighted by its size.
        Gradients of micro-batches add up; batch normalization uses each micro-batch separately.
        """
        optimizer.zero_grad(set_to_none=True)
        parts = micro_batches(images, labels)
        summed, hits = 0.0, 0
        for number, (some_images, some_labels) in enumerate(parts, start=1):
            with ranks.accumulating(trained, is_last=number == len(parts)):
                value, right = self._backward(trained, some_images, some_labels, count=count, world=ranks.world)
            summed, hits = summed + value * len(some_labels), hits + right
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT, foreach=True)
        if not math.isfinite(float(norm)):
            return math.nan, 0
        optimizer.step()
        if ranks.world > 1:
            summed, all_hits = ranks.all_reduce_sum([summed, hits])
            hits = round(all_hits)
        return summed / count, hits

    def _backward(
        self, trained: nn.Module, images: Tensor, labels: Tensor, *, count: int, world: int
    ) -> tuple[float, int]:
        """Add the gradients of one micro-batch; return its mean loss and the number of correct answers."""
        images = to_device_of(images, self.network)
        labels = labels.to(images.device)
        with autocast(enabled=self.mixed_precision):
            logits = trained(images)
        logits = logits.float()
        value = self.loss(logits, images, labels)
        torch.autograd.backward(value * (world * len(labels) / count))
        return float(value.detach()), int((logits.detach().argmax(dim=1) == labels).sum())

    def _facts(self) -> Json:
        """Return the facts that a saved state must share with this training."""
        shapes: dict[str, Json] = {key: list(value.shape) for key, value in tensors_of(self.network).items()}
        return [
            self.name,
            self.epochs,
            len(self.batches),
            self.learning_rate,
            self.weight_decay,
            self.frozen_statistics,
            self.mixed_precision,
            shapes,
        ]


def rate_at(step: int, total: int, peak: float) -> float:
    """Return the learning rate: linear warm-up over the first steps, then half a cosine to zero after the last."""
    warm = max(1, round(total * WARM_UP_SHARE))
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm + 1) / (total - warm + 1)))


def _resume(
    continuation: Continuation,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    name: str,
    progress: Progress,
) -> tuple[int, float]:
    """Load the saved state into network and optimizer; return the number of finished epochs, and their seconds."""
    kept = continuation.read(name, progress)
    if kept is None:
        return 0, 0.0
    try:
        restore(kept.state, network, optimizer)
    except UnusableSnapshot as error:
        continuation.set_aside(f"is damaged ({error})", name, progress)
        return 0, 0.0
    progress.line(f"{name}: resumes after epoch {kept.epochs} of {epochs}")
    return kept.epochs, kept.seconds


def _watching(loss: Loss, network: nn.Module) -> AbstractContextManager[None]:
    return loss.watching(network) if isinstance(loss, Distillation) else nullcontext()


def _synchronize_epochs(first: int, network: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks) -> int:
    """Return the number of finished epochs; copy rank 0's state to all processes (only momenta must be sent)."""
    if ranks.world == 1:
        return first
    told = ranks.gather_from_rank0(
        (first, snapshot_of(network, optimizer) if first > 0 else None) if ranks.is_first else None
    )
    assert isinstance(told, tuple)
    first, state = told
    if state is not None and not ranks.is_first:
        restore(state, network, optimizer)
    return int(first)


def _parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Apply weight decay only to the weights of convolutions and the head, not to biases, norms and scales."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]


def _train_mode(network: nn.Module, *, frozen_statistics: bool) -> None:
    network.train()
    if frozen_statistics:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def _epoch_line(name: str, epoch: int, epochs: int, loss: float, top1: float, judged: float | None) -> str:
    text = f"{name}: epoch {epoch + 1}/{epochs}  loss {loss:.3f}  top-1 {top1:.1%}"
    return text if judged is None else f"{text}  selection {judged:.1%}"


def _explosion(name: str, epoch: int, step: int, rate: float) -> str:
    return (
        f"{name}: the loss is not finite at epoch {epoch + 1}, step {step + 1} (learning rate "
        f"{rate:.2g}). Lower the learning rate, or check that preprocessing and weights belong together."
    )
