"""Time per image on this machine: inference, recovery after pruning, quantization-aware training.

Each is timed in the stages' own loops on a few training images: an estimate from
forward passes would be wrong by several times, as precision, memory layout and teacher differ between machines.
"""

import copy
import itertools
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pipeline.artifacts import Checkpoint
from pipeline.data.readers import Dataset
from pipeline.data.sampling import spread
from pipeline.models.checkpoint import build_network
from pipeline.progress import Advance, Silent
from pipeline.prune.recovery import BATCH_SIZE, recover
from pipeline.prune.tournament import SHARE
from pipeline.quantize.network import prepare
from pipeline.quantize.quantize import CALIBRATION_IMAGES, calibrate, fit_on_grid
from pipeline.recipe import Recipe
from pipeline.workplace import Data, Workplace
from targets.device.model.preprocess import Preprocessing

PROBE_IMAGES = 16
PROBE_RUNS = 3
PROBE_SECONDS = 2.0
"""Approximate time for trying one training."""
PASSES = 12
"""Upper estimate of a training step's cost in forward passes, to choose the number of images for the trial."""
STEPS = 3
"""The first one is not counted: kernels are chosen in it."""


@dataclass(frozen=True, kw_only=True)
class Effort:
    """Seconds per image; 0 if not measured."""

    look: float
    """A float forward pass, in batches."""
    recover: float = 0.0
    """A step of the recovery after pruning: teacher, forward, backward, update."""
    quantize: float = 0.0
    """A step of quantization-aware training."""

    def seconds(self, stage: str, recipe: Recipe, dataset: Dataset, *, epochs_done: int = 0) -> float:
        """Return the time that a stage spends on images, after its finished epochs.

        Layers that int8 turns out to hurt are not predicted.
        """
        training, selection, gate = len(dataset.training), len(dataset.selection), len(dataset.gate)
        if stage == "prune":
            if not recipe.prune.prunes:
                return 0.0
            # Several cuts are tried on a share of the images, before the recovery begins.
            tried = SHARE * recipe.prune.epochs if recipe.prune.by_clock and epochs_done == 0 else 0.0
            epochs = recipe.prune.epochs - epochs_done
            return (epochs + tried) * training * self.recover + epochs * selection * self.look
        if stage == "quantize":
            epochs = recipe.quantize.qat_epochs - epochs_done
            return CALIBRATION_IMAGES * self.look + epochs * (training * self.quantize + selection * self.look)
        if stage == "compile":
            return 3.0 * selection * self.look
        return gate * self.look if stage in ("validate", "package") else 0.0


def effort_of(
    checkpoint: Checkpoint, dataset: Dataset, preprocessing: Preprocessing, recipe: Recipe, *, stages: Sequence[str]
) -> Effort:
    """Time the work of `stages` on images, with the unpruned network; a pruned one takes less.

    Runs in this process with PyTorch's number of threads. Raises `CompressionError` and `RecipeError` as stages would.
    """
    recovers = "prune" in stages and recipe.prune.prunes and recipe.prune.epochs > 0
    trains = "quantize" in stages and recipe.quantize.qat_epochs > 0
    keep_float = recipe.quantize.keep_float
    look = seconds_to_look(checkpoint)
    count = min(BATCH_SIZE, max(8, round(PROBE_SECONDS / (PASSES * STEPS * look))), len(dataset.training))
    training = dataset.training.subset(spread(len(dataset.training), count))
    few = replace(dataset, training=training, selection=dataset.selection.subset([0]))
    return Effort(
        look=look,
        recover=_seconds_to_recover(checkpoint, few, preprocessing) if recovers else 0.0,
        quantize=_seconds_to_quantize(checkpoint, few, preprocessing, keep_float) if trains else 0.0,
    )


def seconds_to_look(checkpoint: Checkpoint) -> float:
    """Return the seconds of one float forward pass per image, in batches."""
    network = build_network(checkpoint)
    images = torch.zeros(PROBE_IMAGES, *checkpoint.architecture.input_shape)
    taken = []
    with torch.inference_mode():
        for _ in range(PROBE_RUNS):
            started = time.perf_counter()
            network(images)
            taken.append(time.perf_counter() - started)
    return min(taken) / PROBE_IMAGES


def _seconds_to_recover(checkpoint: Checkpoint, few: Dataset, preprocessing: Preprocessing) -> float:
    teacher, watch = build_network(checkpoint), _Watch()
    recover(
        copy.deepcopy(teacher),
        teacher,
        Data(dataset=few, preprocessing=preprocessing),
        epochs=STEPS,
        seed=0,
        at=Workplace(folder=Path(), progress=watch),
    )
    return watch.fastest / len(few.training)


def _seconds_to_quantize(
    checkpoint: Checkpoint, few: Dataset, preprocessing: Preprocessing, keep_float: Sequence[str]
) -> float:
    teacher, watch = build_network(checkpoint), _Watch()
    quantized = prepare(copy.deepcopy(teacher), weight_bits=8, keep_float=keep_float)
    calibrate(quantized, Data(dataset=few, preprocessing=preprocessing), progress=Silent())
    fit_on_grid(
        quantized,
        teacher,
        Data(dataset=few, preprocessing=preprocessing),
        epochs=STEPS,
        seed=0,
        at=Workplace(folder=Path(), progress=watch),
    )
    return watch.fastest / len(few.training)


class _Watch(Silent):
    """Progress that records when a task's steps end; an epoch is one step here."""

    def __init__(self) -> None:
        self._ends: list[float] = []

    @contextmanager
    def task(self, name: str, total: int) -> Iterator[Advance]:
        del name, total

        def advance(steps: int = 1, *, note: str = "") -> None:
            del steps, note
            self._ends.append(time.perf_counter())

        yield advance

    @property
    def fastest(self) -> float:
        """Return the smallest time between the ends of two steps."""
        return min(later - earlier for earlier, later in itertools.pairwise(self._ends))
