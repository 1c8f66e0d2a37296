"""Which drawings become golden: as many of each predicted class as there are."""

import numpy as np
import pytest

from pipeline.compile.artifact_folder import pick_balanced


@pytest.mark.parametrize(
    ("counts", "least", "expected"),
    [
        ((500, 12), 64, (52, 12)),
        ((256, 256), 64, (256, 256)),
        ((512,), 64, (512,)),
        ((100, 1, 60), 64, (32, 1, 32)),
        ((3, 2), 64, (3, 2)),
    ],
)
def test_as_many_of_each_class_as_there_are(counts: tuple[int, ...], least: int, expected: tuple[int, ...]) -> None:
    predicted = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    chosen = pick_balanced(predicted, least=least)
    assert sorted(set(chosen.tolist())) == chosen.tolist()
    assert tuple(np.bincount(predicted[chosen]).tolist()) == expected
