"""Check whether a series of latencies is stable: the same level in every window, and no trend across them.

The series is split into ten consecutive windows, each summarized by its median, which outliers do
not affect. Three conditions apply to the ten medians:

- *precision*: each is known to 1 % (its standard error, from the spread in its window); otherwise it is undecidable.
- *drift*: the Theil-Sen line through them changes by at most 2 % from the first to the last.
- *level*: the highest is at most 5 % above the lowest, or a Kruskal-Wallis test cannot tell the windows apart
  (p >= 0.001). It finds steps and slow waves.

A measurement checks after every window until all three hold, so none may pass by chance. A test that merely finds
no trend (Mann-Kendall at 1 % was tried) lets every series of 30 runs a window with 5 % noise pass that drifts by 7 %
in ten windows, in one of fifty checks; a line that must be flat to 2 %, and is known to 1 %, hardly any, while stable
series pass at once. Size alone (perf_analyzer: three windows within 10 %) calls noisy models unstable by chance, and
fast ones stable while they warm up by 3 %. nvbench's entropy criterion asks whether enough different values were seen,
not whether their level stays.

Quantiles equal numpy's, whose own functions, like its `unique`, load numpy.ma, which the container images omit.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import List, Sequence, Union

import numpy as np
from numpy.typing import NDArray

Values = Union[Sequence[float], NDArray[np.float64]]


def quantiles(values: Values, shares: Sequence[float]) -> List[float]:
    """Return the quantiles at `shares` from 0 to 1, with linear interpolation; `values` must not be empty."""
    ordered = np.sort(np.asarray(values, np.float64))
    places = np.array(shares) * (len(ordered) - 1)
    return [float(found) for found in np.interp(places, np.arange(len(ordered)), ordered)]


def median(values: Values) -> float:
    return quantiles(values, (0.5,))[0]


WINDOWS = 10
MIN_RUNS = 299
"""With fewer runs, not even the slowest one bounds the 99th percentile with 95 % confidence: 0.99 ** 298 > 0.05."""
SPREAD = 0.05
DRIFT = 0.02
SPREAD_CHANCE = 0.001
PRECISION = 0.01
# For a normal distribution: deviation / median absolute deviation, standard error of the median / of the mean.
DEVIATION, MEDIAN_ERROR = 1.4826, 1.2533
# Maximum runs per window in the test: more find only irrelevant differences, and take time between two windows.
TESTED_RUNS = 500

Array = NDArray[np.float64]


def find_instability(windows: Sequence[Array]) -> List[str]:
    """Return the reasons why the latencies [runs] of these windows are not stable; empty if they are.

    Fewer than ten windows are judged by the same rules, with less power.
    """
    medians = np.array([median(window) for window in windows])
    return [*_precision(windows), *_level(windows, medians), *_drift(medians)]


def standard_error(window: Array) -> float:
    """Return the standard error of the median latency, as a fraction of it."""
    middle = median(window)
    return MEDIAN_ERROR * DEVIATION * median(np.abs(window - middle)) / math.sqrt(len(window)) / middle


def _precision(windows: Sequence[Array]) -> List[str]:
    error = median([standard_error(window) for window in windows])
    if error <= PRECISION:
        return []
    return [f"too noisy: the median of a window is known to {error:.1%} (at most {PRECISION:.0%}); measure more runs"]


def _level(windows: Sequence[Array], medians: Array) -> List[str]:
    spread = float(medians.max() / medians.min() - 1)
    if len(medians) < 2 or spread <= SPREAD or kruskal_wallis([_some(window) for window in windows]) >= SPREAD_CHANCE:
        return []
    return [
        f"the level changes: medians of the {len(medians)} windows are up to {spread:.1%} apart (at most {SPREAD:.0%})"
    ]


def _drift(medians: Array) -> List[str]:
    change = theil_sen(medians) * (len(medians) - 1) / median(medians)
    if abs(change) <= DRIFT:
        return []
    return [f"still drifting: {change:+.1%} from the first window to the last (at most {DRIFT:.0%})"]


def theil_sen(values: Array) -> float:
    """Return the median slope of all pairs, per step."""
    slopes = [(values[j] - values[i]) / (j - i) for i, j in combinations(range(len(values)), 2)]
    return median(slopes) if slopes else 0.0


def kruskal_wallis(groups: Sequence[Array]) -> float:
    """Return the p-value that all groups have the same distribution (Kruskal & Wallis 1952)."""
    values = np.concatenate(groups)
    ranks = _ranks(values)
    total, start, score = len(values), 0, 0.0
    for group in groups:
        score += float(ranks[start : start + len(group)].sum()) ** 2 / len(group)
        start += len(group)
    statistic = 12 / (total * (total + 1)) * score - 3 * (total + 1)
    counts = _run_lengths(np.sort(values))
    ties = 1 - float((counts**3 - counts).sum()) / (total**3 - total)
    return chi_square_tail(statistic / ties, len(groups) - 1) if ties > 0 else 1.0


def chi_square_tail(value: float, freedom: int) -> float:
    """Return P(X > `value`) by Wilson and Hilferty's approximation: within a fifth of it down to 0.001."""
    if value <= 0:
        return 1.0
    spread = 2 / (9 * freedom)
    return 0.5 * math.erfc(((value / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(2 * spread))


def _ranks(values: Array) -> Array:
    """Return ranks from 1; equal values get their mean rank."""
    order = np.argsort(values, kind="stable")
    counts = _run_lengths(values[order])
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(np.cumsum(counts) - (counts - 1) / 2, counts.astype(int))
    return ranks


def _run_lengths(ordered: Array) -> Array:
    """Count each value of a sorted array; numpy.unique needs numpy.ma, which the container images omit."""
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return np.diff(np.append(starts, len(ordered))).astype(np.float64)


def _some(window: Array) -> Array:
    """Return at most TESTED_RUNS of the window, evenly spaced."""
    return window[:: -(-len(window) // TESTED_RUNS)]
