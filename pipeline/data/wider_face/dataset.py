"""WIDER FACE as a classification dataset: faces and backgrounds, cut from its photos (see `data.wider_face.crops`).

As downloaded, `WIDER_train.zip`, `WIDER_val.zip` and `wider_face_split.zip` in one folder, or unpacked there. Training
and selection are cut from WIDER_train, the gate from WIDER_val. A photo is read when one of its crops is accessed.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.files import Index, Stamp, Tree, open_tree
from pipeline.data.images import ImageSet, Kind, Source, first_few
from pipeline.data.wider_face.annotations import Photo, parse_annotations
from pipeline.data.wider_face.crops import (
    CLASSES,
    FACE,
    MAX_FACES,
    RULES,
    SIZES,
    SMALLEST,
    Chosen,
    Crop,
    choose_crops,
    find_place,
)
from pipeline.data.wider_face.photos import Photos, png, stored_size
from pipeline.errors import DataError
from targets.device.model.image_files import ImageError

TRAINING, GATE, ANNOTATIONS = "WIDER_train", "WIDER_val", "wider_face_split"
IMAGES = "images/"
OTHER_PHOTOS = 40
"""Photos tried for a background that does not fit beside its face."""


@dataclass(kw_only=True)
class _Cut:
    """A photo and its crops."""

    photo: Photo
    sha256: str
    width: int
    height: int
    unplaced: tuple[Crop, ...]
    crops: list[Crop] = field(default_factory=list)


def open_wider_face(path: Path, *, index: Index) -> Source:
    """Open the three parts in `path`; raise `DataError` with file and line, or with the names of the wrong photos."""
    if not path.is_dir():
        raise DataError(
            f"the WIDER FACE folder {path} does not exist. Give the folder with {TRAINING}, {GATE} and "
            f"{ANNOTATIONS}, each as a folder or as the downloaded zip."
        )
    annotations = open_tree(_part(path, ANNOTATIONS))
    all_training, training_tree = _cuts(path, TRAINING, "train", annotations, index)
    all_gate, gate_tree = _cuts(path, GATE, "val", annotations, index)
    training, doubtful = _each_once(all_training)
    gate, also_doubtful = _each_once(all_gate)
    of_gate = {cut.sha256 for cut in gate}
    kept = [cut for cut in training if cut.sha256 not in of_gate]
    missing = _place_elsewhere(kept) + _place_elsewhere(gate)
    sets = _image_set(TRAINING, kept, training_tree), _image_set(GATE, gate, gate_tree)
    for images, name in zip(sets, (TRAINING, GATE), strict=True):
        if len(np.unique(images.labels)) < len(CLASSES):
            raise DataError(f"{path}: {name} has no face of {SMALLEST} pixels or more, or no background beside one.")
    notes = [_note_on_faces(kept + gate, sets)]
    for count, text in (
        (missing, "faces have no background of their size, as no photo has room for it beside its faces."),
        (doubtful + also_doubtful, "photos are left out: each has a copy in the same split with other boxes."),
        (len(training) - len(kept), f"photos of {TRAINING} are also in {GATE}, and used only there."),
    ):
        notes += [f"{count} {text}"] if count else []
    return Source(name="wider-face", classes=CLASSES, training=sets[0], gate=sets[1], notes=tuple(notes))


def _part(path: Path, name: str) -> Path:
    for candidate in (path / name, path / f"{name}.zip"):
        if candidate.exists():
            return candidate
    held = ", ".join(sorted(entry.name for entry in path.iterdir())[:10]) or "nothing"
    raise DataError(f"{path} has neither {name}/ nor {name}.zip; it contains {held}. Download the missing part.")


def _cuts(path: Path, part: str, split: str, annotations: Tree, index: Index) -> tuple[list[_Cut], Tree]:
    """Return every photo of a split with its own crops."""
    name = f"wider_face_{split}_bbx_gt.txt"
    if name not in annotations.files:
        raise DataError(f"{annotations.root} has no {name}. Unpack wider_face_split.zip again.")
    file = f"{annotations.root}/{name}"
    try:
        text = annotations.read(name).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: {error}. Unpack wider_face_split.zip again.") from None
    photos = parse_annotations(text, file=file)
    tree = open_tree(_part(path, part))
    _check_complete(photos, tree, file)
    facts = _facts(photos, tree, index)
    cuts = [_cut(photo, facts[IMAGES + photo.path]) for photo in photos]
    return cuts, tree


def _each_once(cuts: list[_Cut]) -> tuple[list[_Cut], int]:
    """Return each distinct photo once, without photos whose copies have different boxes.

    Also return the number of photos left out for that.
    """
    copies: dict[str, list[_Cut]] = {}
    for cut in cuts:
        copies.setdefault(cut.sha256, []).append(cut)
    alike = {
        sha256
        for sha256, same in copies.items()
        if all(np.array_equal(cut.photo.boxes, same[0].photo.boxes) for cut in same)
    }
    doubtful = sum(len(same) for sha256, same in copies.items() if sha256 not in alike)
    return [same[0] for sha256, same in copies.items() if sha256 in alike], doubtful


def _check_complete(photos: list[Photo], tree: Tree, file: str) -> None:
    missing = [f"line {photo.line}: {photo.path}" for photo in photos if IMAGES + photo.path not in tree.files]
    if missing:
        raise DataError(
            f"{file} lists {len(missing)} photos that {tree.root}/{IMAGES} does not have:{first_few(missing)}\n"
            "Unpack the photos again."
        )
    known = {IMAGES + photo.path for photo in photos}
    surplus = [name for name in tree.files if name.startswith(IMAGES) and name not in known]
    if surplus:
        raise DataError(
            f"{tree.root} has {len(surplus)} files that are not in {file}, so the faces in them are "
            f"unknown:{first_few(surplus)}\nRemove them, or annotate them."
        )


def _facts(photos: list[Photo], tree: Tree, index: Index) -> dict[str, str]:
    """Return JSON by name: content hash, size, crops; new if the photo, its boxes or the rules changed."""
    by_name = {IMAGES + photo.path: photo for photo in photos}
    stamps = {name: (*tree.files[name], *_stamp_of_boxes(photo)) for name, photo in by_name.items()}
    unreadable: list[str] = []

    def find_out(name: str) -> str:
        try:
            data = tree.read(name)
            width, height = stored_size(data)
        except DataError as error:
            unreadable.append(str(error))
            return ""
        except ImageError as error:
            unreadable.append(f"{name}: {error}")
            return ""
        sha256 = hashlib.sha256(data).hexdigest()
        # The same photo gives the same crops wherever it is, independent of the others.
        generator = np.random.default_rng(int(sha256[:16], 16))
        chosen = choose_crops(by_name[name], width=width, height=height, generator=generator)
        crops, unplaced = [astuple(crop) for crop in chosen.crops], [astuple(crop) for crop in chosen.unplaced]
        return json.dumps([sha256, width, height, crops, unplaced], separators=(",", ":"))

    facts = index.facts(tree.root, stamps, find_out)
    if unreadable:
        raise DataError(
            f"{tree.root}: {len(unreadable)} photos cannot be used:{first_few(sorted(unreadable))}\nUnpack them again."
        )
    return facts


def _stamp_of_boxes(photo: Photo) -> Stamp:
    # Small compared with a time in nanoseconds, as `Index` requires for all other values.
    digest = hashlib.sha256(photo.boxes.tobytes() + photo.invalid.tobytes()).digest()
    return (RULES, int.from_bytes(digest[:6], "big"))


def _cut(photo: Photo, fact: str) -> _Cut:
    sha256, width, height, crops, unplaced = json.loads(fact)
    chosen = Chosen(tuple(Crop(*crop) for crop in crops), tuple(Crop(*crop) for crop in unplaced))
    return _Cut(
        photo=photo,
        sha256=sha256,
        width=width,
        height=height,
        crops=list(chosen.crops),
        unplaced=chosen.unplaced,
    )


def _place_elsewhere(cuts: list[_Cut]) -> int:
    """Cut backgrounds that do not fit beside their face from other photos; return the number that fit nowhere."""
    generator = np.random.default_rng(0)
    missing = 0
    for cut in cuts:
        for wanted in cut.unplaced:
            for other in generator.integers(0, len(cuts), size=OTHER_PHOTOS).tolist():
                into = cuts[other]
                place = find_place(
                    wanted.side, into.photo.boxes, width=into.width, height=into.height, generator=generator
                )
                if place is not None:
                    into.crops.append(Crop(wanted.label, *place, wanted.side, wanted.size))
                    break
            else:
                missing += 1
    return missing


def _image_set(part: str, cuts: list[_Cut], tree: Tree) -> ImageSet:
    """Return the crops photo by photo, so that reading in order decodes each photo once."""
    crops = [crop for cut in cuts for crop in cut.crops]
    origins = np.repeat(np.arange(len(cuts), dtype=np.int64), [len(cut.crops) for cut in cuts])
    paths = [cut.photo.path for cut in cuts]
    of_photo = origins.tolist()
    where = [f"[{crop.left},{crop.top},{crop.side}]" for crop in crops]
    names = [f"{part}/{IMAGES}{paths[origin]}{place}" for origin, place in zip(of_photo, where, strict=True)]
    photos = Photos(tree.read)

    draw = partial(_draw, photos, crops, [IMAGES + paths[origin] for origin in of_photo])
    return ImageSet(
        read=partial(_read, draw, names),
        draw=draw,
        digests=[cuts[origin].sha256 + place for origin, place in zip(of_photo, where, strict=True)],
        names=names,
        labels=np.array([crop.label for crop in crops], dtype=np.int64),
        groups=[f"face {SIZES[crop.size][1]}" if crop.label == FACE else CLASSES[crop.label] for crop in crops],
        origins=origins,
        kind=Kind(is_personal=True),
    )


def _draw(photos: Photos, crops: Sequence[Crop], names: Sequence[str], index: int) -> Image.Image:
    crop = crops[index]
    return photos.square(names[index], crop.left, crop.top, crop.side)


def _read(draw: Callable[[int], Image.Image], names: Sequence[str], index: int) -> bytes:
    try:
        return png(draw(index))
    except ImageError as error:
        raise DataError(f"{names[index]}: {error}. Unpack it again.") from None


def _note_on_faces(cuts: list[_Cut], sets: tuple[ImageSet, ...]) -> str:
    boxes = sum(len(cut.photo.boxes) for cut in cuts)
    invalid = sum(int(cut.photo.invalid.sum()) for cut in cuts)
    small = sum(int((cut.photo.boxes[:, 3] < SMALLEST).sum()) for cut in cuts)
    faces = sum(int((images.labels == FACE).sum()) for images in sets)
    everything = sum(len(images) for images in sets)
    return (
        f"{faces:,} faces and {everything - faces:,} backgrounds of {len(cuts):,} photos. Of {boxes:,} boxes "
        f"{small:,} are smaller than {SMALLEST} pixels and {invalid:,} are marked invalid; at most {MAX_FACES} of "
        "a photo are taken."
    )
