"""Quantiles as numpy's: its own functions, like its `unique`, load numpy.ma, which images leave out."""

from __future__ import annotations

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
