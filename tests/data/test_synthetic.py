"""Drawings: the same for the same seed, of the size asked for, and none like another."""

import numpy as np

from pipeline.data.synthetic import draw_images


def test_shape_seed_and_variety() -> None:
    first = draw_images(20, height=24, width=32)
    assert first.shape == (20, 24, 32, 3)
    assert first.dtype == np.uint8
    assert (first == draw_images(20, height=24, width=32)).all()
    assert (first != draw_images(20, height=24, width=32, seed=1)).any()
    assert len(np.unique(first.reshape(20, -1), axis=0)) == 20
    assert np.mean(first.reshape(20, -1).std(axis=1) > 10) > 0.8
