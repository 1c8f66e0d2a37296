"""Load: read the trained network and its data, and check them against each other before hours of work."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import nn

from pipeline.artifacts import Checkpoint
from pipeline.data.batches import Batches
from pipeline.data.preprocessing import Given
from pipeline.data.readers import Dataset, check_images, preprocessing_from
from pipeline.data.sample_size import check_above_chance
from pipeline.data.sampling import count_right
from pipeline.errors import CheckpointError, DataError
from pipeline.load.baseline import BASELINE, GATE_LOGITS, Baseline
from pipeline.load.class_order import check_class_order
from pipeline.models.assumptions import assumptions
from pipeline.models.checkpoint import build_network, recognize_and_save
from pipeline.models.checkpoint_file import Kind, Saved, read_saved
from pipeline.models.recognition import some
from pipeline.progress import Progress
from pipeline.training.evaluation import logits_of
from pipeline.untrusted import parse_json
from targets.device.model.preprocess import Preprocessing

PREPROCESSING = "preprocessing.json"
ORDER_IMAGES = 20
"""Images per class for detecting swapped classes; with fewer it could be chance."""


def load(
    source: Path,
    *,
    factory: str | None,
    dataset: Dataset,
    preprocessing: Given,
    weights: Literal["auto", "raw", "ema"] = "auto",
    progress: Progress,
    folder: Path,
) -> None:
    """Write the checkpoint of `source`, its preprocessing and the float network's answers to `folder`.

    Every image is decoded once. If a file has weights and their moving average, `weights` selects one; "auto" takes
    the one with more correct answers on the selection split. Raises `CheckpointError`, or `DataError` for images that
    cannot be used, classes in another order than in training, and a float accuracy near chance.
    """
    _check_order(source, dataset)
    folder.mkdir(parents=True, exist_ok=True)
    saved = read_saved(source)
    if saved.passed_over:
        progress.line(f"ignored in {source.name}: {some(saved.passed_over, 12)}")
    input_size = None if preprocessing.crop is None else (preprocessing.crop, preprocessing.crop)
    with tempfile.TemporaryDirectory(prefix="weights-", dir=folder) as scratch:
        found = {kind: Path(scratch) / kind for kind in _choose_kinds(saved, weights, source)}
        for kind, place in found.items():
            recognize_and_save(
                saved.weights[kind], source=source, factory=factory, classes=dataset.classes, input_size=input_size,
                folder=place,
            )  # fmt: skip
        settled = _settle(preprocessing, Checkpoint(folder=next(iter(found.values()))), source, factory, progress)
        (folder / PREPROCESSING).write_text(json.dumps(settled.to_dict(), indent=2, sort_keys=True))
        for images in (dataset.training, dataset.selection, dataset.gate):
            check_images(images, progress=progress)
        answers = {kind: _selection_answers(place, kind, dataset, settled, progress) for kind, place in found.items()}
        chosen = _better(answers, dataset, saved, progress)
        for file in found[chosen].iterdir():
            file.rename(folder / file.name)
    logits, network = answers[chosen], build_network(Checkpoint(folder=folder))
    _check_class_order(network, logits, dataset, settled, progress)
    of_gate = _gate_answers(network, Batches(dataset.gate, settled), progress)
    np.save(folder / GATE_LOGITS, of_gate)
    baseline = Baseline(
        gate_right=count_right(of_gate, dataset.gate.labels),
        gate_images=len(dataset.gate),
        selection_right=count_right(logits, dataset.selection.labels),
        selection_images=len(dataset.selection),
        stated=None if saved.stated is None else saved.stated[1],
        stated_as="" if saved.stated is None else saved.stated[0],
    )
    check_above_chance(baseline.gate_right, classes=len(dataset.classes), images=baseline.gate_images)
    (folder / BASELINE).write_text(json.dumps(asdict(baseline)))


def _check_class_order(
    network: nn.Module,
    logits: NDArray[np.float32],
    dataset: Dataset,
    preprocessing: Preprocessing,
    progress: Progress,
) -> None:
    """Check by `logits` of the selection split and, for classes with few images there, by more training images."""
    labels = dataset.selection.labels
    missing = [
        np.flatnonzero(dataset.training.labels == label)[: max(0, ORDER_IMAGES - count)]
        for label, count in enumerate(np.bincount(labels, minlength=len(dataset.classes)))
    ]
    more = dataset.training.subset(np.sort(np.concatenate(missing)))
    if len(more):
        found = logits_of(network, Batches(more, preprocessing), progress=progress, name="order of the classes")
        logits, labels = np.concatenate([logits, found]), np.concatenate([labels, more.labels])
    check_class_order(logits, labels, dataset.classes)


def _choose_kinds(saved: Saved, weights: Literal["auto", "raw", "ema"], source: Path) -> tuple[Kind, ...]:
    """Return the weights to try; raise `CheckpointError` if the file does not have the requested ones."""
    if weights == "auto":
        return tuple(saved.weights)
    if weights not in saved.weights:
        there = ", ".join(f"{kind} ({place or 'the file itself'})" for kind, place in saved.places.items())
        raise CheckpointError(
            f"{source} has no {weights} weights; it has {there}. Leave out --weights, or give one of these."
        )
    return (weights,)


def _settle(
    given: Given, checkpoint: Checkpoint, source: Path, factory: str | None, progress: Progress
) -> Preprocessing:
    """Return the preprocessing of training as far as it is known; print what is assumed about it and the network."""
    architecture = checkpoint.architecture
    settled, assumed = preprocessing_from(
        given,
        family=architecture.family,
        input_size=architecture.input_shape[1:],
        stored=stored_preprocessing(source),
    )
    if assumed:
        progress.line(f"assumed, as usual for {architecture.name}: {'; '.join(assumed)}")
    if factory is None and not _stored_facts(source):
        progress.line(
            f"assumed about the network, as weights do not show it: {assumptions(architecture)}. Another function "
            "with these weights would be less accurate: give its expected accuracy with --expect-accuracy"
        )
    return settled


def _selection_answers(
    place: Path, kind: Kind, dataset: Dataset, preprocessing: Preprocessing, progress: Progress
) -> NDArray[np.float32]:
    """Return logits [N, C] for images the network was trained on."""
    network, images = build_network(Checkpoint(folder=place)), Batches(dataset.selection, preprocessing)
    which = " of the moving average" if kind == "ema" else ""
    return logits_of(network, images, progress=progress, name=f"accuracy{which} on training images")


def _better(answers: Mapping[Kind, NDArray[np.float32]], dataset: Dataset, saved: Saved, progress: Progress) -> Kind:
    """Return the weights with more correct answers on the selection split, and print the choice."""
    right = {kind: count_right(logits, dataset.selection.labels) for kind, logits in answers.items()}
    chosen = max(sorted(right), key=lambda kind: right[kind])
    if len(saved.weights) > 1 or "ema" in saved.weights:
        there = " and ".join(f"{kind} ({saved.places[kind] or 'the file itself'})" for kind in sorted(saved.weights))
        measured = ", ".join(f"{kind} {count / len(dataset.selection):.2%}" for kind, count in sorted(right.items()))
        progress.line(
            f"weights in the file: {there}; on {len(dataset.selection)} images of the selection split: {measured}. "
            f"Chosen: {chosen} (--weights raw, ema or auto)"
        )
    return chosen


def _gate_answers(network: nn.Module, gate: Batches, progress: Progress) -> NDArray[np.float32]:
    """Return the float network's logits [N, C], the reference for every artifact."""
    logits = logits_of(network, gate, progress=progress, name="float answers")
    if not np.isfinite(logits).all():
        raise CheckpointError(
            f"the float network's logits for {int((~np.isfinite(logits)).any(axis=1).sum())} of {len(gate.images)} "
            "images are not finite numbers. Check that weights and preprocessing belong together."
        )
    return logits


def stored_preprocessing(source: Path) -> Preprocessing | None:
    """Return the preprocessing that `deploy train` wrote beside the weights, if any."""
    facts = _stored_facts(source)
    return Preprocessing.from_dict(facts["preprocessing"]) if facts else None


def _check_order(source: Path, dataset: Dataset) -> None:
    """Raise `DataError` if the data lacks the class names, in order, that `deploy train` wrote beside the weights."""
    facts = _stored_facts(source)
    if facts and tuple(facts["classes"]) != dataset.classes:
        raise DataError(
            f"{source} was trained on the classes {', '.join(facts['classes'])}, in this order; {dataset.name} has "
            f"{', '.join(dataset.classes)}. Give the data it was trained for, or the order as `classes` in the recipe."
        )


def _stored_facts(source: Path) -> dict[str, Any] | None:
    """Return what `deploy train` wrote into the file's metadata; raise `CheckpointError` for other content."""
    if source.suffix != ".safetensors":
        return None
    try:
        with safe_open(source, framework="numpy") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError):
        return None  # the reader of the weights reports the error
    if "edge-deploy" not in metadata:
        return None
    try:
        raw = parse_json(metadata["edge-deploy"])
        classes = tuple(str(name) for name in raw["classes"])
        return {"classes": classes, "preprocessing": Preprocessing.from_dict(raw["preprocessing"]).to_dict()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{source} has metadata `edge-deploy` that `deploy train` did not write ({error!r}). Save the weights "
            "without it."
        ) from None
