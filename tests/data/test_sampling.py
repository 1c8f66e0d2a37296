"""Splits of photos that are whole: every group keeps about its share."""

import numpy as np
import pytest

from pipeline.data.sampling import without_splitting


def clustered(seed: int) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], list[str]]:
    """200 photos of 1 to 40 images, whose groups come in clusters; one group is rare."""
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 41, 200)
    origins = np.repeat(np.arange(200), sizes)
    favorite = generator.choice(["small", "large", "rare"], size=200, p=[0.6, 0.35, 0.05])
    return origins, [str(favorite[origin]) if generator.random() < 0.8 else "background" for origin in origins]


@pytest.mark.parametrize("seed", range(8))
def test_whole_photos_and_every_group_s_share(seed: int) -> None:
    origins, groups = clustered(seed)
    rest, chosen = without_splitting(origins, groups, count=len(origins) // 10, seed=seed)
    assert sorted([*rest, *chosen]) == list(range(len(origins)))
    assert not set(origins[rest]) & set(origins[chosen])
    assert len(chosen) == pytest.approx(len(origins) / 10, rel=0.25)
    for name in ("small", "large", "background"):
        share = sum(groups[index] == name for index in chosen) / groups.count(name)
        assert 0.05 < share < 0.16, name


def test_the_seed_decides() -> None:
    origins, groups = clustered(0)
    first, again, other = (without_splitting(origins, groups, count=300, seed=seed)[1] for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


def test_something_is_left_of_a_single_photo() -> None:
    rest, chosen = without_splitting(np.zeros(9, dtype=np.int64), ["a"] * 9, count=5, seed=0)
    assert (len(rest), len(chosen)) == (9, 0)
