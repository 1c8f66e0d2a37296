"""Image folders in the usual layout: `train/<class>/*.jpg` and `val/<class>/*.jpg`, unpacked or zipped."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from pipeline.data.files import Index, Tree, open_tree
from pipeline.data.images import ImageSet, Source, first_few
from pipeline.errors import DataError

EXTENSIONS = frozenset({"jpg", "jpeg", "png", "bmp", "gif", "webp", "tif", "tiff", "ppm", "pgm"})
TRAINING = "train"
GATES = ("val", "valid", "validation", "test")
"""Folders that may contain the gate's images; the first one found is used."""

Split = Mapping[str, Sequence[str]]
"""Image names by class."""


def open_folder(path: Path, *, index: Index) -> Source:
    """Open a folder or zip; raise `DataError` with the names of the files or folders that cannot be used."""
    tree = open_tree(path)
    gate_name, notes = _choose_gate(path, tree)
    training, ignored = _split(tree, TRAINING)
    gate, also_ignored = _split(tree, gate_name)
    _check_classes(path, tree, training, gate, gate_name)
    notes += _notes_on_ignored(ignored + also_ignored)
    classes = tuple(sorted(training))
    notes += _notes_on_order(classes)
    names = [name for split in (training, gate) for images in split.values() for name in images]
    _check_sizes(path, tree, names)
    digests = _digests(path, tree, names, index)
    return Source(
        name=Path(tree.root).name.removesuffix(".zip"),
        classes=classes,
        training=_image_set(tree, training, classes, digests),
        gate=_image_set(tree, gate, classes, digests),
        notes=notes,
    )


def _choose_gate(path: Path, tree: Tree) -> tuple[str, tuple[str, ...]]:
    top = sorted(name for name in tree.folders if "/" not in name)
    gates = [name for name in GATES if name in top]
    if TRAINING not in top or not gates:
        missing = "train" if TRAINING not in top else "val (or test)"
        held = ", ".join(f"{name}/" for name in top[:10]) or "no folder"
        raise DataError(
            f"the dataset {path} has no folder {missing}; it contains {held}. "
            "Expected: train/<class>/*.jpg and val/<class>/*.jpg."
        )
    notes: tuple[str, ...] = ()
    if gates[0] != GATES[0]:
        notes += (f"there is no folder val: the gate's images are taken from {gates[0]}.",)
    if len(gates) > 1:
        notes += (f"the gate's images are taken from {gates[0]}; {', '.join(gates[1:])} is not used.",)
    return gates[0], notes


def _split(tree: Tree, folder: str) -> tuple[dict[str, list[str]], list[str]]:
    """Return images of one split by class (including empty classes), and files that belong to no class."""
    below = [name for name in tree.folders if name.startswith(f"{folder}/")]
    split: dict[str, list[str]] = {name.split("/")[1]: [] for name in sorted(below)}
    ignored: list[str] = []
    for name in tree.files:
        parts = name.split("/")
        if parts[0] != folder:
            continue
        if len(parts) < 3 or not _is_image(name):
            ignored.append(name)
        else:
            split[parts[1]].append(name)
    return split, ignored


def _is_image(name: str) -> bool:
    return name.rpartition(".")[2].lower() in EXTENSIONS


def _check_classes(path: Path, tree: Tree, training: Split, gate: Split, gate_name: str) -> None:
    if not training:
        loose = sum(name.startswith(f"{TRAINING}/") for name in tree.files)
        raise DataError(
            f"{path}: {TRAINING} has no class folders ({loose} files are directly in it). "
            f"Expected {TRAINING}/<class>/*.jpg."
        )
    differing = [f"{name}: only in {TRAINING}" for name in sorted(set(training) - set(gate))]
    differing += [f"{name}: only in {gate_name}" for name in sorted(set(gate) - set(training))]
    if differing:
        raise DataError(
            f"{path}: the class folders of {TRAINING} and {gate_name} differ:{first_few(differing)}\n"
            "Both need the same class folders."
        )
    empty = [
        f"{folder}/{name}"
        for folder, split in ((TRAINING, training), (gate_name, gate))
        for name, images in split.items()
        if not images
    ]
    if empty:
        raise DataError(f"{path}: class folders without an image:{first_few(empty)}\nFill or remove them.")
    if len(training) == 1:
        raise DataError(f"{path} has only one class ({next(iter(training))}); a classifier needs at least two.")


def _notes_on_ignored(ignored: Sequence[str]) -> tuple[str, ...]:
    if not ignored:
        return ()
    return (f"{len(ignored)} files are not images in a class folder and are ignored:{first_few(ignored, limit=4)}",)


def _notes_on_order(classes: Sequence[str]) -> tuple[str, ...]:
    """Return a note if class folders are numbers, which often mixes up the order of a network's outputs."""
    if not all(name.isdecimal() for name in classes) or sorted(classes, key=int) == list(classes):
        return ()
    text = (
        f"the class folders are numbers and are sorted alphabetically ({', '.join(classes[:4])}, ...), as in "
        "torchvision. If the network was trained in numeric order, give the order with `classes`."
    )
    return (text,)


def _check_sizes(path: Path, tree: Tree, names: Iterable[str]) -> None:
    empty = [name for name in names if tree.files[name][0] == 0]
    if empty:
        raise DataError(
            f"{path}: {len(empty)} image files are empty (0 bytes):{first_few(empty)}\nReplace or remove them."
        )


def _digests(path: Path, tree: Tree, names: Sequence[str], index: Index) -> dict[str, str]:
    unreadable: list[str] = []

    def digest(name: str) -> str:
        try:
            return hashlib.sha256(tree.read(name)).hexdigest()
        except DataError as error:
            unreadable.append(str(error))
            return ""

    facts = index.facts(tree.root, {name: tree.files[name] for name in names}, digest)
    if unreadable:
        raise DataError(
            f"{path}: {len(unreadable)} image files cannot be read:{first_few(sorted(unreadable))}\n"
            "Replace or remove them."
        )
    return facts


def _read(tree: Tree, names: Sequence[str], index: int) -> bytes:
    return tree.read(names[index])


def _image_set(tree: Tree, split: Split, classes: Sequence[str], digests: Mapping[str, str]) -> ImageSet:
    names = [name for class_name in classes for name in split[class_name]]
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(split[name]) for name in classes])
    return ImageSet(
        read=partial(_read, tree, names),
        digests=[digests[name] for name in names],
        names=names,
        labels=labels,
    )
