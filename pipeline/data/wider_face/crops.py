"""Where faces and backgrounds are cut from a photo: squares, chosen by rules that are stated here.

**Faces**: valid boxes at least `SMALLEST` pixels high, at least a third as wide, and with four fifths of their area in
the photo. The square's side is the box's longer side and `MARGIN` of it on either side; it is moved into the photo
where it would reach out of it, and is never larger than the photo. A photo gives `MOST_FACES` at most, in turn of
every size.

**Backgrounds**: one for each face, of the very same side, so that size tells nothing; every other one from the
neighborhood of its face, the rest from anywhere in the photo. None may share more than `OVERLAP` of its own area, or
of the box's where that is smaller, with any box of the annotations, the smallest and the invalid ones included. That
keeps its IoU with every box below OVERLAP / (2 - OVERLAP) = 0.11. Faces that nobody has annotated cannot be avoided.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.data.wider_face.annotations import Boxes, Photo

RULES = 1
"""Raised whenever the rules change: crops that were found by others are then found again."""
SMALLEST = 8
"""Pixels: below, even people see no face in a crop by itself."""
NARROWEST_SHARE = 1 / 3
INSIDE_SHARE = 0.8
MARGIN = 0.25
MOST_FACES = 48
"""Of one photo: a crowd of 1,900 shall not outweigh a hundred portraits."""
OVERLAP = 0.2
NEIGHBORHOOD = 2.0
"""How far from a face's center a background's may be, in sides of the square, along either axis."""
TRIES = 48
"""Random positions for a background before it is looked for elsewhere."""

CLASSES = ("background", "face")
BACKGROUND, FACE = 0, 1
SIZES = ((8, "8-15 px"), (16, "16-31 px"), (32, "32-63 px"), (64, "64-127 px"), (128, "128 px and more"))
"""Least height of a face's box in pixels of its photo, and the name of the size class."""


@dataclass(frozen=True, slots=True)
class Crop:
    """A square of a photo, in pixels."""

    label: int
    left: int
    top: int
    side: int
    size: int
    """The face's size class, or that of the face which a background was made for: an index of `SIZES`."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one photo gives by itself."""

    crops: tuple[Crop, ...]
    unplaced: tuple[Crop, ...]
    """Backgrounds that found no place in it (their position means nothing)."""


def choose_crops(photo: Photo, *, width: int, height: int, generator: np.random.Generator) -> Chosen:
    """Faces and backgrounds of a photo of this size; the same generator state gives the same ones."""
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
    """Left and top of a square that holds no face, `near` a point (x, y) or anywhere; None where none was found."""
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
    sizes = np.maximum(boxes[:, 2:], 1)  # A box of no width still says where a face is.
    low = np.maximum(corners[:, None], boxes[None, :, :2])
    high = np.minimum(corners[:, None] + side, boxes[None, :, :2] + sizes[None])
    shared = np.maximum(high - low, 0).prod(axis=2)
    largest: NDArray[np.float64] = (shared / np.minimum(sizes.prod(axis=1), side * side)).max(axis=1)
    return largest


def size_of(height: int) -> int:
    """Size class of a face of `height` >= `SMALLEST` pixels."""
    return sum(height >= least for least, _ in SIZES) - 1


def _faces(photo: Photo, width: int, height: int, generator: np.random.Generator) -> list[tuple[Crop, Boxes]]:
    usable = [box for box, invalid in zip(np.unique(photo.boxes, axis=0), _invalid(photo), strict=True) if not invalid]
    by_size: list[list[Boxes]] = [[] for _ in SIZES]
    for box in usable:
        if _is_usable(box, width, height):
            by_size[size_of(int(box[3]))].append(box)
    chosen = _in_turn([[group[i] for i in generator.permutation(len(group))] for group in by_size], MOST_FACES)
    return [(_square(box, width, height), box) for box in chosen]


def _invalid(photo: Photo) -> list[bool]:
    """For each different box, in the order of `np.unique`, whether any of its mentions is marked invalid."""
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
    """One of each group after the other until all, or `limit`, are taken."""
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
