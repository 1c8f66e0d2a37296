"""Load: the trained network and the data it was trained on, checked against each other before hours of work."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from pipeline.answers import logits_of
from pipeline.artifacts import Checkpoint
from pipeline.checkpoint import build_network, load_checkpoint
from pipeline.data.batches import Batches
from pipeline.data.dataset import Dataset, check_images, preprocessing_from
from pipeline.errors import DataError
from pipeline.progress import Progress
from pipeline.recipe import PreprocessingRecipe
from pipeline.statistics import check_above_chance
from targets.device.preprocess import Preprocessing

BASELINE = "baseline.json"
PREPROCESSING = "preprocessing.json"


def load(
    source: Path,
    *,
    factory: str | None,
    dataset: Dataset,
    preprocessing: PreprocessingRecipe,
    progress: Progress,
    folder: Path,
) -> None:
    """Write the checkpoint of `source`, its preprocessing and its float accuracy on the selection split to `folder`.

    Every image is decoded once. Raises `CheckpointError`, or `DataError` for images that cannot be used and for a
    float accuracy near chance.
    """
    given_size = None if preprocessing.crop is None else (preprocessing.crop, preprocessing.crop)
    load_checkpoint(source, factory=factory, classes=dataset.classes, input_size=given_size, folder=folder)
    checkpoint = Checkpoint(folder=folder)
    architecture = checkpoint.architecture
    settled, assumed = preprocessing_from(
        preprocessing,
        family=architecture.family,
        input_size=architecture.input_shape[1:],
        stored=stored_preprocessing(source),
    )
    _check_order(source, dataset)
    if assumed:
        progress.line(f"assumed, as usual for {architecture.name}: {'; '.join(assumed)}")
    (folder / PREPROCESSING).write_text(json.dumps(settled.to_dict(), indent=2, sort_keys=True))
    for images in (dataset.training, dataset.selection, dataset.gate):
        check_images(images, progress=progress)
    selection = Batches(dataset.selection, settled)
    logits = logits_of(build_network(checkpoint), selection, progress=progress, name="float accuracy")
    predicted = np.argmax(logits, axis=1)
    top1 = float(np.mean(predicted == dataset.selection.labels))
    check_above_chance(top1, classes=len(dataset.classes), images=len(dataset.selection))
    (folder / BASELINE).write_text(json.dumps({"selection_top1": top1, "selection_images": len(dataset.selection)}))


def stored_preprocessing(source: Path) -> Preprocessing | None:
    """What `deploy train` wrote beside the weights, if it did."""
    facts = _stored_facts(source)
    return Preprocessing.from_dict(facts["preprocessing"]) if facts else None


def _check_order(source: Path, dataset: Dataset) -> None:
    """Where `deploy train` wrote the class names beside the weights, the data must have the same, in that order."""
    facts = _stored_facts(source)
    if facts and tuple(facts["classes"]) != dataset.classes:
        raise DataError(
            f"{source} was trained on the classes {', '.join(facts['classes'])}, in this order; {dataset.name} gives "
            f"{', '.join(dataset.classes)}. Give the data it was trained for, or the order as `classes` in the recipe."
        )


def _stored_facts(source: Path) -> dict[str, Any] | None:
    if source.suffix != ".safetensors":
        return None
    with safe_open(source, framework="numpy") as file:
        metadata = file.metadata() or {}
    facts: dict[str, Any] | None = json.loads(metadata["edge-deploy"]) if "edge-deploy" in metadata else None
    return facts
