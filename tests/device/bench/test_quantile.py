import numpy as np
import pytest

from targets.device.bench.statistics import median, quantiles

SHARES = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 299, 1000])
def test_they_are_numpys(count: int) -> None:
    values = np.random.default_rng(count).exponential(1.0, count)
    assert quantiles(values, SHARES) == pytest.approx(np.quantile(values, SHARES).tolist())
    assert median(values.tolist()) == pytest.approx(float(np.median(values)))
