"""Exchanged classes are found and named; confused ones, however badly, are not taken for exchanged."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.errors import DataError
from pipeline.load.class_order import check_class_order

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")


def answers(order: list[int], *, images: int = 40, right: float = 0.9, seed: int = 0) -> tuple[NDArray, NDArray]:  # type: ignore[type-arg]
    """Logits and labels where the network answers class c with output order[c], in a share of `right`."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(order)), images)
    given = np.where(
        rng.random(len(labels)) < right, np.array(order)[labels], rng.integers(0, len(order), len(labels))
    )
    logits = rng.random((len(labels), len(order))).astype(np.float32)
    logits[np.arange(len(labels)), given] += 2
    return logits, labels


def test_two_exchanged_classes_are_named_with_the_order_of_training() -> None:
    with pytest.raises(DataError, match=r"bee -> dog, dog -> bee\)") as caught:
        check_class_order(*answers([0, 3, 2, 1, 4, 5]), CLASSES)
    assert 'classes = ["ant", "dog", "cat", "bee", "eel", "fox"]' in str(caught.value)


def test_a_wholly_other_order_is_found() -> None:
    # The network's output for "ant" is 2, and so on: training order is that of the outputs.
    with pytest.raises(DataError, match=r'classes = \["fox", "eel", "ant", "bee", "cat", "dog"\]'):
        check_class_order(*answers([2, 3, 4, 5, 1, 0]), CLASSES)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("right", [0.0, 0.2, 0.5, 0.95])
def test_a_network_that_is_merely_bad_passes(seed: int, right: float) -> None:
    check_class_order(*answers([0, 1, 2, 3, 4, 5], right=right, seed=seed), CLASSES)


def test_a_network_that_takes_half_of_one_class_for_another_passes() -> None:
    logits, labels = answers([0, 1, 2, 3, 4, 5], right=1.0)
    confused = np.flatnonzero(labels == 1)[::2]
    logits[confused, 3] += 9
    check_class_order(logits, labels, CLASSES)


def test_few_images_prove_no_exchange() -> None:
    check_class_order(*answers([0, 3, 2, 1, 4, 5], images=3, right=1.0), CLASSES)


def test_many_classes_are_not_all_listed() -> None:
    names = tuple(f"class{index}" for index in range(100))
    order = [*range(50, 100), *range(50)]
    with pytest.raises(DataError, match=r"and 80 more\).*classes = \[\.\.\.\]"):
        check_class_order(*answers(order, images=8), names)
