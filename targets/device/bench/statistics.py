"""Whether a series of latencies stands still: the same level in every window, and no trend across them.

The series is cut into ten windows one after the other, each of which is summed up by its median, which outliers do
not move. Three things are asked of the ten medians:

- *precision*: each is known to 1 % (its standard error, from the spread in its window); else nothing can be told.
- *drift*: the Theil-Sen line through them changes by at most 2 % from the first to the last.
- *level*: the highest is at most 5 % above the lowest, or a Kruskal-Wallis test cannot tell the windows apart
  (p >= 0.001). It finds steps and slow waves.

A measurement looks again after every window until all three hold, so none may pass by luck. A test that merely finds
no trend (Mann-Kendall at 1 % was tried) lets every series of 30 runs a window with 5 % noise pass that drifts by 7 %
in ten windows, at one of fifty looks; a line that must be flat to 2 %, and is known to 1 %, hardly any, while steady
series pass at once. Size alone (perf_analyzer: three windows within 10 %) calls noisy models unstable by chance, and
fast ones stable while they warm up by 3 %. nvbench's entropy criterion asks whether enough different values were seen,
not whether their level stays.

Quantiles as numpy's: its own functions, like its `unique`, load numpy.ma, which images leave out.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import List, Sequence, Union

import numpy as np
from numpy.typing import NDArray

Values = Union[Sequence[float], NDArray[np.float64]]


def quantiles(values: Values, shares: Sequence[float]) -> List[float]:
    """Of each share from 0 to 1, linear between the two nearest of the values, of which there is one or more."""
    ordered = np.sort(np.asarray(values, np.float64))
    places = np.array(shares) * (len(ordered) - 1)
    return [float(found) for found in np.interp(places, np.arange(len(ordered)), ordered)]


def median(values: Values) -> float:
    return quantiles(values, (0.5,))[0]


WINDOWS = 10
LEAST_RUNS = 299
"""With fewer, not even the slowest run bounds the 99th percentile with 95 % confidence: 0.99 ** 298 > 0.05."""
SPREAD = 0.05
DRIFT = 0.02
SPREAD_CHANCE = 0.001
PRECISION = 0.01
# Of a normal distribution: deviation by median absolute deviation, standard error of the median by that of the mean.
DEVIATION, MEDIAN_ERROR = 1.4826, 1.2533
# Of a window: a test of more finds no difference that matters, and takes time between two windows.
TESTED_RUNS = 500

Array = NDArray[np.float64]


def find_instability(windows: Sequence[Array]) -> List[str]:
    """Why the latencies [runs] of these windows do not stand still, in words; nothing where they do.

    Fewer than ten windows are judged by the same rules, which find less in them.
    """
    medians = np.array([median(window) for window in windows])
    return [*_precision(windows), *_level(windows, medians), *_drift(medians)]


def standard_error(window: Array) -> float:
    """Of the median of these latencies, as a share of it."""
    middle = median(window)
    return MEDIAN_ERROR * DEVIATION * median(np.abs(window - middle)) / math.sqrt(len(window)) / middle


def _precision(windows: Sequence[Array]) -> List[str]:
    error = median([standard_error(window) for window in windows])
    if error <= PRECISION:
        return []
    return [
        f"too noisy to tell: the median of a window is known to {error:.1%} (at most {PRECISION:.0%}); take more runs"
    ]


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
    """The median of the slopes between all pairs, per step."""
    slopes = [(values[j] - values[i]) / (j - i) for i, j in combinations(range(len(values)), 2)]
    return median(slopes) if slopes else 0.0


def kruskal_wallis(groups: Sequence[Array]) -> float:
    """The chance of such different groups where all are of one distribution (Kruskal & Wallis 1952)."""
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
    """The chance of more than `value`, by Wilson and Hilferty: within a fifth of it down to 0.001."""
    if value <= 0:
        return 1.0
    spread = 2 / (9 * freedom)
    return 0.5 * math.erfc(((value / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(2 * spread))


def _ranks(values: Array) -> Array:
    """From 1; equal values share the mean of theirs."""
    order = np.argsort(values, kind="stable")
    counts = _run_lengths(values[order])
    ranks = np.empty(len(values))
    ranks[order] = np.repeat(np.cumsum(counts) - (counts - 1) / 2, counts.astype(int))
    return ranks


def _run_lengths(ordered: Array) -> Array:
    """How often each value of a sorted array is there; numpy.unique needs numpy.ma, which our images leave out."""
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return np.diff(np.append(starts, len(ordered))).astype(np.float64)


def _some(window: Array) -> Array:
    """At most TESTED_RUNS of it, evenly spread."""
    return window[:: -(-len(window) // TESTED_RUNS)]
