"""Accuracy by group: counted per group, with Wilson's interval."""

import numpy as np
import pytest
from scipy.stats import binomtest

from pipeline.validate.groups import accuracy_of_groups, wilson_interval


@pytest.mark.parametrize(("right", "images"), [(0, 1), (1, 1), (0, 20), (7, 20), (20, 20), (846, 1000)])
def test_the_interval_is_scipy_s(right: int, images: int) -> None:
    expected = binomtest(right, images).proportion_ci(method="wilson")
    assert wilson_interval(right, images) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_groups_are_counted_by_themselves_and_sorted_by_their_numbers() -> None:
    groups = ["face 16-31 px", "face 8-15 px", "background", "face 8-15 px", "face 128 px and more"]
    labels = np.array([1, 1, 0, 1, 1])
    one_hot = np.eye(2, dtype=np.float32)
    found = accuracy_of_groups(groups, labels, one_hot[[1, 1, 0, 1, 0]], one_hot[[1, 0, 0, 1, 1]])
    assert [group.name for group in found] == ["background", "face 8-15 px", "face 16-31 px", "face 128 px and more"]
    assert [(group.images, group.float_share, group.artifact_share) for group in found] == [
        (1, 1.0, 1.0),
        (2, 1.0, 0.5),
        (1, 1.0, 1.0),
        (1, 0.0, 1.0),
    ]
    assert found[1].artifact_interval == wilson_interval(1, 2)


def test_without_groups_there_is_nothing_to_say() -> None:
    assert (
        accuracy_of_groups((), np.array([0]), np.eye(2, dtype=np.float32)[:1], np.eye(2, dtype=np.float32)[:1]) == ()
    )
