"""Detect classes in another order than in training, by the network's answers to its training images.

A network that nearly always takes cats for dogs and dogs for cats has learned both; their names are swapped. The
assignment of classes to outputs with the most correct images (Kuhn 1955) is found on one half of the images and
tested on the other half, so that it is not chosen by chance. The gate's images are not used.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest

from pipeline.errors import DataError

SIGNIFICANCE = 1e-3
MAX_NAMES = 20


def check_class_order(logits: NDArray[np.float32], labels: NDArray[np.int64], classes: Sequence[str]) -> None:
    """Raise `DataError` with the names if another order is far more accurate; logits [N, C] and labels [N]."""
    predicted = logits.argmax(axis=1)
    is_first = _every_second_of_each(labels)
    order = _best_order(predicted[is_first], labels[is_first], len(classes))
    moved = np.flatnonzero(order != np.arange(len(classes)))
    tested = ~is_first & np.isin(labels, moved)
    won = int(np.count_nonzero(predicted[tested] == order[labels[tested]]))
    lost = int(np.count_nonzero(predicted[tested] == labels[tested]))
    if won <= lost or binomtest(won, won + lost, 0.5, alternative="greater").pvalue >= SIGNIFICANCE:
        return
    right = int(np.count_nonzero(predicted[~is_first] == labels[~is_first]))
    raise DataError(_message(classes, order, moved, right, right + won - lost, int(np.count_nonzero(~is_first))))


def _every_second_of_each(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return a mask of half of every class's images."""
    chosen = np.zeros(len(labels), dtype=np.bool_)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[::2]] = True
    return chosen


def _best_order(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Return for each class [C] the output that matches it; its own if no other is better."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (labels, predicted), 1.0)
    _, order = linear_sum_assignment(counts + 0.5 * np.eye(classes), maximize=True)
    return np.asarray(order, dtype=np.int64)


def _message(
    classes: Sequence[str], order: NDArray[np.int64], moved: NDArray[np.int64], right: int, better: int, images: int
) -> str:
    pairs = [f"{classes[label]} -> {classes[order[label]]}" for label in moved]
    more = f" and {len(pairs) - MAX_NAMES} more" if len(pairs) > MAX_NAMES else ""
    text = (
        f"the classes are not in the order of training: for images of one class the network predicts another "
        f"({', '.join(pairs[:MAX_NAMES])}{more}). {right} of {images} training images are correct; with these "
        f"classes swapped {better} would be."
    )
    if len(classes) > MAX_NAMES:
        return f"{text} Check the folders' names, or give classes = [...] in training order in deploy.toml."
    trained = [""] * len(classes)
    for label, output in enumerate(order.tolist()):
        trained[output] = classes[label]
    names = ", ".join(f'"{name}"' for name in trained)
    return f"{text} Check the folders' names; if they are right, set classes = [{names}] in deploy.toml."
