"""Positions of face and background crops in a photo: squares, chosen by the rules below.

**Faces**: valid boxes at least `SMALLEST` pixels high, at least a third as wide, and with four fifths of their area in
the photo. The square's side is the box's longer side plus `MARGIN` of it on either side; the square is moved to lie
inside the photo, and is never larger than the photo. At most `MAX_FACES` are taken from a photo, in turn from every
size.

**Backgrounds**: one for each face, of exactly the same side, so that the size gives no hint; every second one from
the neighborhood of its face, the rest from anywhere in the photo. None may share more than `OVERLAP` of its own area,
or of the box's area if that is smaller, with any annotated box, including the smallest and the invalid ones. That
keeps its IoU with every box below OVERLAP / (2 - OVERLAP) = 0.11. Faces without annotation cannot be avoided.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.wider_face.annotations import Boxes, Photo

RULES = 1
"""Increased whenever the rules change: earlier crops are then determined again."""
SMALLEST = 8
"""In pixels; smaller faces are not recognizable in a crop even for people."""
NARROWEST_SHARE = 1 / 3
INSIDE_SHARE = 0.8
MARGIN = 0.25
MAX_FACES = 48
"""Per photo: a crowd of 1,900 must not outweigh a hundred portraits."""
OVERLAP = 0.2
NEIGHBORHOOD = 2.0
"""Largest distance of a background's center from its face's, in sides of the square, along either axis."""
TRIES = 48
"""Random positions tried for a background before the next search area."""

CLASSES = ("background", "face")
BACKGROUND, FACE = 0, 1
SIZES = ((8, "8-15 px"), (16, "16-31 px"), (32, "32-63 px"), (64, "64-127 px"), (128, "128 px and more"))
"""Smallest height of a face's box in pixels of its photo, and the name of the size class."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A square of a photo, in pixels."""

    label: int
    left: int
    top: int
    side: int
    size: int
    """Size class of the face, or of the face that a background belongs to: an index of `SIZES`."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The crops of one photo."""

    crops: tuple[Crop, ...]
    unplaced: tuple[Crop, ...]
    """Backgrounds without a free position in the photo (their position is meaningless)."""


def choose_crops(photo: Photo, *, width: int, height: int, generator: np.random.Generator) -> Chosen:
    """Return faces and backgrounds of a photo of this size; the same generator state gives the same ones."""
    faces = _faces(photo, width, height, generator)
    crops, unplaced, taken = [], [], set[tuple[int, int, int]]()
    for number, (face, box) in enumerate(faces):
        near = box[:2] + box[2:] / 2 if number % 2 == 0 else None
        place = find_place(face.side, photo.boxes, width=width, height=height, generator=generator, near=near)
        crops.append(face)
        if place is None or (*place, face.side) in taken:
            unplaced.append(Crop(BACKGROUND, 0, 0, face.side, face.size))
        else:
            taken.add((*place, face.side))
            crops.append(Crop(BACKGROUND, *place, face.side, face.size))
    return Chosen(tuple(crops), tuple(unplaced))


def find_place(
    side: int,
    boxes: Boxes,
    *,
    width: int,
    height: int,
    generator: np.random.Generator,
    near: NDArray[np.float64] | None = None,
) -> tuple[int, int] | None:
    """Return left and top of a square without faces, `near` a point (x, y) or anywhere; None if none was found."""
    room = np.array([width - side, height - side])
    if room.min() < 0:
        return None
    if near is None:
        corners = generator.integers(0, room + 1, size=(TRIES, 2))
    else:
        centers = near + side * generator.uniform(-NEIGHBORHOOD, NEIGHBORHOOD, size=(TRIES, 2))
        corners = np.clip(np.rint(centers - side / 2).astype(np.int64), 0, room)
    free = np.flatnonzero(largest_overlaps(corners, side, boxes) <= OVERLAP)
    return None if len(free) == 0 else (int(corners[free[0], 0]), int(corners[free[0], 1]))


def largest_overlaps(corners: NDArray[np.int64], side: int, boxes: Boxes) -> NDArray[np.float64]:
    """[K] of squares with corners [K, 2]: shared area over the smaller one's, of the box where it is largest."""
    if len(boxes) == 0:
        return np.zeros(len(corners))
    sizes = np.maximum(boxes[:, 2:], 1)  # A box without width still marks a face.
    low = np.maximum(corners[:, None], boxes[None, :, :2])
    high = np.minimum(corners[:, None] + side, boxes[None, :, :2] + sizes[None])
    shared = np.maximum(high - low, 0).prod(axis=2)
    largest: NDArray[np.float64] = (shared / np.minimum(sizes.prod(axis=1), side * side)).max(axis=1)
    return largest


def size_of(height: int) -> int:
    """Return the size class of a face of `height` >= `SMALLEST` pixels."""
    return sum(height >= least for least, _ in SIZES) - 1


def _faces(photo: Photo, width: int, height: int, generator: np.random.Generator) -> list[tuple[Crop, Boxes]]:
    usable = [box for box, invalid in zip(np.unique(photo.boxes, axis=0), _invalid(photo), strict=True) if not invalid]
    by_size: list[list[Boxes]] = [[] for _ in SIZES]
    for box in usable:
        if _is_usable(box, width, height):
            by_size[size_of(int(box[3]))].append(box)
    chosen = _in_turn([[group[i] for i in generator.permutation(len(group))] for group in by_size], MAX_FACES)
    return [(_square(box, width, height), box) for box in chosen]


def _invalid(photo: Photo) -> list[bool]:
    """Return for each distinct box, in the order of `np.unique`, whether any occurrence is marked invalid."""
    _, which = np.unique(photo.boxes, axis=0, return_inverse=True)
    marked = np.zeros(0 if len(which) == 0 else int(which.max()) + 1, dtype=np.bool_)
    np.logical_or.at(marked, which.reshape(-1), photo.invalid)
    return [bool(value) for value in marked]


def _is_usable(box: Boxes, width: int, height: int) -> bool:
    x, y, wide, high = (int(value) for value in box)
    if high < SMALLEST or wide < NARROWEST_SHARE * high:
        return False
    inside = max(0, min(x + wide, width) - max(x, 0)) * max(0, min(y + high, height) - max(y, 0))
    return inside >= INSIDE_SHARE * wide * high


def _in_turn(groups: Sequence[Sequence[Boxes]], limit: int) -> list[Boxes]:
    """Take from the groups in turn until all, or `limit`, are taken."""
    chosen: list[Boxes] = []
    for turn in range(max((len(group) for group in groups), default=0)):
        for group in groups:
            if turn < len(group) and len(chosen) < limit:
                chosen.append(group[turn])
    return chosen


def _square(box: Boxes, width: int, height: int) -> Crop:
    x, y, wide, high = (int(value) for value in box)
    side = min(round(max(wide, high) * (1 + 2 * MARGIN)), width, height)
    left = min(max(round(x + (wide - side) / 2), 0), width - side)
    top = min(max(round(y + (high - side) / 2), 0), height - side)
    return Crop(FACE, left, top, side, size_of(high))
