"""Faces and backgrounds keep the rules that are stated for them, whatever the boxes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.wider_face.annotations import Photo
from pipeline.data.wider_face.crops import (
    BACKGROUND,
    FACE,
    MARGIN,
    MAX_FACES,
    OVERLAP,
    SMALLEST,
    Chosen,
    choose_crops,
    find_place,
    largest_overlaps,
    size_of,
)

WIDTH, HEIGHT = 300, 200


def photo(*boxes: tuple[int, int, int, int], invalid: tuple[int, ...] = ()) -> Photo:
    flags = np.array([index in invalid for index in range(len(boxes))], dtype=np.bool_)
    return Photo(path="0--A/a.jpg", line=1, boxes=np.array(boxes, dtype=np.int64).reshape(-1, 4), invalid=flags)


def chosen(of: Photo, seed: int = 0, width: int = WIDTH, height: int = HEIGHT) -> Chosen:
    return choose_crops(of, width=width, height=height, generator=np.random.default_rng(seed))


def overlap(crop: tuple[int, int, int], box: tuple[int, int, int, int]) -> float:
    """Counted pixel by pixel, on a canvas with room for whatever sticks out."""
    squares = np.zeros((2, 600, 700), dtype=np.bool_)
    left, top, side = crop
    x, y, w, h = box
    squares[0, 200 + top : 200 + top + side, 200 + left : 200 + left + side] = True
    squares[1, 200 + y : 200 + y + max(h, 1), 200 + x : 200 + x + max(w, 1)] = True
    return float((squares[0] & squares[1]).sum() / min(squares[0].sum(), squares[1].sum()))


BOXES = st.lists(
    st.tuples(st.integers(-20, 299), st.integers(-20, 199), st.integers(0, 120), st.integers(0, 120)), max_size=12
)


@settings(max_examples=60, deadline=None)
@given(boxes=BOXES, seed=st.integers(0, 100))
def test_no_background_holds_a_face_and_every_crop_lies_in_the_photo(
    boxes: list[tuple[int, int, int, int]], seed: int
) -> None:
    found = chosen(photo(*boxes, invalid=(0, 3)), seed)
    for crop in found.crops:
        assert 0 <= crop.left <= WIDTH - crop.side
        assert 0 <= crop.top <= HEIGHT - crop.side
        if crop.label == BACKGROUND:
            assert all(overlap((crop.left, crop.top, crop.side), box) <= OVERLAP for box in boxes)
    faces = sorted((crop.side, crop.size) for crop in found.crops if crop.label == FACE)
    others = [(crop.side, crop.size) for crop in found.crops if crop.label == BACKGROUND]
    assert sorted(others + [(crop.side, crop.size) for crop in found.unplaced]) == faces


def test_a_face_is_cut_square_with_its_margin_in_the_middle() -> None:
    (face, *_) = chosen(photo((100, 80, 30, 40))).crops
    assert (face.label, face.side) == (FACE, round(40 * (1 + 2 * MARGIN)))
    assert (face.left + face.side / 2, face.top + face.side / 2) == (115, 100)


def test_a_face_at_the_border_is_moved_in_and_one_larger_than_the_photo_fills_it() -> None:
    assert (chosen(photo((0, 0, 30, 40))).crops[0].left, chosen(photo((0, 0, 30, 40))).crops[0].top) == (0, 0)
    huge = chosen(photo((20, 0, 180, 200))).crops[0]
    assert (huge.side, huge.top) == (200, 0)


@pytest.mark.parametrize(
    ("box", "invalid"),
    [
        pytest.param((50, 50, 6, SMALLEST - 1), (), id="too small"),
        pytest.param((50, 50, 0, 23), (), id="no width"),
        pytest.param((50, 50, 23, 0), (), id="no height"),
        pytest.param((50, 50, 6, 23), (), id="a sliver"),
        pytest.param((-15, 50, 30, 40), (), id="half outside"),
        pytest.param((400, 50, 30, 40), (), id="outside"),
        pytest.param((50, 50, 30, 40), (0,), id="invalid"),
    ],
)
def test_what_is_no_sample_is_still_no_background(box: tuple[int, int, int, int], invalid: tuple[int, ...]) -> None:
    found = chosen(photo(box, (200, 100, 30, 40), invalid=invalid))
    assert [crop.left for crop in found.crops if crop.label == FACE] == [185]
    for crop in found.crops[1:]:
        assert overlap((crop.left, crop.top, crop.side), box) <= OVERLAP


def test_a_duplicate_counts_once_and_is_invalid_where_one_of_the_two_is() -> None:
    box = (100, 80, 30, 40)
    assert sum(crop.label == FACE for crop in chosen(photo(box, box)).crops) == 1
    assert chosen(photo(box, box, invalid=(1,))).crops == ()


def test_a_crowd_gives_its_share_of_every_size() -> None:
    small = [(x, y, 6, 8) for x in range(0, 300, 8) for y in range(0, 100, 10)]
    large = [(x, 120, 30, 40) for x in range(0, 270, 33)]
    faces = [crop for crop in chosen(photo(*small, *large)).crops if crop.label == FACE]
    assert len(faces) == MAX_FACES
    assert sum(crop.size == size_of(40) for crop in faces) == len(large)


def test_a_seed_decides() -> None:
    crowd = photo(*[(x, 20, 9, 12) for x in range(0, 290, 10)])
    assert chosen(crowd, seed=1) == chosen(crowd, seed=1)
    assert chosen(crowd, seed=1) != chosen(crowd, seed=2)


def test_a_background_that_finds_no_place_is_left_open() -> None:
    found = chosen(photo((0, 0, 150, 200), (150, 0, 150, 200)))
    assert [crop.label for crop in found.crops] == [FACE, FACE]
    assert [crop.label for crop in found.unplaced] == [BACKGROUND, BACKGROUND]


def test_overlaps_are_those_of_counted_pixels() -> None:
    generator = np.random.default_rng(0)
    boxes = np.column_stack([generator.integers(-20, 250, (9, 2)), generator.integers(0, 100, (9, 2))])
    corners = generator.integers(0, 150, (20, 2))
    found = largest_overlaps(corners, 40, boxes)
    for corner, value in zip(corners.tolist(), found, strict=True):
        assert value == pytest.approx(max(overlap((*corner, 40), tuple(box)) for box in boxes.tolist()))


def test_no_place_is_found_where_the_square_is_larger_than_the_photo() -> None:
    none = np.zeros((0, 4), dtype=np.int64)
    assert find_place(60, none, width=59, height=90, generator=np.random.default_rng(0)) is None
    assert find_place(59, none, width=59, height=59, generator=np.random.default_rng(0)) == (0, 0)


@pytest.mark.parametrize(("height", "size"), [(8, 0), (15, 0), (16, 1), (31, 1), (32, 2), (64, 3), (127, 3), (900, 4)])
def test_size_classes(height: int, size: int) -> None:
    assert size_of(height) == size
