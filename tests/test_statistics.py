"""Sets of images that cannot prove anything: too few, or with a float model that only guesses."""

import numpy as np
import pytest
from scipy.stats import binom

from pipeline.errors import DataError
from pipeline.statistics import check_above_chance, too_small_warning


def test_warning_where_the_gate_is_too_small() -> None:
    assert too_small_warning(846, 1.0) is None
    assert too_small_warning(100, 5.0) is None
    few = too_small_warning(500, 1.0)
    assert few is not None
    assert "500 images, few" in few
    assert "649" in few
    too_few = too_small_warning(267, 1.0)
    assert too_few is not None
    assert "too few" in too_few
    assert "268" in too_few
    no_loss_allowed = too_small_warning(10_000, 0.0)
    assert no_loss_allowed is not None
    assert "measurably better" in no_loss_allowed


@pytest.mark.parametrize(("top1", "classes", "images"), [(0.1, 10, 800), (0.13, 10, 800), (0.0, 2, 60), (0.5, 2, 60)])
def test_a_model_that_guesses_is_an_error_that_names_the_suspects(top1: float, classes: int, images: int) -> None:
    with pytest.raises(DataError, match=r"preprocessing.*order of the classes") as caught:
        check_above_chance(top1, classes=classes, images=images)
    assert f"{100 * top1:.2f} %" in str(caught.value)
    assert f"{images} images" in str(caught.value)


@pytest.mark.parametrize(
    ("top1", "classes", "images"), [(0.14, 10, 800), (0.03, 1000, 800), (0.75, 2, 60), (0.0, 10, 29)]
)
def test_a_model_that_does_better_than_guessing_passes(top1: float, classes: int, images: int) -> None:
    check_above_chance(top1, classes=classes, images=images)


def test_a_guessing_model_is_found_999_times_of_1000() -> None:
    rights = np.arange(201)
    chances = binom.pmf(rights, 200, 0.1)
    let_through = 0.0
    for right, chance in zip(rights.tolist(), chances.tolist(), strict=True):
        try:
            check_above_chance(right / 200, classes=10, images=200)
        except DataError:
            continue
        let_through += chance
    assert 0.0001 < let_through <= 0.001
