"""`deploy train`: train or fine-tune a float ResNet and write a checkpoint that `deploy build` can load."""

import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from pipeline.artifacts import Architecture
from pipeline.data.batches import Batches
from pipeline.data.preprocessing import Given
from pipeline.data.readers import Dataset, check_images, preprocessing_from
from pipeline.errors import CheckpointError, DataError, RecipeError
from pipeline.models.checkpoint_file import read_state
from pipeline.models.digests import digest_of_checkpoint
from pipeline.models.recognition import recognize
from pipeline.models.resnet import ResNet, build_resnet
from pipeline.models.weights_file import save_weights
from pipeline.models.zoo import published_architecture
from pipeline.progress import Progress
from pipeline.training.evaluation import top1_of
from pipeline.training.loop import Training, seed_everything
from pipeline.training.loss import cross_entropy
from pipeline.training.mixed_precision import has_bfloat16
from pipeline.training.torchrun import is_first
from pipeline.workplace import Workplace
from pipeline.workspace.code_version import code_version
from pipeline.workspace.hashing import Json, sha256_of_json
from pipeline.workspace.training_state import Continuation
from targets.device.model.preprocess import Preprocessing

LEARNING_RATE = 0.1
FINE_TUNING_RATE = 0.01
"""For trained weights: a tenth of the rate for new ones."""
UNFINISHED = ".training"
"""Suffix of the file beside the output in which an unfinished training is saved after every epoch."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The written checkpoint. The gate's images were not used."""

    path: Path
    architecture: Architecture
    preprocessing: Preprocessing
    selection_top1: float
    selection_images: int


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    network: str
    """A published name; with a checkpoint its own network is used."""
    checkpoint: Path | None = None
    """Weights to fine-tune."""
    preprocessing: Given
    epochs: int
    learning_rate: float | None = None
    """None: `LEARNING_RATE`, or `FINE_TUNING_RATE` for a checkpoint."""
    batch_size: int
    seed: int = 0
    processes: int = 1

    @property
    def rate(self) -> float:
        """Return the learning rate; raise `RecipeError` if it is not above 0."""
        if self.learning_rate is None:
            return LEARNING_RATE if self.checkpoint is None else FINE_TUNING_RATE
        if not self.learning_rate > 0:
            raise RecipeError(
                f"the learning rate is {self.learning_rate:g}, but must be above 0. Give another one, or leave it out."
            )
        return self.learning_rate


def train(dataset: Dataset, settings: TrainSettings, *, progress: Progress, output: Path) -> Trained:
    """Train a network, or fine-tune a checkpoint, and write `output` (.safetensors).

    Classes and preprocessing are stored with the weights, as JSON in the file's metadata. Until `output` is written
    the training is saved beside it, and the same call resumes it. All processes that `torchrun` started call
    this, and the first one writes. Raises `RecipeError`, `DataError`, `CheckpointError`, `CompressionError`,
    `ProcessLost`.
    """
    _check_output(output)
    rate, size, seed = settings.rate, settings.batch_size, settings.seed
    seed_everything(seed)
    model, architecture = _start(dataset, settings.network, settings.checkpoint, progress)
    settled, assumed = preprocessing_from(
        settings.preprocessing, family=architecture.family, input_size=architecture.input_shape[1:]
    )
    progress.line(f"{architecture.name}, {len(dataset.training)} training images; assumed: {'; '.join(assumed)}")
    _check_data(dataset, progress)
    selection = Batches(dataset.selection, settled, batch_size=size, seed=seed)
    facts: list[Json] = [settings.network, dataset.fingerprint, size, seed, str(settled)]
    continuation = _continuation(output, settings.checkpoint, facts)
    training = Training(
        network=model,
        batches=Batches(dataset.training, settled, batch_size=size, seed=seed, shuffle=True, augment=True),
        epochs=settings.epochs,
        learning_rate=rate,
        loss=cross_entropy,
        mixed_precision=has_bfloat16(),
        name="train",
    )
    at = Workplace(folder=output.parent, progress=progress, continuation=continuation, processes=settings.processes)
    training.fit(at, selection=selection)
    if is_first():
        _save(model, output, classes=dataset.classes, preprocessing=settled)
        continuation.remove()
    return Trained(
        path=output,
        architecture=architecture,
        preprocessing=settled,
        selection_top1=top1_of(model, selection),
        selection_images=len(dataset.selection),
    )


def _continuation(output: Path, checkpoint: Path | None, facts: list[Json]) -> Continuation:
    """Return the file beside `output`, bound to everything the training depends on but does not see."""
    begun_from = None if checkpoint is None else digest_of_checkpoint(checkpoint)
    return Continuation(
        file=output.with_name(output.name + UNFINISHED),
        fingerprint=sha256_of_json([*facts, begun_from, code_version("pipeline.training.train")]),
    )


def _check_data(dataset: Dataset, progress: Progress) -> None:
    if len(dataset.training) < 2 or len(dataset.selection) == 0:
        raise DataError(f"{len(dataset.training)} training images are too few; at least two of each class are needed.")
    check_images(dataset.training, progress)
    check_images(dataset.selection, progress)


def _check_output(output: Path) -> None:
    """Check the output before the training, not after it."""
    if output.suffix != ".safetensors":
        raise RecipeError(f"the output {output} must be a .safetensors file: plain weights that any tool can load.")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.is_dir():
            raise RecipeError(f"{output} is a folder. Give a file with --output.")
        trial = _temporary(output)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise RecipeError(f"{output} cannot be written: {error.strerror}. Give another file with --output.") from None


def _temporary(output: Path) -> Path:
    return output.with_name(f".{output.name}.{os.getpid()}")


def _start(dataset: Dataset, network: str, checkpoint: Path | None, progress: Progress) -> tuple[ResNet, Architecture]:
    if checkpoint is None:
        architecture = published_architecture(network, classes=dataset.classes)
        return build_resnet(architecture), architecture
    try:
        found, state = recognize(read_state(checkpoint), classes=(), input_size=None)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint}: {error}") from error.__cause__
    architecture = replace(found, classes=dataset.classes)
    model = build_resnet(architecture)
    if len(found.classes) != len(dataset.classes):
        progress.line(f"new head: {len(dataset.classes)} classes instead of the {len(found.classes)} of {checkpoint}")
        state = {name: value for name, value in state.items() if not name.startswith("fc.")}
    model.load_state_dict(state, strict=False)  # everything but the head is there: `recognize` has checked
    return model, architecture


def _save(model: nn.Module, output: Path, *, classes: tuple[str, ...], preprocessing: Preprocessing) -> None:
    """Write the state dict so that a reader sees the complete file or none."""
    # A single entry: the order of several differs from run to run, and so would the file's hash.
    facts = {"classes": classes, "preprocessing": preprocessing.to_dict()}
    metadata = {"edge-deploy": json.dumps(facts, sort_keys=True)}
    temporary = _temporary(output)
    try:
        save_weights(model, temporary, metadata=metadata)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(output)
    except OSError as error:
        raise RecipeError(
            f"{output} cannot be written: {error.strerror}. The training is kept beside it: free some space and run "
            "the same command again."
        ) from None
    finally:
        temporary.unlink(missing_ok=True)
