"""The images of a build: training, a selection split of them for every choice, and the gate, only for the verdict."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.data.cifar10 import open_cifar10
from pipeline.data.digits import open_digits
from pipeline.data.files import Index
from pipeline.data.folder import open_folder
from pipeline.data.images import ImageSet, Source, check_images, first_few
from pipeline.data.preprocessing import preprocessing_from, usual_preprocessing
from pipeline.data.sampling import split_stratified, without_splitting
from pipeline.data.wider_face.dataset import open_wider_face
from pipeline.errors import DataError
from pipeline.progress import Progress

__all__ = ["Dataset", "ImageSet", "check_images", "open_dataset", "preprocessing_from", "usual_preprocessing"]

SELECTION_SHARE = 0.1
MAX_SELECTION = 2000
"""Images of the selection split: enough to detect half a point of top-1, and every choice evaluates all of them."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    name: str
    classes: tuple[str, ...]
    """In the order of the network's outputs."""
    training: ImageSet
    selection: ImageSet
    """10 % of the training images (whole photos), at most about 2,000: for search and every choice."""
    gate: ImageSet
    fingerprint: str
    """Hash of contents, labels, class names and split; independent of paths."""
    notes: tuple[str, ...]
    """Notes for the user about this data, one sentence each."""


def open_dataset(
    spec: str,
    *,
    classes: tuple[str, ...] = (),
    seed: int = 0,
    index: Path | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Open `digits`, `cifar10:PATH`, `wider-face:PATH`, or a folder or zip; nothing is decoded.

    `classes` is the order in which the network was trained, if it differs from the dataset's. `index` is a file
    with content hashes of unchanged files. Raises `DataError`.
    """
    source = _open(spec, Index(index, progress))
    if classes:
        source = _in_training_order(source, classes)
    source = _without_conflicts(source)
    labels = source.training.labels
    count, origins = min(round(len(labels) * SELECTION_SHARE), MAX_SELECTION), source.training.origins
    if origins is None:
        rest, chosen = split_stratified(labels, count=count, seed=seed)
    else:
        rest, chosen = without_splitting(origins, source.training.groups, count=count, seed=seed)
    training, selection = source.training.subset(rest), source.training.subset(chosen)
    parts = [source.classes, training.fingerprint, selection.fingerprint, source.gate.fingerprint]
    return Dataset(
        name=source.name,
        classes=source.classes,
        training=training,
        selection=selection,
        gate=source.gate,
        fingerprint=hashlib.sha256(json.dumps(parts).encode()).hexdigest(),
        notes=source.notes + _notes_on_duplicates(source),
    )


def _open(spec: str, index: Index) -> Source:
    if spec == "digits":
        return open_digits()
    if spec.startswith("cifar10:"):
        return open_cifar10(Path(spec.removeprefix("cifar10:")), index=index)
    if spec.startswith("wider-face:"):
        return open_wider_face(Path(spec.removeprefix("wider-face:")), index=index)
    return open_folder(Path(spec), index=index)


def _in_training_order(source: Source, classes: tuple[str, ...]) -> Source:
    if sorted(classes) != sorted(source.classes):
        unknown = sorted(set(classes) - set(source.classes))
        missing = sorted(set(source.classes) - set(classes))
        twice = sorted({name for name in classes if classes.count(name) > 1})
        problems = [
            f"{what}: {', '.join(names)}"
            for what, names in (("not in the data", unknown), ("missing", missing), ("named twice", twice))
            if names
        ]
        raise DataError(
            f"`classes` must name each of the {len(source.classes)} classes of {source.name} once, in training order; "
            f"{'; '.join(problems)}."
        )
    new_label = [classes.index(name) for name in source.classes]
    return Source(
        name=source.name,
        classes=classes,
        training=source.training.relabelled(new_label),
        gate=source.gate.relabelled(new_label),
        notes=source.notes,
    )


def _without_conflicts(source: Source) -> Source:
    """Leave out images that are in several classes, byte for byte, from gate and training, and name them."""
    notes, left = source.notes, dict[str, ImageSet]()
    for where, images in (("gate", source.gate), ("training", source.training)):
        labels_of: dict[str, set[int]] = {}
        for digest, label in zip(images.digests, images.labels.tolist(), strict=True):
            labels_of.setdefault(digest, set()).add(label)
        conflicting = [len(labels_of[digest]) > 1 for digest in images.digests]
        left[where] = images if not any(conflicting) else images.subset(np.flatnonzero(~np.array(conflicting)))
        if any(conflicting):
            named = [name for name, is_one in zip(images.names, conflicting, strict=True) if is_one]
            text = (
                f"{len(named)} files of the {where} images are in several classes, byte for byte, so no answer for "
                f"them could be correct: they are left out. Remove the wrong ones:{first_few(named, limit=6)}"
            )
            notes += (text,)
    return replace(source, gate=left["gate"], training=left["training"], notes=notes)


def _notes_on_duplicates(source: Source) -> tuple[str, ...]:
    known = set(source.training.digests)
    leaked = [name for name, digest in zip(source.gate.names, source.gate.digests, strict=True) if digest in known]
    if not leaked:
        return ()
    text = (
        f"{len(leaked)} of the gate's {len(source.gate)} images are also among the training images, byte for byte: "
        f"they inflate the accuracy of both models. Remove them from one side:{first_few(leaked, limit=4)}"
    )
    return (text,)
